//! Transactions from pool to pool (CHN-24, NET-60): frames of raw transactions on [`TRANSACTIONS_PROTOCOL`].
//!
//! A pool hands what comes to it first hand to every validator it is connected to, or to [`TARGETS_MAX`] of them where
//! there are more. What came from another pool goes on only in large networks, to [`FORWARDS_MAX`] others. What still
//! waits after a while is handed to everybody not known to have it, so a lost frame or a new peer costs a delay only.
//!
//! Each pool tells the pools that it is connected to what it takes at least ([`FeeFilter`]), when they meet and when that
//! changes, and does not send them what is below theirs (CHN-24). Who asks for much gets little: that harms nobody else.
//!
//! What comes in is bounded in bytes, number and pace before a signature is checked, known transactions cost a hash, and
//! a signature that does not verify is an offence. What the pool refuses for its own reasons is nobody's fault.

mod wire;

pub use wire::{Frame, FrameFault, decode_frame, encode_filter, encode_frame};

use crate::filter::FeeFilter;
use crate::metrics::GossipMetrics;
use crate::recent::Recent;
use crate::service::Mempool;
use alloy_consensus::Transaction;
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{B256, keccak256};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use trellis_chain_execution::recover_batch;
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::inlet::{Inlet, InletFault, InletLimits, serve};
use trellis_net_peers::pack::{PACK_BYTES_MAX, Packer};
use trellis_net_peers::{AcceptError, NetworkHandle, PeerState, Protocol};
use trellis_primitives::{NodeId, RecoveredTx, Role, TxEnvelope};

/// Transactions for another pool.
pub const TRANSACTIONS_PROTOCOL: Protocol = Protocol("/trellis/tx/1");
/// Largest frame, in bytes: one transaction of the largest size and its envelope, or many small ones.
pub const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX + PACK_BYTES_MAX;
/// Largest body of a frame, in bytes, before it is compressed.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Transactions in a frame at most.
pub const FRAME_TXS_MAX: usize = 1_024;
/// Transactions that one peer may send in a second before it is read more slowly.
pub const TXS_PER_SECOND_MAX: u32 = 50_000;
/// Peers that a transaction is handed to first hand.
pub const TARGETS_MAX: usize = 16;
/// Peers that a transaction of another pool is handed on to where not everybody got it first hand.
pub const FORWARDS_MAX: usize = 4;
/// How long transactions are gathered for a frame, in milliseconds.
const GATHER_MS: u64 = 5;
/// What waits longer than once to twice so long, in milliseconds, is handed to those who may not have it.
const REPEAT_MS: u64 = 2_000;
/// Transactions repeated at a time.
const REPEATS_MAX: usize = 4_096;
/// A pool looks so often whether its fee filter has changed, in milliseconds.
const FILTER_MS: u64 = 1_000;
/// After so many looks every peer is told again, whatever became of the frame that told it before: a minute.
const FILTER_LOOKS_MAX: u32 = 60;
/// Hashes remembered for each peer, as what it has, and as what came from peers.
const KNOWN_PER_PEER_MAX: usize = 65_536;

/// Runs until dropped.
#[derive(Debug)]
pub struct Gossip {
    _tasks: JoinSet<()>,
}

/// Begins to hand transactions on and to take them.
///
/// # Errors
/// Where the protocol has an acceptor already.
pub fn start(pool: Mempool, network: NetworkHandle) -> Result<Gossip, AcceptError> {
    let acceptor = network.accept(TRANSACTIONS_PROTOCOL)?;
    let metrics = pool.metrics().gossip.clone();
    let handed = Mutex::new(Recent::new(KNOWN_PER_PEER_MAX));
    let world = Arc::new_cyclic(|own| World {
        pool,
        network: network.clone(),
        metrics,
        packer: Packer::default(),
        known: Mutex::default(),
        filters: Mutex::default(),
        validators: watch::Sender::new(Arc::default()),
        handed,
        own: own.clone(),
    });
    let mut tasks = JoinSet::new();
    let limits = InletLimits { frame_bytes_max: FRAME_BYTES_MAX, messages_per_second_max: TXS_PER_SECOND_MAX };
    tasks.spawn(serve(network, acceptor, limits, Arc::clone(&world)));
    tasks.spawn(watch_validators(Arc::clone(&world)));
    tasks.spawn(hand_on(Arc::clone(&world)));
    tasks.spawn(tell_filter(Arc::clone(&world)));
    tasks.spawn(repeat(world));
    Ok(Gossip { _tasks: tasks })
}

