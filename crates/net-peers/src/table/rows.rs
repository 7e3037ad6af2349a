//! The table's rows, and how many of them are connected, kept as they change: every stranger at the door asks for it, and a
//! flood of strangers must not make this node walk through all it knows each time (NET-50, NET-56).

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use super::PeerKey;
use super::entry::Entry;
use crate::discovery::address::AddressGroup;
use crate::peer::Direction;

/// Where a row counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seat {
    /// It has a handshaken connection.
    pub(super) linked: bool,
    /// It is connected, and who dialled.
    pub(super) connected: Option<Direction>,
    /// Neighbours of an inbound peer; `None` where its address has no group.
    pub(super) group: Option<AddressGroup>,
}

/// How many rows there are of each sort.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Crowd {
    linked: usize,
    inbound: usize,
    outbound: usize,
    groups: HashMap<AddressGroup, usize>,
}

impl Crowd {
    /// Peers with a handshaken connection.
    pub(crate) const fn linked(&self) -> usize {
        self.linked
    }

    /// Connected peers that dialled this node.
    pub(crate) const fn inbound(&self) -> usize {
        self.inbound
    }

    /// Connected peers that this node dialled.
    pub(crate) const fn outbound(&self) -> usize {
        self.outbound
    }

    /// Connected peers of one group of neighbours that dialled this node.
    pub(crate) fn inbound_of(&self, group: AddressGroup) -> usize {
        self.groups.get(&group).copied().unwrap_or_default()
    }

    fn moved(&mut self, from: Seat, to: Seat) {
        if from == to {
            return;
        }
        self.leave(from);
        self.linked += usize::from(to.linked);
        self.inbound += usize::from(to.connected == Some(Direction::Inbound));
        self.outbound += usize::from(to.connected == Some(Direction::Outbound));
        if let Some(group) = to.group {
            *self.groups.entry(group).or_default() += 1;
        }
    }

    fn leave(&mut self, seat: Seat) {
        self.linked -= usize::from(seat.linked);
        self.inbound -= usize::from(seat.connected == Some(Direction::Inbound));
        self.outbound -= usize::from(seat.connected == Some(Direction::Outbound));
        let Some(group) = seat.group else { return };
        if let Some(count) = self.groups.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
    }
}

/// All rows. They are read as a map, and changed through [`RowMut`] alone, which counts.
#[derive(Default)]
pub(super) struct Rows {
    rows: HashMap<PeerKey, Entry>,
    crowd: Crowd,
}

impl Rows {
    pub(super) const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    pub(super) fn get_mut(&mut self, key: &PeerKey) -> Option<RowMut<'_>> {
        let entry = self.rows.get_mut(key)?;
        Some(RowMut { entry, crowd: &mut self.crowd })
    }

    /// The row of a key, which is made where there is none.
    pub(super) fn get_or_make(&mut self, key: PeerKey, make: impl FnOnce() -> Entry) -> RowMut<'_> {
        let entry = self.rows.entry(key).or_insert_with(make);
        RowMut { entry, crowd: &mut self.crowd }
    }

    pub(super) fn insert(&mut self, key: PeerKey, mut entry: Entry) {
        entry.counted = Seat::default();
        self.remove(&key);
        drop(self.get_or_make(key, || entry));
    }

    pub(super) fn remove(&mut self, key: &PeerKey) -> Option<Entry> {
        let entry = self.rows.remove(key)?;
        self.crowd.moved(entry.counted, Seat::default());
        Some(entry)
    }
}

impl Deref for Rows {
    type Target = HashMap<PeerKey, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

/// A row that may be changed; when it is let go it is counted anew.
pub(super) struct RowMut<'a> {
    entry: &'a mut Entry,
    crowd: &'a mut Crowd,
}

impl Deref for RowMut<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.entry
    }
}

impl DerefMut for RowMut<'_> {
    fn deref_mut(&mut self) -> &mut Entry {
        self.entry
    }
}

