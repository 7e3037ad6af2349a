//! Kademlia (NET-35): who says of himself that he sells a model, found by its hash.
//!
//! The protocol's name carries the network's id, so nodes of two networks never speak with each other here. A node enters
//! the routing table only after its handshake proved the network ([`Doorway`]). To announce itself a provider looks up the
//! nodes nearest to each of its keys, which connects it to them; they keep a provider record for what its signed node record
//! names, with the addresses of that record and no others, so an announcement's message can add nothing and its loss (a
//! one-way message on a lazily negotiated stream may be lost) takes nothing away.
//! Values are none of this network's business and are refused. What is found is a hint: whom to dial. Who a provider is
//! and what stands behind it, its handshake, its adverts and the chain say.

pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::kad::{BucketInserts, Caching, Config, RecordKey, StoreInserts};
use libp2p::swarm::{InvalidProtocol, StreamProtocol};
use trellis_crypto::sha3_256;
use trellis_primitives::{B256, NodeRecord, Role};

use super::address::AddressClass;
use super::hidden::Networks;
use super::pex::{other_ways, usable_addresses};
use crate::table::route::is_circuit;

/// Bytes of a key: SHA3-256 of a domain and a name.
pub const KEY_BYTES: usize = 32;
/// Addresses of one provider that are kept and told.
pub const PROVIDER_ADDRESSES_MAX: usize = 4;
/// A provider record is good for this long after it was told.
pub const PROVIDER_TTL_MS: u64 = 60 * 60 * 1_000;
/// Between two announcements of what this node sells.
pub const PROVIDE_MS: u64 = 20 * 60 * 1_000;
/// A look-up with all its questions has this long.
pub const QUERY_TIMEOUT_MS: u64 = 20_000;
/// Look-ups of providers at once.
pub const QUERIES_MAX: usize = 8;
/// Providers that one look-up yields.
pub const FOUND_MAX: usize = 32;
/// Keys of one provider: its models, and the key of all providers.
pub const KEYS_PER_NODE_MAX: usize = trellis_primitives::NODE_RECORD_MODELS_MAX + 1;
/// Bytes of one message.
const PACKET_BYTES_MAX: usize = 16 * 1024;
/// Peers that are told of a record, and that a look-up ends at.
const REPLICATION: NonZeroUsize = match NonZeroUsize::new(8) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// The key of a model's providers.
#[must_use]
pub fn model_key(model: &str) -> [u8; KEY_BYTES] {
    sha3_256(&[b"trellis/kad/model/1", model.as_bytes()])
}

/// The key of every provider, whatever it sells.
#[must_use]
pub fn providers_key() -> [u8; KEY_BYTES] {
    sha3_256(&[b"trellis/kad/role/1", Role::Provider.word().as_bytes()])
}

/// What a node announces: nothing, unless it is a provider.
#[must_use]
pub fn keys_of(record: &NodeRecord) -> BTreeSet<[u8; KEY_BYTES]> {
    if !record.roles.contains(Role::Provider) {
        return BTreeSet::new();
    }
    record.models.iter().map(|model| model_key(model)).chain([providers_key()]).collect()
}

/// `/trellis/kad/1/<network id>`: the first 16 bytes of the genesis hash, hexadecimal.
///
/// # Errors
/// Never for a hash; the library's check of names is passed on.
pub(crate) fn protocol(genesis: &B256) -> Result<StreamProtocol, InvalidProtocol> {
    let id: String = genesis.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    StreamProtocol::try_from_owned(format!("/trellis/kad/1/{id}"))
}

/// How the library is set up.
pub(crate) fn config(protocol: StreamProtocol) -> Config {
    let mut config = Config::new(protocol);
    config
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        .disjoint_query_paths(true)
        .set_replication_factor(REPLICATION)
        .set_query_timeout(Duration::from_millis(QUERY_TIMEOUT_MS))
        .set_max_packet_size(PACKET_BYTES_MAX)
        .set_caching(Caching::Disabled)
        .set_provider_record_ttl(Some(Duration::from_millis(PROVIDER_TTL_MS)))
        // Announcements follow the network here, not a timer of the library.
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None);
    config
}

/// The addresses under which a provider is kept and told, from its own signed record.
pub(crate) fn told_addresses(record: &NodeRecord, nearest: AddressClass) -> Vec<Multiaddr> {
    let usable = usable_addresses(record, nearest);
    usable.iter().take(PROVIDER_ADDRESSES_MAX).filter_map(|address| address.to_string().parse().ok()).collect()
}

/// The addresses under which a provider's record is kept and told: those, and for one that is at home those over its relays.
pub(crate) fn provider_addresses(record: &NodeRecord, nearest: AddressClass) -> Vec<Multiaddr> {
    let circuits = other_ways(record, nearest, Networks::Clear).into_iter().filter(is_circuit);
    told_addresses(record, nearest).into_iter().chain(circuits).take(PROVIDER_ADDRESSES_MAX).collect()
}

/// Who may enter the routing table: whoever serves the protocol *and* was accepted by the handshake. Pure; both facts come
/// in any order.
#[derive(Debug, Default)]
pub(crate) struct Doorway {
    serving: BTreeSet<PeerId>,
    accepted: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Doorway {
    /// A connected peer serves the protocol. Gives its addresses if it may enter now.
    pub(crate) fn serves(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        self.serving.insert(peer);
        self.accepted.get(&peer).cloned().unwrap_or_default()
    }

    /// A handshake was accepted. Gives the addresses if the peer may enter now.
    pub(crate) fn accepted(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let entering = if self.serving.contains(&peer) { addresses.clone() } else { Vec::new() };
        self.accepted.insert(peer, addresses);
        entering
    }

    /// The last connection to a peer is gone.
    pub(crate) fn left(&mut self, peer: &PeerId) {
        self.serving.remove(peer);
        self.accepted.remove(peer);
    }
}

/// A key of a message, if it has the right length.
pub(crate) fn read_key(key: &RecordKey) -> Option<[u8; KEY_BYTES]> {
    <[u8; KEY_BYTES]>::try_from(key.as_ref()).ok()
}

#[cfg(test)]
mod tests;
