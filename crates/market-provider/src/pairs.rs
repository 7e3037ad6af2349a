//! Pair roots on the provider's side: checks the gateway's, signs it with ML-DSA-65, remembers it.

use crate::service::Shared;
use std::collections::HashMap;
use trellis_crypto::HybridPublic;
use trellis_market_journal::{JobPhase, PairRoot as PairRootRecord, Record};
use trellis_market_receipt::wire::{JobError, JobErrorCode, PairRootOffer};
use trellis_market_receipt::{PairRoot, PairRootError, PqProof, SignedPairRoot};
use trellis_primitives::{B256, JobId, NodeId};

/// The last root of a pair.
#[derive(Debug, Clone)]
pub(crate) struct LastRoot {
    index: u64,
    hash: B256,
    signed: SignedPairRoot,
}

/// The last root of each gateway.
pub(crate) type LastRoots = tokio::sync::Mutex<HashMap<NodeId, LastRoot>>;

fn refuse(code: JobErrorCode, message: impl Into<String>) -> JobError {
    JobError { job: JobId::default(), code, message: message.into() }
}

fn bad(error: &PairRootError) -> JobError {
    refuse(JobErrorCode::Receipt, error.to_string())
}

/// Checks an offered root and gives it back with this provider's signature. The same offer again gets the same answer.
pub(crate) async fn sign(shared: &Shared, peer: NodeId, offer: PairRootOffer) -> Result<SignedPairRoot, JobError> {
    let record = offer.root.record().map_err(|error| bad(&error))?;
    let hash = offer.root.hash().map_err(|error| bad(&error))?;
    let mut roots = shared.roots.lock().await;
    let last = match roots.get(&peer) {
        Some(last) => Some(last.clone()),
        None => read_last(shared, peer)?,
    };
    if let Some(last) = last.as_ref().filter(|last| last.hash == hash) {
        return Ok(last.signed.clone());
    }
    check(shared, peer, &offer, &record, last.as_ref())?;
    let mut signed = offer.root;
    signed.sign_as_provider(&shared.node_key).map_err(|error| bad(&error))?;
    let kept = Record::PairRoot(PairRootRecord {
        peer: peer.to_b256(),
        root: record.root,
        receipts: offer.digests.clone(),
        payload: signed.to_bytes().into(),
    });
    let stored = shared.journal.append(kept).await;
    stored.map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    roots.insert(peer, LastRoot { index: record.index, hash, signed: signed.clone() });
    drop(roots);
    shared.metrics.pair_roots.inc();
    let proofs = PqProof::all_under(&signed, &offer.digests).map_err(|error| bad(&error))?;
    for (receipt, proof) in offer.digests.iter().zip(proofs) {
        shared.pending.prove(receipt, proof.to_bytes());
    }
    Ok(signed)
}

fn read_last(shared: &Shared, peer: NodeId) -> Result<Option<LastRoot>, JobError> {
    let position = shared.journal.index().pair_roots(peer.to_b256()).last().copied();
    let Some(position) = position else { return Ok(None) };
    let internal = |message: String| refuse(JobErrorCode::Internal, message);
    let (_, record) = shared.journal.read(position).map_err(|error| internal(error.to_string()))?;
    let Record::PairRoot(kept) = record else { return Ok(None) };
    let signed = SignedPairRoot::from_bytes(&kept.payload).map_err(|error| internal(error.to_string()))?;
    let root = signed.record().map_err(|error| bad(&error))?;
    let hash = signed.hash().map_err(|error| bad(&error))?;
    Ok(Some(LastRoot { index: root.index, hash, signed }))
}

fn check(
    shared: &Shared,
    peer: NodeId,
    offer: &PairRootOffer,
    record: &PairRoot,
    last: Option<&LastRoot>,
) -> Result<(), JobError> {
    let local = shared.network.local_id();
    if record.provider() != local || record.chain_id != shared.config.chain_id {
        return Err(refuse(JobErrorCode::Receipt, "the root is not for this provider and chain"));
    }
    let (index, previous) = last.map_or((0, B256::ZERO), |last| (last.index.saturating_add(1), last.hash));
    if (record.index, record.previous) != (index, previous) {
        return Err(refuse(JobErrorCode::Receipt, format!("root {} was expected after {previous}", index)));
    }
    let key = peer_key(shared, peer)
        .ok_or_else(|| refuse(JobErrorCode::Receipt, "the gateway's node record with its keys is not known"))?;
    offer.root.verify_gateway(&key).map_err(|error| bad(&error))?;
    offer.root.verify_receipts(&offer.digests).map_err(|error| bad(&error))?;
    let journal = shared.journal.index();
    for receipt in &offer.digests {
        let job = journal.job_by_receipt_hash(*receipt).and_then(|job| journal.job(job));
        let of_peer = |channel| {
            journal
                .channel(channel)
                .and_then(|state| state.opened.as_ref())
                .is_some_and(|opened| opened.peer == peer.to_b256())
        };
        if !job.is_some_and(|job| job.phase == JobPhase::Complete && of_peer(job.channel)) {
            return Err(refuse(JobErrorCode::Receipt, format!("receipt {receipt} is not complete here")));
        }
    }
    Ok(())
}

/// The public keys in the node record that the peer's handshake proved.
fn peer_key(shared: &Shared, peer: NodeId) -> Option<HybridPublic> {
    let record = shared.network.peers().into_iter().find(|info| info.id == Some(peer))?.record?;
    Some(HybridPublic { ed25519: record.ed25519, mldsa65: record.mldsa65.to_vec() })
}