struct World {
    pool: Mempool,
    network: NetworkHandle,
    metrics: GossipMetrics,
    packer: Packer,
    /// What each connected peer has, as far as is known.
    known: Mutex<HashMap<NodeId, Recent<()>>>,
    /// What each connected peer takes, of those that said so.
    filters: Mutex<HashMap<NodeId, FeeFilter>>,
    /// Validators that are connected.
    validators: watch::Sender<Arc<[NodeId]>>,
    /// What came from another pool.
    handed: Mutex<Recent<()>>,
    /// For work that blocks.
    own: Weak<Self>,
}

/// A transaction to be handed out.
struct Outgoing {
    hash: B256,
    bytes: Bytes,
    /// Fee cap and tip cap, wei per gas.
    caps: (u128, u128),
}

impl World {
    /// Validators that are connected.
    fn validators(&self) -> Arc<[NodeId]> {
        Arc::clone(&self.validators.borrow())
    }

    /// Looks who is connected; everything about others is forgotten.
    fn look(&self) {
        let connected = self.network.peers().into_iter().filter(|peer| peer.state == PeerState::Connected);
        let (mut all, mut validators) = (HashSet::new(), Vec::new());
        for peer in connected {
            let Some(id) = peer.id else { continue };
            all.insert(id);
            if peer.roles.contains(Role::Validator) {
                validators.push(id);
            }
        }
        self.known.lock().retain(|peer, _| all.contains(peer));
        self.filters.lock().retain(|peer, _| all.contains(peer));
        self.validators.send_replace(validators.into());
    }

    fn knows(&self, peer: NodeId, hash: &B256) -> bool {
        self.known.lock().get(&peer).is_some_and(|known| known.get(hash).is_some())
    }

    fn note(&self, peer: NodeId, hashes: impl IntoIterator<Item = B256>) {
        let mut known = self.known.lock();
        let known = known.entry(peer).or_insert_with(|| Recent::new(KNOWN_PER_PEER_MAX));
        hashes.into_iter().for_each(|hash| known.insert(hash, ()));
    }

    /// Hands transactions to a peer, but for those that it has and those that pay less than it takes.
    async fn send(&self, peer: NodeId, txs: &[Outgoing]) {
        let filter = self.filters.lock().get(&peer).copied().unwrap_or_default();
        let base_fee = self.pool.base_fee();
        let unknown = txs.iter().filter(|tx| !self.knows(peer, &tx.hash));
        let (taken, withheld): (Vec<&Outgoing>, Vec<_>) =
            unknown.partition(|tx| filter.takes(tx.caps.0, tx.caps.1, base_fee));
        self.metrics.withheld.inc_by(count(withheld.len()));
        for frame in frames(&taken) {
            let transactions = frame.iter().map(|tx| tx.bytes.clone()).collect();
            let (message, body_bytes) = encode_frame(&self.packer, transactions);
            self.metrics.body_bytes.inc_by(count(body_bytes));
            self.metrics.frame_bytes.inc_by(count(message.len()));
            let report = self.network.broadcast(&[peer], TRANSACTIONS_PROTOCOL, message).await;
            if report.failed.is_empty() {
                self.note(peer, frame.iter().map(|tx| tx.hash));
                self.metrics.sent.inc_by(count(frame.len()));
            } else {
                // What was not queued is repeated.
                return;
            }
        }
    }

    fn encoded(&self, hashes: &[B256]) -> Vec<Outgoing> {
        let held = hashes.iter().filter_map(|hash| self.pool.get(hash));
        held.map(|tx| Outgoing {
            hash: tx.hash,
            bytes: Bytes::from(tx.tx.encoded_2718()),
            caps: (tx.tx.max_fee_per_gas(), tx.tx.priority_fee_or_price()),
        })
        .collect()
    }

