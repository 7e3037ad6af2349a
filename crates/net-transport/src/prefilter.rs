//! Turns first packets away at the socket, before anything is decrypted (NET-13, NET-58, NET-81).
//!
//! A first packet that quinn sees costs it the packet's keys, a place in its tables and the listener's turn, even where the
//! listener then refuses. What the address alone decides is therefore decided here: the packet is let through, answered
//! with a refusal that keeps no state, or dropped. Refusals are rationed, because each costs a key derivation and a packet;
//! a source above its ration is not answered at all. Packets of handshakes that were let in, and of connections, pass.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use quinn::crypto::ServerConfig;
use quinn_proto::ConnectionId;

use crate::admission::Admission;

/// Refusals that this node sends in [`WINDOW_MS`] to everybody together.
pub const REFUSALS_PER_WINDOW_MAX: u32 = 20;
/// Attempts of public addresses that are let through in [`WINDOW_MS`], all together. What comes beyond is dropped, and a
/// client sends it again: a crowd that comes in one moment must not hold up those who are connected.
pub const ATTEMPTS_PER_WINDOW_MAX: u32 = 32;
/// Milliseconds of the rations that all sources share: so short that what is allowed in it delays nobody.
pub const WINDOW_MS: u64 = 50;
/// Refusals that this node sends in a second to one public address; what comes beyond is dropped without an answer.
pub const REFUSALS_PER_SOURCE_MAX: u8 = 8;
/// First packets of one public address that are let through in a second.
pub const FIRST_PACKETS_PER_SOURCE_MAX: u16 = 64;
/// The same for an address that something is held against.
pub const FIRST_PACKETS_RATIONED_MAX: u16 = 8;
/// Places over which sources are spread by a keyed hash; two that meet share a ration.
const SOURCES: usize = 4_096;
/// Places over which refused connection ids are spread, so that the second datagram of one attempt is not answered again.
const ANSWERED: usize = 256;

/// RFC 9000, 17.2.2: an Initial packet with a packet number of one byte.
const INITIAL_FIRST_BYTE: u8 = 0xc0;
/// RFC 9000, 20.1.
const CONNECTION_REFUSED: u8 = 0x02;
/// RFC 9000, 19.19: CONNECTION_CLOSE of the transport, for no frame in particular, without words.
const CLOSE_FRAME: [u8; 4] = [0x1c, CONNECTION_REFUSED, 0, 0];
/// Bytes of the packet number, the frame and the AEAD's tag, as a variable-length integer of one byte.
const PROTECTED_BYTES: u8 = 1 + CLOSE_FRAME.len() as u8 + TAG_BYTES as u8;
const TAG_BYTES: usize = 16;
/// The longest connection id of QUIC version 1.
const CID_BYTES_MAX: usize = 20;

/// What the address alone decides about a first packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Gate {
    /// Nothing: the listener decides.
    Pass,
    /// The listener decides about a few of them in a second; the rest is dropped.
    Ration,
    /// It is refused, with an answer as long as the ration lasts.
    Refuse,
    /// It is dropped without an answer.
    Drop,
}

/// Decides about a first packet from its source address. Asked for every datagram of an attempt, so it must not count.
pub type GateFn = Arc<dyn Fn(SocketAddr) -> Gate + Send + Sync>;

/// Told of an address that sends first packets faster than anybody needs to, once a second.
pub type FloodFn = Arc<dyn Fn(IpAddr) + Send + Sync>;

/// The first packet of a client, as far as it can be read without keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirstPacket<'a> {
    /// The connection id that the client made up for this node; its keys come from it.
    destination: &'a [u8],
    /// The client's own connection id.
    source: &'a [u8],
}

impl<'a> FirstPacket<'a> {
    /// Reads what follows the first byte and the version of a long header.
    pub(crate) fn read(after_version: &'a [u8]) -> Option<Self> {
        let (destination, rest) = connection_id(after_version)?;
        let (source, _) = connection_id(rest)?;
        Some(Self { destination, source })
    }

    /// The connection id it is addressed to.
    pub(crate) const fn destination(&self) -> &'a [u8] {
        self.destination
    }

    /// A refusal of this packet, protected with the keys that anybody can derive from it.
    pub(crate) fn refusal(&self, version: u32, crypto: &dyn ServerConfig) -> Option<Vec<u8>> {
        let keys = crypto.initial_keys(version, &ConnectionId::new(self.destination)).ok()?;
        let mut packet = Vec::with_capacity(64);
        packet.push(INITIAL_FIRST_BYTE);
        packet.extend_from_slice(&version.to_be_bytes());
        packet.push(u8::try_from(self.source.len()).ok()?);
        packet.extend_from_slice(self.source);
        // No connection id of this node and no token; then the length of the rest.
        packet.extend_from_slice(&[0, 0, PROTECTED_BYTES]);
        let number_at = packet.len();
        packet.push(0);
        let header_bytes = packet.len();
        packet.extend_from_slice(&CLOSE_FRAME);
        packet.resize(packet.len() + TAG_BYTES, 0);
        keys.packet.local.encrypt(0, &mut packet, header_bytes);
        keys.header.local.encrypt(number_at, &mut packet);
        Some(packet)
    }
}