impl Drop for RowMut<'_> {
    fn drop(&mut self) {
        let seat = self.entry.seat();
        self.crowd.moved(self.entry.counted, seat);
        self.entry.counted = seat;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerInfo;
    use crate::reason::DisconnectReason;
    use crate::state::PeerInput;
    use crate::streams::socket_address;
    use libp2p::swarm::ConnectionId;
    use proptest::prelude::*;
    use trellis_primitives::{NodeId, UnixMs};

    #[derive(Clone, Debug)]
    enum Step {
        Session { inbound: bool, address: String },
        Input(PeerInput),
        Linked(usize),
        Unlinked,
        Removed,
        Replaced(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let address = prop_oneof![
            (0..3u8, 0..3u8, 1..4u8)
                .prop_map(|(net, part, host)| format!("/ip4/11.{net}.{part}.{host}/udp/9700/quic-v1")),
            (0..3u8).prop_map(|net| format!("/ip6/2600:1{net}::1/tcp/9700")),
            Just("/dns4/name.example/tcp/9700".to_owned()),
            Just(String::new()),
        ];
        let input = prop_oneof![
            Just(PeerInput::Dial),
            Just(PeerInput::TransportUp),
            Just(PeerInput::HandshakeAccepted),
            Just(PeerInput::NoAnswer),
            Just(PeerInput::Closed(DisconnectReason::Shutdown)),
        ];
        prop_oneof![
            3 => (any::<bool>(), address).prop_map(|(inbound, address)| Step::Session { inbound, address }),
            6 => input.prop_map(Step::Input),
            2 => (0..9usize).prop_map(Step::Linked),
            1 => Just(Step::Unlinked),
            1 => Just(Step::Removed),
            1 => (0..6u8).prop_map(Step::Replaced),
        ]
    }

    fn key(n: u8) -> PeerKey {
        PeerKey::Node(NodeId([n; 32]))
    }

    fn take(rows: &mut Rows, n: u8, step: Step, now: UnixMs) {
        match step {
            Step::Removed => drop(rows.remove(&key(n))),
            Step::Replaced(by) => {
                if let Some(other) = rows.remove(&key(by)) {
                    rows.insert(key(n), other);
                }
            }
            Step::Session { inbound, address } => {
                let direction = if inbound { Direction::Inbound } else { Direction::Outbound };
                rows.get_or_make(key(n), || Entry::new(now)).pretend(direction, address);
            }
            Step::Input(input) => {
                let mut row = rows.get_or_make(key(n), || Entry::new(now));
                row.apply(input, now);
                row.pretend_since(now);
            }
            Step::Linked(id) => {
                let row = &mut rows.get_or_make(key(n), || Entry::new(now));
                row.connections.push(ConnectionId::new_unchecked(id));
            }
            Step::Unlinked => {
                if let Some(mut row) = rows.get_mut(&key(n)) {
                    row.connections.pop();
                }
            }
        }
    }

    /// Everything counted by walking through all rows as commands show them.
    fn naive(rows: &Rows) -> Crowd {
        let infos: Vec<PeerInfo> = rows.iter().map(|(key, entry)| entry.info(key)).collect();
        let connected = |direction: Direction| {
            infos.iter().filter(move |peer| peer.connected_since.is_some() && peer.direction == direction)
        };
        let mut groups = HashMap::new();
        for peer in connected(Direction::Inbound) {
            let address = peer.addresses.first().and_then(|address| address.parse().ok());
            if let Some(group) = address.as_ref().and_then(socket_address).map(AddressGroup::of) {
                *groups.entry(group).or_default() += 1;
            }
        }
        Crowd {
            linked: rows.values().filter(|entry| !entry.connections.is_empty()).count(),
            inbound: connected(Direction::Inbound).count(),
            outbound: connected(Direction::Outbound).count(),
            groups,
        }
    }

    proptest! {
        // row: NET-50, NET-56
        #[test]
        fn what_is_counted_on_the_way_is_what_a_walk_through_all_rows_counts(
            steps in prop::collection::vec((0..6u8, step()), 1..120),
        ) {
            let mut rows = Rows::default();
            for (at, (n, step)) in steps.into_iter().enumerate() {
                take(&mut rows, n, step, UnixMs(at as u64));
                prop_assert_eq!(rows.crowd(), &naive(&rows));
            }
        }
    }
}