    /// Connected peers that have a pool.
    fn pools(&self) -> Vec<NodeId> {
        let peers = self.network.peers().into_iter().filter(|peer| peer.state == PeerState::Connected);
        let keepers = peers.filter(|peer| [Role::Validator, Role::Full].iter().any(|role| peer.roles.contains(*role)));
        keepers.filter_map(|peer| peer.id).collect()
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Cuts a list into pieces that fit frames.
fn frames<'a>(txs: &'a [&'a Outgoing]) -> impl Iterator<Item = &'a [&'a Outgoing]> {
    let mut rest = txs;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0usize;
        let fits = rest.iter().take(FRAME_TXS_MAX).take_while(|tx| {
            // A key and a length of at most nine bytes before each.
            bytes = bytes.saturating_add(tx.bytes.len()).saturating_add(10);
            bytes <= BODY_BYTES_MAX
        });
        let (frame, after) = rest.split_at(fits.count().max(1));
        rest = after;
        Some(frame)
    })
}

/// Some of the peers, beginning where the transaction says, so that not everybody forwards to the same ones.
fn some(peers: &[NodeId], most: usize, seed: &B256) -> Vec<NodeId> {
    if peers.len() <= most {
        return peers.to_vec();
    }
    let start = seed.0.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    peers.iter().cycle().skip(start.checked_rem(peers.len()).unwrap_or(0)).take(most).copied().collect()
}

/// Keeps the list of validators that are connected.
async fn watch_validators(world: Arc<World>) {
    let mut events = world.network.events();
    loop {
        world.look();
        if matches!(events.recv().await, Err(RecvError::Closed)) {
            return;
        }
    }
}

/// Tells each pool what this one takes: when it connects, when that changes, and now and then again.
async fn tell_filter(world: Arc<World>) {
    let mut events = world.network.events();
    let mut told: HashMap<NodeId, FeeFilter> = HashMap::new();
    let mut looks: u32 = 0;
    loop {
        let filter = world.pool.fee_filter();
        world.metrics.tip_min_wei.set(i64::try_from(filter.tip_min_wei).unwrap_or(i64::MAX));
        let pools = world.pools();
        told.retain(|peer, _| pools.contains(peer));
        for peer in pools {
            if told.get(&peer) != Some(&filter) {
                let frame = encode_filter(&world.packer, &filter);
                let report = world.network.broadcast(&[peer], TRANSACTIONS_PROTOCOL, frame).await;
                if report.failed.is_empty() {
                    told.insert(peer, filter);
                }
            }
        }
        tokio::select! {
            event = events.recv() => if matches!(event, Err(RecvError::Closed)) {
                return;
            },
            () = tokio::time::sleep(Duration::from_millis(FILTER_MS)) => {
                looks = looks.saturating_add(1);
                if looks >= FILTER_LOOKS_MAX {
                    (looks, told) = (0, HashMap::new());
                }
            }
        }
    }
}

/// Hands on what becomes able to run, as soon as it does.
async fn hand_on(world: Arc<World>) {
    let mut validators = world.validators.subscribe();
    // Nobody announces to a pool that is alone.
    while validators.wait_for(|validators| !validators.is_empty()).await.is_ok() {
        let mut pending = world.pool.subscribe_pending();
        while let Some(hashes) = gather(&mut pending).await {
            let validators = world.validators();
            if validators.is_empty() {
                break;
            }
            hand_out(&world, &validators, &hashes).await;
        }
    }
}

/// The next announcements; those that were missed are repeated later.
async fn gather(pending: &mut broadcast::Receiver<B256>) -> Option<Vec<B256>> {
    let mut hashes = Vec::new();
    let mut until = None;
    while hashes.len() < FRAME_TXS_MAX {
        let next = pending.recv();
        let next = match until {
            None => next.await,
            Some(until) => match tokio::time::timeout_at(until, next).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        match next {
            Ok(hash) => hashes.push(hash),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return (!hashes.is_empty()).then_some(hashes),
        }
        until = until.or_else(|| Some(Instant::now() + Duration::from_millis(GATHER_MS)));
    }
    Some(hashes)
}

async fn hand_out(world: &World, validators: &[NodeId], hashes: &[B256]) {
    let (second, first): (Vec<B256>, Vec<B256>) = {
        let handed = world.handed.lock();
        hashes.iter().partition(|hash| handed.get(hash).is_some())
    };
    for (hashes, most) in [(first, TARGETS_MAX), (second, FORWARDS_MAX)] {
        let everybody_has_it = most == FORWARDS_MAX && validators.len() <= TARGETS_MAX;
        let Some(seed) = hashes.first().filter(|_| !everybody_has_it) else { continue };
        let txs = world.encoded(&hashes);
        for peer in some(validators, most, seed) {
            world.send(peer, &txs).await;
        }
    }
}

/// Hands what waits for long to those who may not have it.
async fn repeat(world: Arc<World>) {
    let mut before = HashSet::new();
    loop {
        tokio::time::sleep(Duration::from_millis(REPEAT_MS)).await;
        let validators = world.validators();
        if validators.is_empty() {
            continue;
        }
        let mut best = world.pool.best(world.pool.base_fee(), u64::MAX);
        let waiting: Vec<B256> =
            std::iter::from_fn(|| best.next()).take(REPEATS_MAX).map(|tx: RecoveredTx| tx.hash).collect();
        let long: Vec<B256> = waiting.iter().filter(|hash| before.contains(*hash)).copied().collect();
        before = waiting.into_iter().collect();
        if long.is_empty() {
            continue;
        }
        let txs = world.encoded(&long);
        for peer in validators.iter() {
            world.send(*peer, &txs).await;
        }
    }
}

#[async_trait]
impl Inlet for World {
    type Message = Frame;

    fn decode(&self, _: NodeId, frame: Bytes) -> Result<(Frame, u32), InletFault> {
        let frame = decode_frame(&frame).map_err(|_| InletFault::Invalid(Pattern::Malformed))?;
        // A frame without a transaction counts as one.
        let count = u32::try_from(frame.transactions.len()).unwrap_or(u32::MAX).max(1);
        Ok((frame, count))
    }

    async fn take(&self, peer: NodeId, frame: Frame) -> Result<(), InletFault> {
        let Some(world) = self.own.upgrade() else { return Err(InletFault::Closing) };
        if let Some(filter) = frame.fee_filter {
            self.filters.lock().insert(peer, filter);
            self.metrics.filters.inc();
        }
        let raw = frame.transactions;
        if raw.is_empty() {
            return Ok(());
        }
        let number = raw.len();
        let taken = tokio::task::spawn_blocking(move || world.put(peer, &raw)).await;
        taken.map_err(|_| InletFault::Closing)??;
        self.metrics.received.inc_by(count(number));
        Ok(())
    }
}

impl World {
    /// Puts a peer's transactions into the pool.
    fn put(&self, peer: NodeId, raw: &[Bytes]) -> Result<(), InletFault> {
        let hashes: Vec<B256> = raw.iter().map(keccak256).collect();
        self.note(peer, hashes.iter().copied());
        let (mut known, mut strange) = (Vec::new(), Vec::new());
        for (bytes, hash) in raw.iter().zip(&hashes) {
            if self.pool.get(hash).is_some() {
                self.metrics.duplicates.inc();
                continue;
            }
            let tx = TxEnvelope::decode_2718_exact(bytes).map_err(|_| InletFault::Invalid(Pattern::Malformed))?;
            match self.pool.sender_of(hash) {
                Some(sender) => known.push(RecoveredTx::new(tx, sender)),
                None => strange.push(tx),
            }
        }
        let mut txs =
            recover_batch(strange).into_iter().collect::<Result<Vec<_>, _>>().map_err(|_| InletFault::Forged)?;
        txs.append(&mut known);
        if txs.is_empty() {
            return Ok(());
        }
        {
            let mut handed = self.handed.lock();
            txs.iter().for_each(|tx| handed.insert(tx.hash, ()));
        }
        let refused = self.pool.add_batch(txs).iter().filter(|answer| answer.is_err()).count();
        self.metrics.refused.inc_by(count(refused));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_hold_as_much_as_fits_and_nothing_is_left_out() {
        let tx = |bytes: usize, number: u8| Outgoing {
            hash: B256::repeat_byte(number),
            bytes: Bytes::from(vec![number; bytes]),
            caps: (0, 0),
        };
        let all: Vec<_> = [100_000, 100_000, 100_000, 1, 1].into_iter().zip(0..).map(|(b, n)| tx(b, n)).collect();
        let all: Vec<_> = all.iter().collect();
        let cut: Vec<usize> = frames(&all).map(<[_]>::len).collect();
        assert_eq!(cut, [2, 3]);
        let many: Vec<_> = (0..2_000u32).map(|n| tx(1, n as u8)).collect();
        let many: Vec<_> = many.iter().collect();
        assert_eq!(frames(&many).map(<[_]>::len).collect::<Vec<_>>(), [FRAME_TXS_MAX, 2_000 - FRAME_TXS_MAX]);
    }

    #[test]
    fn a_transaction_goes_to_some_of_many_and_to_all_of_few() {
        let peers: Vec<_> = (0..40).map(|n| NodeId([n; 32])).collect();
        let chosen = some(&peers, TARGETS_MAX, &B256::repeat_byte(9));
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), TARGETS_MAX);
        assert_ne!(chosen, some(&peers, TARGETS_MAX, &B256::repeat_byte(8)));
        assert_eq!(some(&peers[..3], TARGETS_MAX, &B256::ZERO), peers[..3]);
    }
}
