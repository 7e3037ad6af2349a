//! `trellis_getCheckpoint…`: what two thirds of a committee signed about a block (CHN-15).

use crate::block_ref::{BlockRef, block_ref};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::Args;
use crate::shape::{Answer, json, null};
use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Serialize;
use trellis_chain_finality::{CheckpointCertificate, CheckpointCommittee};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointJson {
    height: U64,
    block_hash: B256,
    genesis_hash: B256,
    /// The next committee's hash.
    next_committee: B256,
    /// A bit for each member of the committee that signed.
    signers: Bytes,
    /// What each of them signed.
    signing_hash: B256,
    /// RLP of the certificate in BLS12-381, as it stands in a block.
    certificate: Bytes,
    /// RLP of the certificate in ML-DSA-44; null where this node does not have it.
    post_quantum: Option<Bytes>,
}

/// A checkpoint by its height, or the newest one by a tag: whoever has the committee's keys can check it.
pub(super) fn checkpoint(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let named = args.optional(0, block_ref)?.unwrap_or(BlockRef::Latest);
    let Some(at) = context.height(named)? else { return Ok(null()) };
    let height = match named {
        BlockRef::Number(_) | BlockRef::Hash(_) => Some(at),
        BlockRef::Latest | BlockRef::Safe | BlockRef::Finalized | BlockRef::Pending => {
            context.store.newest_checkpoint(at)?
        }
    };
    let Some(height) = height else { return Ok(null()) };
    let kept = context.store.checkpoint(height)?;
    let Some(bytes) = kept.certificate else { return Ok(null()) };
    let certificate =
        CheckpointCertificate::decode_exact(&bytes).map_err(|_| RpcError::Internal("a checkpoint does not decode"))?;
    let genesis_hash = context.store.genesis_hash()?.ok_or(RpcError::Internal("no genesis"))?;
    json(&CheckpointJson {
        height: U64::from(height),
        block_hash: certificate.block_hash,
        genesis_hash,
        next_committee: certificate.next_committee,
        signing_hash: certificate.message(genesis_hash).signing_hash(),
        signers: certificate.signers,
        certificate: bytes,
        post_quantum: kept.post_quantum,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommitteeJson {
    height: U64,
    /// What a checkpoint names it by.
    hash: B256,
    /// Hash of its vote keys, which is in the other.
    validators_hash: B256,
    total_power: U64,
    quorum_power: U64,
    members: Vec<MemberJson>,
    /// RLP of all of it, as `CheckpointCommittee::decode_exact` takes it.
    committee: Bytes,
}

#[derive(Serialize)]
struct MemberJson {
    account: Address,
    power: U64,
    bls: Bytes,
    mldsa44: Bytes,
}

/// The committee that decides a block, with its checkpoint keys. Whoever does not know its hash from a checkpoint takes this
/// node's word for it.
pub(super) fn committee(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let named = args.optional(0, block_ref)?.unwrap_or(BlockRef::Latest);
    let Some(height) = context.height(named)? else { return Ok(null()) };
    let Some(committee) = context.committee.checkpoint_committee(height) else { return Ok(null()) };
    json(&CommitteeJson {
        height: U64::from(height),
        hash: committee.hash(),
        validators_hash: committee.validators_hash(),
        total_power: U64::from(committee.total_power()),
        quorum_power: U64::from(committee.quorum_power()),
        members: members(&committee),
        committee: committee.to_rlp(),
    })
}

fn members(committee: &CheckpointCommittee) -> Vec<MemberJson> {
    let one = |member: &trellis_chain_finality::CheckpointMember| MemberJson {
        account: member.account,
        power: U64::from(member.power),
        bls: member.keys.bls.clone(),
        mldsa44: member.keys.mldsa44.clone(),
    };
    committee.members().iter().map(one).collect()
}
