//! The address book (NET-37): where nodes may be, in two tables that no single party can fill.
//!
//! *New* holds what was heard, in buckets chosen by the group of who told it and the group of the address; *tried* holds
//! where this node was connected, in buckets chosen by the group of the address. The choice is keyed by a secret of this
//! node, so nobody can aim. A source group reaches [`NEW_BUCKETS_PER_SOURCE`] buckets of *new*, an address group
//! [`TRIED_BUCKETS_PER_GROUP`] of *tried*: whoever owns one /16 owns at most that share of either table. The design is that
//! of Bitcoin Core's address manager; nothing in *tried* is evicted before it was tested and found dead.
//!
//! Pure: times and randomness come from the caller.

mod slots;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use libp2p::PeerId;
use rand::Rng;
use trellis_primitives::{NodeId, UnixMs};

use self::slots::{Slot, Slots};
use super::address::{AddressGroup, PeerAddress};
use super::hidden::HiddenBook;

/// Buckets of *new*.
pub const NEW_BUCKETS: u16 = 256;
/// Buckets of *new* that one source group reaches.
pub const NEW_BUCKETS_PER_SOURCE: u64 = 16;
/// Buckets of *tried*.
pub const TRIED_BUCKETS: u16 = 64;
/// Buckets of *tried* that one address group reaches.
pub const TRIED_BUCKETS_PER_GROUP: u64 = 4;
/// Addresses in one bucket.
pub const BUCKET_ADDRESSES_MAX: u16 = 64;
/// Places of one address in *new*: sources that told of it independently.
pub const NEW_PLACES_MAX: usize = 4;
/// Addresses of one identity.
pub const NODE_ADDRESSES_MAX: usize = 4;
/// Connected newcomers that wait until the holder of their place in *tried* was tested.
pub const CONTESTS_MAX: usize = 16;
/// An address that nobody told of for this long gives way to any newcomer.
pub const FORGET_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Dials in a row without an answer after which a never-reached address gives way.
pub const FAILURES_NEW_MAX: u32 = 3;
/// Dials in a row without an answer after which a once-reached address gives way.
pub const FAILURES_TRIED_MAX: u32 = 10;
/// The wait between two dials of one address; it quadruples with each failure.
pub const RETRY_MS_MIN: u64 = 1_000;
/// The longest wait between two dials of one address.
pub const RETRY_MS_MAX: u64 = 60 * 60 * 1_000;
/// Random places that are looked at before the tables are searched one by one.
const DRAWS_MAX: usize = 128;

/// An address as a source tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Where, and who should answer there.
    pub address: PeerAddress,
    /// The identity of its node, if a signed record says so.
    pub node: Option<NodeId>,
    /// The group of who tells.
    pub source: AddressGroup,
}

/// What is known of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Who should answer there.
    pub peer: Option<PeerId>,
    /// The identity, if a signed record or a handshake said so.
    pub node: Option<NodeId>,
    /// The group of who told of it first.
    pub source: AddressGroup,
    /// When somebody last told of it.
    pub heard: UnixMs,
    /// When it was last dialled in this run.
    pub dialled: Option<UnixMs>,
    /// When a handshake last succeeded there.
    pub reached: Option<UnixMs>,
    /// Dials without an answer since.
    pub failures: u32,
    place: Place,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    New(Vec<Slot>),
    Tried(Slot),
}

impl Entry {
    /// Whether it is in *tried*.
    #[must_use]
    pub const fn is_tried(&self) -> bool {
        matches!(self.place, Place::Tried(_))
    }

    /// Whether it gives way to a newcomer.
    fn is_stale(&self, now: UnixMs) -> bool {
        let failures_max = if self.reached.is_some() { FAILURES_TRIED_MAX } else { FAILURES_NEW_MAX };
        self.failures >= failures_max || now.ms_since(self.heard) > FORGET_MS
    }

    /// Whether its wait since the last dial is over.
    fn is_due(&self, now: UnixMs) -> bool {
        let wait = 4u64.saturating_pow(self.failures).saturating_mul(RETRY_MS_MIN).min(RETRY_MS_MAX);
        self.dialled.is_none_or(|dialled| now.ms_since(dialled) >= wait)
    }

    /// Chance to be taken when it is drawn, of 65,536: each failure takes a third away.
    fn chance(&self) -> u32 {
        (0..self.failures.min(8)).fold(1 << 16, |chance, _| chance / 3 * 2)
    }
}

