//! Certificates for those who did not collect them: full nodes, and validators that were away. One stream per request.
//!
//! The asker writes one frame and reads frames until the end of the stream; joined they are the answer. What comes is
//! checked with the committee's keys, so it does not matter whom it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_rlp::{RlpDecodable, RlpEncodable};
use bytes::Bytes as Frame;
use parking_lot::Mutex;
use prost::Message;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trellis_chain_finality::{
    CHECKPOINT_CERTIFICATE_BYTES_MAX, CHECKPOINT_INCLUSION_BLOCKS, CheckpointCertificate, CheckpointError,
    POST_QUANTUM_CERTIFICATE_BYTES_MAX, PostQuantumCertificate,
};
use trellis_net_peers::frame::{FrameError, read_frame, write_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{Acceptor, NetStream, NetworkHandle, OpenError, Protocol, Witness};
use trellis_primitives::{Bytes, NodeId};

use super::service::validators;
use super::{CheckpointDuty, CheckpointKeeper, CheckpointMetrics};
use crate::application::AppError;

/// Certificates of checkpoints, on request.
pub const CHECKPOINT_PROOF_PROTOCOL: Protocol = Protocol("/trellis/checkpoint-proof/1");
/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64;
/// Largest frame of an answer, in bytes.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = CHECKPOINT_CERTIFICATE_BYTES_MAX + POST_QUANTUM_CERTIFICATE_BYTES_MAX + 64;
/// Requests answered at a time.
const SERVED_MAX: usize = 16;
/// Requests of one peer answered at a time.
const SERVED_PER_PEER_MAX: usize = 2;
/// Requests turned away at a time with a word; whoever comes beyond them is told nothing.
const TURNED_AWAY_MAX: usize = 64;
/// Who is turned away reads that within this time, milliseconds.
const TURNED_AWAY_TIMEOUT_MS: u64 = 1_000;
/// A request arrives within this time of its stream, milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// An answer is taken by its asker within this time, milliseconds.
const WRITE_TIMEOUT_MS: u64 = 10_000;
/// An answer is over within this time, milliseconds.
const ANSWER_TIMEOUT_MS: u64 = 30_000;
/// Blocks back for which certificates that are missing are asked for.
const MISSING_BLOCKS_MAX: u64 = 1_024;
/// The blocks until a checkpoint is asked for again double with every round of peers, this often at most: to 64.
const DOUBLINGS_MAX: u32 = 6;

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireAsked {
    #[prost(uint64, tag = "1")]
    height: u64,
}

/// What is kept of a checkpoint; empty where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, RlpEncodable, RlpDecodable)]
struct Answer {
    certificate: Bytes,
    post_quantum: Bytes,
}

#[derive(Debug, Error)]
enum FetchError {
    #[error("no stream: {0}")]
    Open(#[from] OpenError),
    #[error("the stream failed: {0}")]
    Stream(#[from] FrameError),
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("no answer within {ANSWER_TIMEOUT_MS} ms")]
    Timeout,
    #[error("the answer is not understood: {0}")]
    Undecodable(#[from] alloy_rlp::Error),
    #[error("the answer proves nothing: {0}")]
    Wrong(#[from] CheckpointError),
    #[error("the answer is about another block")]
    OtherCheckpoint,
    #[error("the work was not done")]
    Stopped,
}

/// Answers whoever asks.
pub(super) async fn serve(
    network: NetworkHandle,
    mut acceptor: Acceptor,
    keeper: Arc<dyn CheckpointKeeper>,
    metrics: CheckpointMetrics,
) {
    let (mut served, mut turned_away) = (JoinSet::new(), JoinSet::new());
    let places = Places::default();
    while let Some((peer, stream)) = acceptor.next().await {
        while served.try_join_next().is_some() {}
        while turned_away.try_join_next().is_some() {}
        if let Some(place) = places.take(peer) {
            served.spawn(answer(network.clone(), (peer, place), stream, Arc::clone(&keeper), metrics.clone()));
            continue;
        }
        metrics.refuse("too_many_requests");
        if turned_away.len() < TURNED_AWAY_MAX {
            turned_away.spawn(turn_away(stream));
        }
    }
}

/// The places of those who are answered, by peer. Clones share them.
#[derive(Clone, Debug, Default)]
struct Places(Arc<Mutex<BTreeMap<NodeId, usize>>>);

impl Places {
    /// A place, until it is dropped; none where all are taken, or all that one peer may have.
    fn take(&self, peer: NodeId) -> Option<Place> {
        let mut taken = self.0.lock();
        let own = taken.get(&peer).copied().unwrap_or_default();
        if own >= SERVED_PER_PEER_MAX || taken.values().sum::<usize>() >= SERVED_MAX {
            return None;
        }
        taken.insert(peer, own.saturating_add(1));
        Some(Place { peer, places: self.clone() })
    }
}

#[derive(Debug)]
struct Place {
    peer: NodeId,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        match taken.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own = own.saturating_sub(1),
            _ => {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Says that nothing is here: a stream that ends without a word would read as one that is not understood.
async fn turn_away(mut stream: NetStream) {
    let nothing = alloy_rlp::encode(Answer::default());
    let written = timeout(Duration::from_millis(TURNED_AWAY_TIMEOUT_MS), async {
        write_frame(&mut stream, &nothing).await?;
        stream.shutdown().await.map_err(FrameError::Io)
    });
    if !matches!(written.await, Ok(Ok(()))) {
        tracing::debug!("who was turned away did not wait to hear it");
    }
}

async fn answer(
    network: NetworkHandle,
    (peer, _place): (NodeId, Place),
    mut stream: NetStream,
    keeper: Arc<dyn CheckpointKeeper>,
    metrics: CheckpointMetrics,
) {
    let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
    let Ok(Ok(frame)) = timeout(limit, read_frame(&mut stream, REQUEST_BYTES_MAX)).await else {
        return metrics.refuse("request");
    };
    let Ok(WireAsked { height }) = WireAsked::decode(frame) else {
        Witness::new(network, peer).invalid(Pattern::Malformed);
        return metrics.refuse("request");
    };
    let kept = keeper.kept(height).await.unwrap_or_default();
    let found = Answer { certificate: kept.0.unwrap_or_default(), post_quantum: kept.1.unwrap_or_default() };
    let bytes = alloy_rlp::encode(found);
    let written = timeout(Duration::from_millis(WRITE_TIMEOUT_MS), async {
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            write_frame(&mut stream, chunk).await?;
        }
        stream.shutdown().await.map_err(FrameError::Io)
    });
    if !matches!(written.await, Ok(Ok(()))) {
        tracing::debug!(%peer, height, "a checkpoint's certificates were not taken");
    }
}

/// Asks for what is missing of checkpoints that are past: one question at most for each block that is new here.
pub(super) async fn fetch_missing(
    network: NetworkHandle,
    keeper: Arc<dyn CheckpointKeeper>,
    metrics: CheckpointMetrics,
) {
    let mut height = 0u64;
    let mut search = Search::default();
    loop {
        height = keeper.above(height).await;
        match ask_once(&network, &*keeper, height, &mut search).await {
            Ok(true) => {
                metrics.fetched.inc();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "checkpoints that were missed cannot be kept"),
        }
    }
}

/// How often a checkpoint was asked for in vain.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    /// The place of the peer that is next.
    turn: usize,
    /// Questions so far.
    count: usize,
    /// It is not asked for below this height.
    not_below: u64,
}

/// What is known of the checkpoints that are past.
#[derive(Debug, Default)]
struct Search {
    /// All of them is here, or what they are cannot be told here: not looked at again.
    settled: BTreeSet<u64>,
    tries: BTreeMap<u64, Tries>,
    turn: usize,
}

impl Search {
    /// Forgets what is below `first`.
    fn forget(&mut self, first: u64) {
        self.settled.retain(|checkpoint| *checkpoint >= first);
        self.tries.retain(|checkpoint, _| *checkpoint >= first);
    }

    fn settle(&mut self, checkpoint: u64) {
        self.settled.insert(checkpoint);
        self.tries.remove(&checkpoint);
    }

    /// Which of the missing ones to ask for at `height`, and which of so many peers. Both take turns: nobody may have the
    /// newest one, and one peer may have none.
    fn choose(&mut self, missing: &[u64], height: u64, peers: usize) -> Option<(u64, usize)> {
        self.turn = self.turn.wrapping_add(1);
        let due = |checkpoint: &u64| self.tries.get(checkpoint).is_none_or(|tries| tries.not_below <= height);
        let due: Vec<u64> = missing.iter().copied().filter(due).collect();
        let checkpoint = *due.get(self.turn.checked_rem(due.len())?)?;
        let first = Tries { turn: self.turn, ..Tries::default() };
        let tries = self.tries.entry(checkpoint).or_insert(first);
        let peer = tries.turn.checked_rem(peers)?;
        tries.turn = tries.turn.wrapping_add(1);
        tries.count = tries.count.saturating_add(1);
        let rounds = u32::try_from(tries.count.checked_div(peers)?).unwrap_or(u32::MAX);
        tries.not_below = height.saturating_add(1u64 << rounds.min(DOUBLINGS_MAX));
        Some((checkpoint, peer))
    }
}

/// `true` where a peer had what was missing.
async fn ask_once(
    network: &NetworkHandle,
    keeper: &dyn CheckpointKeeper,
    height: u64,
    search: &mut Search,
) -> Result<bool, AppError> {
    let missing = missing(keeper, height, search).await?;
    let peers = validators(network);
    let Some((checkpoint, place)) = search.choose(&missing, height, peers.len()) else { return Ok(false) };
    let Some(peer) = peers.get(place).copied() else { return Ok(false) };
    let duty = match keeper.duty(checkpoint).await {
        Ok(Some(duty)) => duty,
        // A node that began with a snapshot lacks the blocks that say what was signed, and by whom.
        Ok(None) => {
            search.settle(checkpoint);
            return Ok(false);
        }
        Err(error) => {
            tracing::debug!(checkpoint, %error, "what a checkpoint certifies cannot be told here; it is not asked for");
            search.settle(checkpoint);
            return Ok(false);
        }
    };
    match fetch(network, peer, duty).await {
        Ok(found) => {
            let (short, long) = keeper.kept(checkpoint).await?;
            let wanted = |bytes: Bytes, known: Option<Bytes>| (known.is_none() && !bytes.is_empty()).then_some(bytes);
            let (certificate, post_quantum) = (wanted(found.certificate, short), wanted(found.post_quantum, long));
            if certificate.is_none() && post_quantum.is_none() {
                return Ok(false);
            }
            let useful = post_quantum.is_some();
            keeper.keep(checkpoint, certificate, post_quantum).await?;
            Ok(useful)
        }
        Err(error) => {
            tracing::debug!(%peer, checkpoint, %error, "no certificates from peer");
            Ok(false)
        }
    }
}

/// The checkpoints that are past and of which a certificate is missing, newest first.
async fn missing(keeper: &dyn CheckpointKeeper, height: u64, search: &mut Search) -> Result<Vec<u64>, AppError> {
    let (rules, last) = (keeper.rules(), height.saturating_sub(CHECKPOINT_INCLUSION_BLOCKS));
    let first = last.saturating_sub(MISSING_BLOCKS_MAX);
    search.forget(first);
    let mut missing = Vec::new();
    for checkpoint in (first..=last).rev().filter(|height| rules.has(*height)) {
        if search.settled.contains(&checkpoint) {
            continue;
        }
        if matches!(keeper.kept(checkpoint).await?, (Some(_), Some(_))) {
            search.settle(checkpoint);
        } else {
            missing.push(checkpoint);
        }
    }
    Ok(missing)
}

async fn fetch(network: &NetworkHandle, peer: NodeId, duty: CheckpointDuty) -> Result<Answer, FetchError> {
    let exchange = exchange(network, peer, duty.message.height);
    let bytes =
        timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), exchange).await.map_err(|_| FetchError::Timeout)??;
    let checked = tokio::task::spawn_blocking(move || check(&bytes, &duty));
    checked.await.map_err(|_| FetchError::Stopped)?
}

async fn exchange(network: &NetworkHandle, peer: NodeId, height: u64) -> Result<Vec<u8>, FetchError> {
    let mut stream = network.open(peer, CHECKPOINT_PROOF_PROTOCOL).await?;
    let asked: Frame = WireAsked { height }.encode_to_vec().into();
    write_frame(&mut stream, &asked).await?;
    let mut answer = Vec::new();
    loop {
        match read_frame(&mut stream, CHUNK_BYTES_MAX).await {
            Ok(chunk) if answer.len() + chunk.len() <= ANSWER_BYTES_MAX => answer.extend_from_slice(&chunk),
            Ok(_) => return Err(FetchError::TooLarge),
            Err(FrameError::End) => return Ok(answer),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads an answer; nothing of it that does not hold is taken.
fn check(bytes: &[u8], duty: &CheckpointDuty) -> Result<Answer, FetchError> {
    let answer: Answer = alloy_rlp::decode_exact(bytes)?;
    let genesis = duty.message.genesis_hash;
    if !answer.certificate.is_empty() {
        let short = CheckpointCertificate::decode_exact(&answer.certificate)?;
        if short.message(genesis) != duty.message {
            return Err(FetchError::OtherCheckpoint);
        }
        short.verify(&duty.committee, genesis)?;
    }
    if !answer.post_quantum.is_empty() {
        let long = PostQuantumCertificate::decode_exact(&answer.post_quantum)?;
        if long.message(genesis) != duty.message {
            return Err(FetchError::OtherCheckpoint);
        }
        long.verify(&duty.committee, genesis)?;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::state::fixtures::{certified, duty};

    // row: CHN-15
    #[test]
    fn an_answer_is_taken_only_where_all_of_it_holds() {
        let (duty, other) = (duty(64), duty(128));
        let (certificate, post_quantum) = certified(&duty);
        let whole = Answer { certificate, post_quantum };
        assert_eq!(check(&alloy_rlp::encode(&whole), &duty).unwrap(), whole);
        let nothing = Answer::default();
        assert_eq!(check(&alloy_rlp::encode(&nothing), &duty).unwrap(), nothing);
        assert!(matches!(check(&alloy_rlp::encode(&whole), &other), Err(FetchError::OtherCheckpoint)));
        let swapped = Answer { certificate: whole.post_quantum.clone(), post_quantum: whole.certificate.clone() };
        assert!(check(&alloy_rlp::encode(&swapped), &duty).is_err());
        let mut forged = PostQuantumCertificate::decode_exact(&whole.post_quantum).unwrap();
        forged.signatures.swap(0, 1);
        let forged = Answer { post_quantum: alloy_rlp::encode(forged).into(), ..whole };
        assert!(matches!(check(&alloy_rlp::encode(&forged), &duty), Err(FetchError::Wrong(_))));
        assert!(matches!(check(&[0xff; 40], &duty), Err(FetchError::Undecodable(_))));
    }

    #[test]
    fn one_peer_gets_two_places_and_leaves_the_others_to_the_rest() {
        let places = Places::default();
        let greedy: Vec<_> = (0..SERVED_MAX).filter_map(|_| places.take(NodeId([1; 32]))).collect();
        assert_eq!(greedy.len(), SERVED_PER_PEER_MAX);
        let rest: Vec<_> = (2..100).filter_map(|n| places.take(NodeId([n; 32]))).collect();
        assert_eq!(rest.len(), SERVED_MAX - SERVED_PER_PEER_MAX);
        drop(greedy);
        assert!(places.take(NodeId([1; 32])).is_some(), "a place that is left is free");
        drop(rest);
        assert!(places.0.lock().is_empty(), "nobody who left is remembered");
    }

    #[test]
    fn what_nobody_has_is_asked_of_every_peer_and_then_ever_more_seldom() {
        let mut search = Search::default();
        let mut asked = Vec::new();
        for height in 100..400 {
            asked.extend(search.choose(&[64], height, 3).map(|(_, peer)| (height, peer)));
        }
        let first: BTreeSet<usize> = asked.iter().take(3).map(|(_, peer)| *peer).collect();
        assert_eq!(first.len(), 3, "all of them");
        assert_eq!(asked[2].0, 102, "one after the other");
        let gaps: Vec<u64> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.is_sorted() && gaps.last() == Some(&64), "{gaps:?}");
        assert_eq!(search.choose(&[128, 64], 400, 3).map(|(checkpoint, _)| checkpoint), Some(128), "new ones at once");
        search.forget(100);
        assert_eq!(search.tries.len(), 1);
        assert_eq!(search.choose(&[], 500, 3), None);
        assert_eq!(search.choose(&[128], 500, 0), None, "nobody to ask");
    }
}