fn connection_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let length = usize::from(*length);
    (length <= CID_BYTES_MAX).then(|| rest.split_at_checked(length)).flatten()
}

/// How much was let through and answered in the present second, and in the present window.
struct Rations {
    second: u64,
    window: u64,
    /// Refusals sent in the window.
    sent: u32,
    /// Attempts let through in the window.
    passed: u32,
    refused: Box<[u8]>,
    came: Box<[u16]>,
    /// What was answered in this second, by the attempt's connection id.
    answered: Box<[u64]>,
    hash: RandomState,
}

impl Rations {
    fn new() -> Self {
        let hash = RandomState::new();
        let (refused, came) = ([0; SOURCES].into(), [0; SOURCES].into());
        Self { second: 0, window: 0, sent: 0, passed: 0, refused, came, answered: [0; ANSWERED].into(), hash }
    }

    fn begin(&mut self, now_ms: u64) {
        let (second, window) = (now_ms / 1_000, now_ms / WINDOW_MS);
        if window != self.window {
            (self.window, self.sent, self.passed) = (window, 0, 0);
        }
        if second != self.second {
            self.second = second;
            self.refused.fill(0);
            self.came.fill(0);
            self.answered.fill(0);
        }
    }

    /// So many more attempts came from a source; gives how many that makes in this second.
    fn arrived(&mut self, source: IpAddr, attempts: u16, now_ms: u64) -> u16 {
        self.begin(now_ms);
        let place = self.hash.hash_one(source) as usize % SOURCES;
        self.came.get_mut(place).map_or(0, |came| {
            *came = came.saturating_add(attempts);
            *came
        })
    }

    /// Whether so many more attempts may pass.
    fn pass(&mut self, attempts: u16, now_ms: u64) -> bool {
        self.begin(now_ms);
        if self.passed >= ATTEMPTS_PER_WINDOW_MAX {
            return false;
        }
        self.passed = self.passed.saturating_add(u32::from(attempts));
        true
    }

    /// Whether one more refusal may be sent; a second one to the same attempt within a second may not.
    fn take(&mut self, source: IpAddr, counted: bool, attempt: &[u8], now_ms: u64) -> bool {
        self.begin(now_ms);
        // Zero says that nothing was answered.
        let named = self.hash.hash_one(attempt) | 1;
        let known = self.answered.get_mut(named as usize % ANSWERED);
        if self.sent >= REFUSALS_PER_WINDOW_MAX || known.as_deref() == Some(&named) {
            return false;
        }
        let place = self.hash.hash_one(source) as usize % SOURCES;
        if let Some(sent) = self.refused.get_mut(place).filter(|_| counted) {
            if *sent >= REFUSALS_PER_SOURCE_MAX {
                return false;
            }
            *sent += 1;
        }
        if let Some(known) = known {
            *known = named;
        }
        self.sent += 1;
        true
    }
}

/// What a filter is told and where it counts.
pub(crate) struct PrefilterParts {
    pub(crate) admission: Admission,
    pub(crate) gate: Option<GateFn>,
    pub(crate) flooded: Option<FloodFn>,
    pub(crate) crypto: Arc<dyn ServerConfig>,
    /// First packets turned away, answered or not.
    pub(crate) turned_away: Counter,
    pub(crate) unanswered: Counter,
}

/// Judges first packets for one listening socket.
pub(crate) struct Prefilter {
    parts: PrefilterParts,
    began: Instant,
    rations: Mutex<Rations>,
}

impl Prefilter {
    pub(crate) fn new(parts: PrefilterParts) -> Self {
        Self { parts, began: Instant::now(), rations: Mutex::new(Rations::new()) }
    }

