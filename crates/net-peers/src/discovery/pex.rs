//! Peer exchange (NET-34): `/trellis/pex/1`, one question and one answer per stream.
//!
//! ```text
//! asker ──GetAddresses──▶ answerer      how many records it would take
//! asker ◀──Addresses────  answerer      signed node records, or how long to wait
//! ```
//! What travels are node records under the signatures of their own keys, so an answerer can leave records out and cannot
//! forge one. It gives its own record, and those of nodes that it is connected to or was connected to by a dial of its own;
//! what it only heard of it does not pass on. An answer holds no address that is nearer to the answerer than the asker is.

use std::collections::BTreeMap;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use prost::Message;
use thiserror::Error;
use trellis_crypto::record::{RecordError, verify_record};
use trellis_primitives::{
    Bytes, NODE_RECORD_BYTES_MAX, NodeId, NodeRecord, RecordBoundError, SignedNodeRecord, UnixMs,
};

use super::address::{AddressClass, PeerAddress, class_of, is_tcp};
use super::hidden::{Networks, is_hidden_place};
use crate::config::RECORD_LIFETIME_MS;
use crate::handshake::Checker;
use crate::network::Protocol;
use crate::table::PEERS_REMEMBERED_MAX;
use crate::table::route::{relay_of, target_of};

/// The protocol.
pub const PEX: Protocol = Protocol("/trellis/pex/1");
/// Bytes of a question.
pub const GET_ADDRESSES_BYTES_MAX: usize = 64;
/// Records in one answer.
pub const RECORDS_PER_ANSWER_MAX: usize = 32;
/// Bytes of one answer.
pub const ADDRESSES_BYTES_MAX: usize = 256 * 1024;
/// Questions of one peer that are answered at once before it has to wait.
pub const ANSWERS_BURST: u64 = 4;
/// Between two answers to one peer in the long run.
pub const ANSWER_INTERVAL_MS: u64 = 30_000;
/// This node asks one peer not more often than this.
pub const ASK_INTERVAL_MS: u64 = 60_000;
/// The same while connections are missing; it is answered as often.
pub const ASK_SHORT_INTERVAL_MS: u64 = ANSWER_INTERVAL_MS;
/// A question and its answer take at most this long.
pub const PEX_TIMEOUT_MS: u64 = 10_000;
/// Records kept of nodes that were connected.
pub const RECORDS_KEPT_MAX: usize = 512;
/// Bytes of framing around one record in an answer.
const RECORD_FRAMING_BYTES: usize = 8;

/// The question. Field numbers are never reused.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct GetAddresses {
    /// Records wanted at most.
    #[prost(uint32, tag = "1")]
    pub records_max: u32,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Addresses {
    /// RLP of signed node records, as they were signed.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub records: Vec<Vec<u8>>,
    /// If the asker asks too often: how long until it is answered again, milliseconds.
    #[prost(uint64, tag = "2")]
    pub retry_after_ms: u64,
}

/// Why a record of an answer is not taken.
#[derive(Debug, Error)]
pub enum PexError {
    /// More records than an answer may hold.
    #[error("{actual} records in an answer, at most {max} allowed")]
    TooMany {
        /// How many came.
        actual: usize,
        /// The bound.
        max: usize,
    },
    /// Not a signed record.
    #[error(transparent)]
    Malformed(#[from] RecordBoundError),
    /// A bad signature, or an expired record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record of another network.
    #[error("a record of network {actual:#010x}, expected {expected:#010x}")]
    OtherNetwork {
        /// This network.
        expected: u32,
        /// The record's.
        actual: u32,
    },
    /// A record that claims to be valid for longer than any may.
    #[error("a record that expires {actual_ms} ms from now, at most {max_ms} allowed")]
    TooLongLived {
        /// How far its expiry lies ahead.
        actual_ms: u64,
        /// The bound.
        max_ms: u64,
    },
}

impl PexError {
    /// Whether only a broken or hostile peer can have sent this; an expired record may have aged on its way.
    #[must_use]
    pub const fn is_violation(&self) -> bool {
        !matches!(self, Self::Record(RecordError::Expired { .. }))
    }
}

/// A record that verified.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Verified {
    pub(crate) id: NodeId,
    pub(crate) record: NodeRecord,
}

/// Checks one record of an answer: bounds, all three signatures, expiry, network.
pub(crate) fn verify(bytes: &[u8], checker: &Checker, now: UnixMs) -> Result<Verified, PexError> {
    let signed = SignedNodeRecord::from_rlp(bytes)?;
    let (record, id) = verify_record(&signed, checker.chain_id, now)?;
    if record.network_magic != checker.network_magic {
        return Err(PexError::OtherNetwork { expected: checker.network_magic, actual: record.network_magic });
    }
    let (actual_ms, max_ms) = (record.expires().ms_since(now), 2 * RECORD_LIFETIME_MS);
    if actual_ms > max_ms {
        return Err(PexError::TooLongLived { actual_ms, max_ms });
    }
    Ok(Verified { id, record })
}

/// Checks an answer's shape before any signature.
pub(crate) fn check_count(answer: &Addresses) -> Result<(), PexError> {
    let (actual, max) = (answer.records.len(), RECORDS_PER_ANSWER_MAX);
    if actual > max { Err(PexError::TooMany { actual, max }) } else { Ok(()) }
}

