//! Certificates for those who did not collect them: full nodes, and validators that were away. One stream per request.
//!
//! The asker writes one frame and reads frames until the end of the stream; joined they are the answer. What comes is
//! checked with the committee's keys, so it does not matter whom it comes from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_rlp::{RlpDecodable, RlpEncodable};
use bytes::Bytes as Frame;
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
/// A request arrives within this time of its stream, milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// An answer is over within this time, milliseconds.
const ANSWER_TIMEOUT_MS: u64 = 30_000;
/// Blocks back for which certificates that are missing are asked for.
const MISSING_BLOCKS_MAX: u64 = 1_024;

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
    let mut served = JoinSet::new();
    while let Some((peer, stream)) = acceptor.next().await {
        while served.try_join_next().is_some() {}
        if served.len() >= SERVED_MAX {
            metrics.refuse("too_many_requests");
            continue;
        }
        served.spawn(answer(network.clone(), peer, stream, Arc::clone(&keeper), metrics.clone()));
    }
}

async fn answer(
    network: NetworkHandle,
    peer: NodeId,
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
    let written = timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), async {
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            write_frame(&mut stream, chunk).await?;
        }
        stream.shutdown().await.map_err(FrameError::Io)
    });
    if !matches!(written.await, Ok(Ok(()))) {
        tracing::debug!(%peer, height, "a checkpoint's certificates were not taken");
    }
}

/// Asks for what is missing of checkpoints that are past: one question for each block that is new here.
pub(super) async fn fetch_missing(
    network: NetworkHandle,
    keeper: Arc<dyn CheckpointKeeper>,
    metrics: CheckpointMetrics,
) {
    let (mut height, mut turn) = (0u64, 0usize);
    let mut whole = BTreeSet::new();
    loop {
        height = keeper.above(height).await;
        turn = turn.wrapping_add(1);
        let asked = ask_once(&network, &*keeper, (height, turn), &mut whole).await;
        match asked {
            Ok(true) => {
                metrics.fetched.inc();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "checkpoints that were missed cannot be kept"),
        }
    }
}

/// `true` where a peer had what was missing. Checkpoints and peers take turns: nobody may have the newest one.
async fn ask_once(
    network: &NetworkHandle,
    keeper: &dyn CheckpointKeeper,
    (height, turn): (u64, usize),
    whole: &mut BTreeSet<u64>,
) -> Result<bool, AppError> {
    let missing = missing(keeper, height, whole).await?;
    let peers = validators(network);
    let chosen = turn.checked_rem(missing.len()).and_then(|place| missing.get(place));
    let turn = turn.checked_div(missing.len()).unwrap_or_default();
    let peer = turn.checked_rem(peers.len()).and_then(|place| peers.get(place));
    let (Some(checkpoint), Some(peer)) = (chosen.copied(), peer) else { return Ok(false) };
    let Some(duty) = keeper.duty(checkpoint).await? else { return Ok(false) };
    match fetch(network, *peer, duty).await {
        Ok(found) => {
            let some = |bytes: Bytes| (!bytes.is_empty()).then_some(bytes);
            let (certificate, post_quantum) = (some(found.certificate), some(found.post_quantum));
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

/// The checkpoints that are past and of which a certificate is missing, newest first; those that are `whole` are not looked at.
async fn missing(keeper: &dyn CheckpointKeeper, height: u64, whole: &mut BTreeSet<u64>) -> Result<Vec<u64>, AppError> {
    let (rules, last) = (keeper.rules(), height.saturating_sub(CHECKPOINT_INCLUSION_BLOCKS));
    let first = last.saturating_sub(MISSING_BLOCKS_MAX);
    whole.retain(|checkpoint| *checkpoint >= first);
    let mut missing = Vec::new();
    for checkpoint in (first..=last).rev().filter(|height| rules.has(*height)) {
        if whole.contains(&checkpoint) {
            continue;
        }
        if matches!(keeper.kept(checkpoint).await?, (Some(_), Some(_))) {
            whole.insert(checkpoint);
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
}