/// An address as the file keeps it; when it was dialled last is of one run only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Where, and who should answer there.
    pub address: PeerAddress,
    /// The identity.
    pub node: Option<NodeId>,
    /// The group of who told of it first.
    pub source: AddressGroup,
    /// When somebody last told of it.
    pub heard: UnixMs,
    /// When a handshake last succeeded there.
    pub reached: Option<UnixMs>,
    /// Dials without an answer since.
    pub failures: u32,
    /// Whether it is in *tried*.
    pub tried: bool,
}

/// How many addresses are where.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct BookCounts {
    /// Addresses heard of.
    pub new: usize,
    /// Addresses where a node was reached.
    pub tried: usize,
    /// Nodes with names inside anonymity networks.
    pub hidden: usize,
}

/// The book.
#[derive(Clone, Debug)]
pub struct Book {
    secret: [u8; 32],
    entries: BTreeMap<SocketAddr, Entry>,
    by_node: BTreeMap<NodeId, Vec<SocketAddr>>,
    new: Slots,
    tried: Slots,
    /// Newcomer and the holder of its place.
    contests: VecDeque<(SocketAddr, SocketAddr)>,
    tried_count: usize,
    /// Nodes that are known by names inside anonymity networks.
    pub hidden: HiddenBook,
}