/// The addresses of a record that a peer of class `teller` may tell of and that can be dialled; the PeerId of the record's
/// own key goes with each, so that nobody else is taken for its node.
pub(crate) fn usable_addresses(record: &NodeRecord, teller: AddressClass) -> Vec<PeerAddress> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&record.ed25519).ok();
    let Some(peer) = key.map(|key| libp2p::identity::PublicKey::from(key).to_peer_id()) else { return Vec::new() };
    let parsed = record.addresses.iter().filter_map(|text| PeerAddress::parse(text));
    let own = parsed.filter(|address| address.peer.is_none_or(|named| named == peer));
    let near = own.filter(|address| address.class().is_some_and(|class| teller.may_share(class)));
    near.map(|address| PeerAddress { peer: Some(peer), ..address }).collect()
}

/// The libp2p name of a record's node.
pub(crate) fn peer_of(record: &NodeRecord) -> Option<PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&record.ed25519).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The addresses of a record that are not QUIC's, as [`usable_addresses`]: over TCP, over relays and inside anonymity networks,
/// as far as this node dials there; the node's own name stands at the end of each.
pub(crate) fn other_ways(record: &NodeRecord, teller: AddressClass, networks: Networks) -> Vec<Multiaddr> {
    let Some(peer) = peer_of(record) else { return Vec::new() };
    let way = |text: &String| {
        let address: Multiaddr = text.parse().ok()?;
        let hidden = is_hidden_place(&address);
        let near = hidden || class_of(text).is_some_and(|class| teller.may_share(class));
        let to_this_node = target_of(&address).is_none_or(|named| named == peer);
        if !near || !to_this_node || !networks.have(&address) {
            return None;
        }
        let place = text.split("/p2p/").next()?;
        match relay_of(&address) {
            Some(relay) if relay != peer => format!("{place}/p2p/{relay}/p2p-circuit/p2p/{peer}").parse().ok(),
            None if hidden || is_tcp(&address) => format!("{place}/p2p/{peer}").parse().ok(),
            _ => None,
        }
    };
    record.addresses.iter().filter_map(way).collect()
}

/// How often each peer is answered. Pure.
#[derive(Debug, Default)]
pub(crate) struct AnswerLimiter {
    /// When each peer's allowance is full again.
    full_at: BTreeMap<NodeId, UnixMs>,
}

impl AnswerLimiter {
    /// Takes one answer from a peer's allowance, or says how many milliseconds it has to wait.
    pub(crate) fn allow(&mut self, peer: NodeId, now: UnixMs) -> Result<(), u64> {
        if self.full_at.len() >= PEERS_REMEMBERED_MAX {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() >= PEERS_REMEMBERED_MAX && !self.full_at.contains_key(&peer) {
            return Err(ANSWER_INTERVAL_MS);
        }
        let full_at = self.full_at.entry(peer).or_insert(now);
        let start = (*full_at).max(now);
        let room = (ANSWERS_BURST - 1) * ANSWER_INTERVAL_MS;
        let ahead = start.ms_since(now);
        if ahead > room {
            return Err(ahead - room);
        }
        *full_at = start.plus_ms(ANSWER_INTERVAL_MS);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Kept {
    signed: Bytes,
    expires: UnixMs,
    /// The class of its nearest address.
    nearest: Option<AddressClass>,
}

/// Signed records of nodes that were connected, for the answers. Pure.
#[derive(Debug, Default)]
pub(crate) struct Records {
    kept: BTreeMap<NodeId, Kept>,
}

impl Records {
    /// Keeps the record of a node that is connected; the one that expires first goes when there are too many.
    pub(crate) fn keep(&mut self, id: NodeId, record: &NodeRecord, signed: Bytes) {
        // What tells nothing of the clear network goes to everybody.
        let hidden = |text: &String| text.parse().is_ok_and(|address| is_hidden_place(&address));
        let class = |text: &String| if hidden(text) { Some(AddressClass::Public) } else { class_of(text) };
        let classes = record.addresses.iter().map(class);
        // An address whose class is unknown goes to nobody, and so does a record without addresses.
        let nearest = classes.min().flatten();
        self.kept.insert(id, Kept { signed, expires: record.expires(), nearest });
        if self.kept.len() > RECORDS_KEPT_MAX {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.expires).map(|(id, _)| *id);
            first.map(|first| self.kept.remove(&first));
        }
    }

    /// Forgets what has expired.
    pub(crate) fn expire(&mut self, now: UnixMs) {
        self.kept.retain(|_, kept| kept.expires > now);
    }

    /// Every record that may be told to a peer of class `asker` now.
    pub(crate) fn tellable(&self, asker: AddressClass, now: UnixMs) -> Vec<(NodeId, Bytes)> {
        let fits = |kept: &&Kept| kept.expires > now && kept.nearest.is_some_and(|class| asker.may_share(class));
        let all = self.kept.iter().filter(|(_, kept)| fits(kept));
        all.map(|(id, kept)| (*id, kept.signed.clone())).collect()
    }
}

/// An answer within its bounds: as many of the records, in their order, as fit.
pub(crate) fn answer(records: impl IntoIterator<Item = Bytes>, wanted: u32) -> Addresses {
    let count_max = RECORDS_PER_ANSWER_MAX.min(wanted as usize);
    let mut answer = Addresses::default();
    let mut bytes = RECORD_FRAMING_BYTES;
    for record in records {
        bytes += record.len() + RECORD_FRAMING_BYTES;
        if answer.records.len() >= count_max || bytes > ADDRESSES_BYTES_MAX || record.len() > NODE_RECORD_BYTES_MAX {
            break;
        }
        answer.records.push(record.to_vec());
    }
    answer
}

#[cfg(test)]
mod tests;