    /// What is to be done now with so many first packets that came from an address in one batch.
    pub(crate) fn judge(&self, remote: SocketAddr, packets: usize) -> Gate {
        // A handshake that was let in has more than one datagram, though no more than anybody needs: else one that is held
        // open would be a way past the rations.
        let holds = self.parts.admission.holds(remote);
        let asked = self.parts.gate.as_ref().filter(|_| !holds).map_or(Gate::Pass, |gate| gate(remote));
        if asked > Gate::Ration {
            return asked;
        }
        let exempt = self.parts.admission.exempts(remote.ip());
        // A client of ours sends two for one attempt.
        let attempts = u16::try_from(packets.div_ceil(2)).unwrap_or(u16::MAX);
        if !exempt {
            let rationed = asked == Gate::Ration;
            let limit = if rationed { FIRST_PACKETS_RATIONED_MAX } else { FIRST_PACKETS_PER_SOURCE_MAX };
            let source = remote.ip().to_canonical();
            let came = self.rations.lock().arrived(source, attempts, self.now_ms());
            if came > limit {
                let first = came.saturating_sub(attempts) <= limit;
                if let Some(flooded) = self.parts.flooded.as_ref().filter(|_| first) {
                    flooded(source);
                }
                return Gate::Drop;
            }
        }
        if holds {
            return Gate::Pass;
        }
        let gate = self.parts.admission.gate(remote);
        let passes = gate > Gate::Ration || exempt || self.rations.lock().pass(attempts, self.now_ms());
        if passes { gate } else { Gate::Drop }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a packet that is turned away, and gives the answer if there is to be one.
    pub(crate) fn turn_away(
        &self,
        gate: Gate,
        remote: SocketAddr,
        first: FirstPacket<'_>,
        version: u32,
    ) -> Option<Vec<u8>> {
        self.parts.turned_away.inc();
        let counted = !self.parts.admission.exempts(remote.ip());
        let allowed =
            gate == Gate::Refuse && self.rations.lock().take(remote.ip(), counted, first.destination, self.now_ms());
        let answer = allowed.then(|| first.refusal(version, self.parts.crypto.as_ref())).flatten();
        if answer.is_none() {
            self.parts.unanswered.inc();
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    // row: NET-58, NET-81
    #[test]
    fn a_source_is_answered_a_few_times_a_second_and_then_not_at_all() {
        let mut rations = Rations::new();
        let answered = |rations: &mut Rations, second: u64| {
            (0..1_000u32).filter(|n| rations.take(ip(0x0808_0808), true, &n.to_be_bytes(), second * 1_000)).count()
        };
        assert_eq!(answered(&mut rations, 1), usize::from(REFUSALS_PER_SOURCE_MAX));
        assert_eq!(answered(&mut rations, 1), 0);
        assert_eq!(answered(&mut rations, 2), usize::from(REFUSALS_PER_SOURCE_MAX));
    }

    // row: NET-58
    #[test]
    fn a_flood_from_everywhere_is_answered_within_one_ration() {
        let mut rations = Rations::new();
        let answered = (0..100_000u32).filter(|n| rations.take(ip(n * 7_919), true, &n.to_be_bytes(), 5)).count();
        assert_eq!(answered, REFUSALS_PER_WINDOW_MAX as usize);
    }

    // row: NET-56, NET-58
    #[test]
    fn a_crowd_is_let_through_a_few_at_a_time_and_the_next_window_lets_in_more() {
        let mut rations = Rations::new();
        let passed = |rations: &mut Rations, now_ms: u64| (0..1_000).filter(|_| rations.pass(1, now_ms)).count();
        assert_eq!(passed(&mut rations, 10), ATTEMPTS_PER_WINDOW_MAX as usize);
        assert_eq!(passed(&mut rations, 10), 0);
        assert_eq!(passed(&mut rations, 10 + WINDOW_MS), ATTEMPTS_PER_WINDOW_MAX as usize);
    }

    // row: NET-58
    #[test]
    fn a_handshake_that_is_held_open_is_no_way_past_the_rations() {
        let identity = libp2p::identity::Keypair::generate_ed25519();
        let tls = crate::tls::tls_configs(&identity, crate::policy::Policy::Require).unwrap();
        let crypto = Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls.server).unwrap());
        let admission = Admission::default();
        let remote = "8.8.8.8:7".parse().unwrap();
        let _held = admission.enter(remote);
        let (turned_away, unanswered) = (Counter::default(), Counter::default());
        let parts = PrefilterParts { admission, gate: None, flooded: None, crypto, turned_away, unanswered };
        let filter = Prefilter::new(parts);
        let passed = (0..10_000).filter(|_| filter.judge(remote, 2) == Gate::Pass).count();
        // A few seconds may begin meanwhile.
        let ration = usize::from(FIRST_PACKETS_PER_SOURCE_MAX);
        assert!((ration..10 * ration).contains(&passed), "{passed}");
    }

    // row: NET-55, NET-58
    #[test]
    fn attempts_are_counted_for_each_source_and_anew_each_second() {
        let mut rations = Rations::new();
        assert_eq!((1..=70).map(|_| rations.arrived(ip(7), 1, 1_000)).max(), Some(70));
        assert_eq!(rations.arrived(ip(7), 1, 2_000), 1);
        assert!((0..100_000).all(|_| rations.arrived(ip(7), 1, 2_000) > 0), "it never wraps");
    }

    #[test]
    fn the_second_datagram_of_an_attempt_is_not_answered_again_until_the_next_second() {
        let mut rations = Rations::new();
        assert!(rations.take(ip(1), false, b"attempt", 1_000));
        assert!(!rations.take(ip(1), false, b"attempt", 1_999));
        assert!(rations.take(ip(1), false, b"another", 1_999));
        assert!(rations.take(ip(1), false, b"attempt", 2_000));
    }

    #[test]
    fn a_first_packet_is_read_as_rfc_9000_says_and_its_lengths_are_bounded() {
        let first = FirstPacket::read(&[3, 1, 2, 3, 2, 9, 8, 7]).unwrap();
        assert_eq!((first.destination, first.source), (&[1, 2, 3][..], &[9, 8][..]));
        assert_eq!(FirstPacket::read(&[3, 1, 2]), None);
        assert_eq!(FirstPacket::read(&[21; 64]), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = FirstPacket::read(&bytes);
        }
    }
}