impl Book {
    /// An empty book whose places are chosen by `secret`.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            entries: BTreeMap::new(),
            by_node: BTreeMap::new(),
            new: Slots::new(NEW_BUCKETS),
            tried: Slots::new(TRIED_BUCKETS),
            contests: VecDeque::new(),
            tried_count: 0,
            hidden: HiddenBook::default(),
        }
    }

    /// The secret, for the file.
    #[must_use]
    pub const fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Everything known, in the order of addresses.
    pub fn entries(&self) -> impl Iterator<Item = (SocketAddr, &Entry)> {
        self.entries.iter().map(|(socket, entry)| (*socket, entry))
    }

    /// What is known of one address.
    #[must_use]
    pub fn get(&self, socket: SocketAddr) -> Option<&Entry> {
        self.entries.get(&socket)
    }

    /// How many addresses are where.
    #[must_use]
    pub fn counts(&self) -> BookCounts {
        let (tried, hidden) = (self.tried_count, self.hidden.len());
        BookCounts { new: self.entries.len() - tried, tried, hidden }
    }

    /// Whether a node was ever reached at one of the identity's addresses.
    #[must_use]
    pub fn was_reached(&self, node: NodeId) -> bool {
        if self.hidden.get(node).is_some_and(|hidden| hidden.reached.is_some()) {
            return true;
        }
        let addresses = self.by_node.get(&node).map(Vec::as_slice).unwrap_or_default();
        addresses.iter().any(|socket| self.entries.get(socket).is_some_and(Entry::is_tried))
    }

    /// Takes an address into *new*. `true` if it was not known before.
    pub fn tell(&mut self, told: Told, now: UnixMs) -> bool {
        let socket = told.address.socket;
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.heard = entry.heard.max(now);
            let may_have_another = matches!(&entry.place, Place::New(places) if places.len() < NEW_PLACES_MAX);
            if entry.node.is_none() && (entry.peer.is_none() || entry.peer == told.address.peer) {
                entry.peer = told.address.peer;
                if told.node.is_some() {
                    self.name(socket, told.node);
                }
            }
            if may_have_another {
                self.place_in_new(socket, told.source, now);
            }
            return false;
        }
        if told.node.is_some_and(|node| self.node_is_full(node)) {
            return false;
        }
        self.insert(told, now);
        if !self.place_in_new(socket, told.source, now) {
            self.forget(socket);
            return false;
        }
        true
    }

    /// Takes the addresses of a verified record; those of an older record that were never reached are forgotten.
    /// Returns how many were not known before.
    pub fn tell_record(&mut self, node: NodeId, addresses: &[PeerAddress], source: AddressGroup, now: UnixMs) -> usize {
        let held = self.by_node.get(&node).cloned().unwrap_or_default();
        for socket in held {
            let stays = addresses.iter().any(|address| address.socket == socket);
            if !stays && self.entries.get(&socket).is_some_and(|entry| !entry.is_tried()) {
                self.forget(socket);
            }
        }
        let tell = |address: &&PeerAddress| self.tell(Told { address: **address, node: Some(node), source }, now);
        addresses.iter().take(NODE_ADDRESSES_MAX).filter(tell).count()
    }

    /// A dial begins.
    pub fn dialled(&mut self, socket: SocketAddr, now: UnixMs) {
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.dialled = Some(now);
        }
    }

    /// A dial ended without a node. A name that was only claimed for the address is forgotten: whoever lives there
    /// answers the next dial, and a false claim costs one dial.
    pub fn failed(&mut self, socket: SocketAddr, now: UnixMs) {
        let Some(entry) = self.entries.get_mut(&socket) else { return };
        entry.dialled = Some(now);
        entry.failures = entry.failures.saturating_add(1);
        if entry.reached.is_none() {
            entry.peer = None;
            self.name(socket, None);
        }
        self.settle_contests(socket, false, now);
    }

    /// A dial ended in a refusal by whoever is there, because it is full for example: it lives, so it keeps its place, and
    /// is left alone for a while.
    pub fn refused(&mut self, socket: SocketAddr, now: UnixMs) {
        let Some(entry) = self.entries.get_mut(&socket) else { return };
        entry.dialled = Some(now);
        let failures_max = if entry.reached.is_some() { FAILURES_TRIED_MAX } else { FAILURES_NEW_MAX };
        let waits = entry.failures.saturating_add(1).min(failures_max - 1);
        entry.failures = entry.failures.max(waits);
        self.settle_contests(socket, true, now);
    }

    /// A handshake succeeded at an address that this node dialled: it moves to *tried*, unless its place there is held;
    /// then the holder is to be tested first.
    pub fn reached(&mut self, address: PeerAddress, node: NodeId, source: AddressGroup, now: UnixMs) {
        let socket = address.socket;
        if !self.entries.contains_key(&socket) {
            self.make_room_for(node);
            self.insert(Told { address, node: Some(node), source }, now);
        }
        let Some(entry) = self.entries.get_mut(&socket) else { return };
        entry.peer = address.peer.or(entry.peer);
        entry.heard = entry.heard.max(now);
        entry.dialled = Some(now);
        entry.reached = Some(now);
        entry.failures = 0;
        let tried = entry.is_tried();
        if self.entries.get(&socket).is_some_and(|entry| entry.node != Some(node)) {
            self.name(socket, None);
            self.make_room_for(node);
            self.name(socket, Some(node));
        }
        self.settle_contests(socket, true, now);
        if tried {
            return;
        }
        let slot = self.tried_slot(socket);
        match self.tried.at(slot) {
            Some(holder) if !self.entries.get(&holder).is_some_and(|entry| entry.is_stale(now)) => {
                // A newcomer that no place of *new* takes either is met again when it is told of again.
                if self.has_no_place(socket) && !self.place_in_new(socket, source, now) {
                    self.forget(socket);
                } else {
                    self.contest(socket, holder);
                }
            }
            Some(holder) => {
                self.forget(holder);
                self.move_to_tried(socket, slot);
            }
            None => self.move_to_tried(socket, slot),
        }
    }

    /// Everything worth saving, those of *tried* first.
    #[must_use]
    pub fn saved(&self) -> Vec<Saved> {
        let save = |(socket, entry): (SocketAddr, &Entry)| Saved {
            address: PeerAddress { socket, peer: entry.peer },
            node: entry.node,
            source: entry.source,
            heard: entry.heard,
            reached: entry.reached,
            failures: entry.failures,
            tried: entry.is_tried(),
        };
        let mut all: Vec<Saved> = self.entries().map(save).collect();
        all.sort_by_key(|saved| !saved.tried);
        all
    }

    /// Takes an address back at start; times of the future, which a changed clock leaves behind, become now.
    pub fn restore(&mut self, saved: &Saved, now: UnixMs) {
        let socket = saved.address.socket;
        if self.entries.contains_key(&socket) || saved.node.is_some_and(|node| self.node_is_full(node)) {
            return;
        }
        self.insert(Told { address: saved.address, node: saved.node, source: saved.source }, saved.heard.min(now));
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.reached = saved.reached.map(|reached| reached.min(now));
            entry.failures = saved.failures;
        }
        let slot = self.tried_slot(socket);
        if saved.tried && self.tried.at(slot).is_none() {
            self.move_to_tried(socket, slot);
        } else if !self.place_in_new(socket, saved.source, now) {
            self.forget(socket);
        }
    }

    /// Forgets an address for good, for example because it is of another network.
    pub fn forget(&mut self, socket: SocketAddr) {
        let Some(entry) = self.entries.remove(&socket) else { return };
        match entry.place {
            Place::New(places) => places.into_iter().for_each(|slot| self.new.clear(slot)),
            Place::Tried(slot) => {
                self.tried.clear(slot);
                self.tried_count -= 1;
            }
        }
        self.unlist(socket, entry.node);
        self.contests.retain(|(newcomer, holder)| *newcomer != socket && *holder != socket);
    }

    /// Draws an address to connect to: from *tried* and *new* with equal chance, a bucket, then a place in it.
    /// `wanted` filters; those that failed lately wait, those that failed often are drawn less.
    pub fn choose<R: Rng>(
        &self,
        rng: &mut R,
        now: UnixMs,
        wanted: impl Fn(SocketAddr, &Entry) -> bool,
    ) -> Option<SocketAddr> {
        let may =
            |socket: SocketAddr| self.entries.get(&socket).filter(|entry| entry.is_due(now) && wanted(socket, entry));
        for draw in 0..DRAWS_MAX {
            let table = match (self.tried_count > 0, self.tried_count < self.entries.len()) {
                (true, true) if rng.random() => &self.tried,
                (true, false) => &self.tried,
                (_, true) => &self.new,
                (false, false) => return None,
            };
            let Some(socket) = table.draw(rng) else { continue };
            // The chance grows with every draw in vain, so that a book of failures still yields something.
            let grown = u32::try_from(draw).unwrap_or(u32::MAX).saturating_mul(1 << 10);
            if may(socket).is_some_and(|entry| rng.random_range(0..1u32 << 16) < entry.chance().saturating_add(grown)) {
                return Some(socket);
            }
        }
        let start = rng.random_range(0..self.entries.len().max(1));
        let all = self.entries.keys().copied();
        all.clone().skip(start).chain(all.take(start)).find(|socket| may(*socket).is_some())
    }

    /// Draws an address to test: the holder of a contested place first, then anything in *new*.
    pub fn choose_feeler<R: Rng>(
        &self,
        rng: &mut R,
        now: UnixMs,
        wanted: impl Fn(SocketAddr, &Entry) -> bool,
    ) -> Option<SocketAddr> {
        let holders = self.contests.iter().map(|(_, holder)| *holder);
        let due = |socket: &SocketAddr| {
            self.entries.get(socket).is_some_and(|entry| entry.is_due(now) && wanted(*socket, entry))
        };
        let holder = holders.into_iter().find(due);
        holder.or_else(|| self.choose(rng, now, |socket, entry| !entry.is_tried() && wanted(socket, entry)))
    }

    /// An entry without a place; the caller gives it one or forgets it.
    fn insert(&mut self, told: Told, now: UnixMs) {
        let entry = Entry {
            peer: told.address.peer,
            node: None,
            source: told.source,
            heard: now,
            dialled: None,
            reached: None,
            failures: 0,
            place: Place::New(Vec::new()),
        };
        self.entries.insert(told.address.socket, entry);
        self.name(told.address.socket, told.node);
    }

    fn has_no_place(&self, socket: SocketAddr) -> bool {
        matches!(self.entries.get(&socket).map(|entry| &entry.place), Some(Place::New(places)) if places.is_empty())
    }

    fn place_in_new(&mut self, socket: SocketAddr, source: AddressGroup, now: UnixMs) -> bool {
        let slot = self.new_slot(socket, source);
        match self.new.at(slot) {
            Some(holder) if holder == socket => return true,
            Some(holder) => {
                let alone = self.has_no_place(socket);
                let gives_way = self.entries.get(&holder).is_none_or(|entry| {
                    let places = if let Place::New(places) = &entry.place { places.len() } else { 0 };
                    entry.is_stale(now) || (alone && places > 1)
                });
                if !gives_way {
                    return false;
                }
                self.leave_new(holder, slot);
            }
            None => {}
        }
        if let Some(Entry { place: Place::New(places), .. }) = self.entries.get_mut(&socket) {
            places.push(slot);
            self.new.set(slot, socket);
        }
        true
    }

    /// Takes an address out of one place of *new*; with the last one it is forgotten.
    fn leave_new(&mut self, socket: SocketAddr, slot: Slot) {
        self.new.clear(slot);
        if let Some(Entry { place: Place::New(places), .. }) = self.entries.get_mut(&socket) {
            places.retain(|place| *place != slot);
            if places.is_empty() {
                self.forget(socket);
            }
        }
    }

    fn move_to_tried(&mut self, socket: SocketAddr, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&socket) else { return };
        if let Place::New(places) = std::mem::replace(&mut entry.place, Place::Tried(slot)) {
            places.into_iter().for_each(|place| self.new.clear(place));
            self.tried_count += 1;
        }
        self.tried.set(slot, socket);
    }

    fn contest(&mut self, newcomer: SocketAddr, holder: SocketAddr) {
        if self.contests.iter().any(|(waiting, _)| *waiting == newcomer) {
            return;
        }
        if self.contests.len() >= CONTESTS_MAX {
            self.contests.pop_front();
        }
        self.contests.push_back((newcomer, holder));
    }

    /// A holder was tested: a live one stays and the newcomers wait in *new*, a dead one gives way.
    fn settle_contests(&mut self, holder: SocketAddr, alive: bool, now: UnixMs) {
        let contested = |(_, other): &(SocketAddr, SocketAddr)| *other == holder;
        let Some((newcomer, _)) = self.contests.iter().copied().find(contested) else { return };
        if alive {
            self.contests.retain(|pair| !contested(pair));
            return;
        }
        self.forget(holder);
        let slot = self.tried_slot(newcomer);
        if self.tried.at(slot).is_none() {
            self.move_to_tried(newcomer, slot);
        }
        if let Some(entry) = self.entries.get_mut(&newcomer) {
            entry.heard = entry.heard.max(now);
        }
    }

    fn node_is_full(&self, node: NodeId) -> bool {
        self.by_node.get(&node).is_some_and(|held| held.len() >= NODE_ADDRESSES_MAX)
    }

    /// An identity that was met in person may always be listed: the address of it that was dialled last long ago goes.
    fn make_room_for(&mut self, node: NodeId) {
        while self.node_is_full(node) {
            let held = self.by_node.get(&node).cloned().unwrap_or_default();
            let oldest = held.into_iter().min_by_key(|socket| {
                self.entries.get(socket).map(|entry| (entry.is_tried(), entry.reached, entry.heard))
            });
            match oldest {
                Some(oldest) => self.forget(oldest),
                None => return,
            }
        }
    }

    /// Sets or clears the identity of an address.
    fn name(&mut self, socket: SocketAddr, node: Option<NodeId>) {
        let before = self.entries.get(&socket).and_then(|entry| entry.node);
        if before == node || (before.is_some() && node.is_some()) || node.is_some_and(|node| self.node_is_full(node)) {
            return;
        }
        self.unlist(socket, before);
        if let Some(entry) = self.entries.get_mut(&socket) {
            entry.node = node;
            if let Some(node) = node {
                self.by_node.entry(node).or_default().push(socket);
            }
        }
    }

    fn unlist(&mut self, socket: SocketAddr, node: Option<NodeId>) {
        let Some(node) = node else { return };
        if let Some(held) = self.by_node.get_mut(&node) {
            held.retain(|other| *other != socket);
            if held.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    fn new_slot(&self, socket: SocketAddr, source: AddressGroup) -> Slot {
        let group = AddressGroup::of(socket);
        let lane = self.hash(&[b"lane", &group.0, &source.0]) % NEW_BUCKETS_PER_SOURCE;
        let bucket = self.hash(&[b"new", &source.0, &lane.to_be_bytes()]) % u64::from(NEW_BUCKETS);
        self.slot(b"N", bucket, socket)
    }

    fn tried_slot(&self, socket: SocketAddr) -> Slot {
        let group = AddressGroup::of(socket);
        let lane = self.hash(&[b"lane", socket.to_string().as_bytes()]) % TRIED_BUCKETS_PER_GROUP;
        let bucket = self.hash(&[b"tried", &group.0, &lane.to_be_bytes()]) % u64::from(TRIED_BUCKETS);
        self.slot(b"T", bucket, socket)
    }

    fn slot(&self, table: &[u8], bucket: u64, socket: SocketAddr) -> Slot {
        let place = self.hash(&[table, &bucket.to_be_bytes(), socket.to_string().as_bytes()]);
        let narrow = |number: u64| u16::try_from(number).unwrap_or(0);
        Slot { bucket: narrow(bucket), place: narrow(place % u64::from(BUCKET_ADDRESSES_MAX)) }
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut all: Vec<&[u8]> = vec![b"trellis/book/1", &self.secret];
        all.extend(parts);
        let [a, b, c, d, e, f, g, h, ..] = trellis_crypto::sha3_256(&all);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

#[cfg(test)]
mod tests;
