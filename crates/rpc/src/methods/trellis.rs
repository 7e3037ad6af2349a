//! `trellis_*`: what Ethereum has no word for.

use crate::block_ref::{BlockRef, block_ref};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::Args;
use crate::shape::{Answer, json, null};
use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Serialize;
use serde_json::json as object;
use trellis_chain_finality::{FinalityProof, ValidatorSet};

fn at(args: &Args) -> Result<BlockRef, RpcError> {
    args.at_most(1)?;
    Ok(args.optional(0, block_ref)?.unwrap_or(BlockRef::Latest))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProofJson {
    number: U64,
    hash: B256,
    genesis_hash: B256,
    /// RLP of the header: its keccak is `hash`.
    header: Bytes,
    round: U64,
    signatures: Vec<SignatureJson>,
    /// RLP of the block's consensus section: its keccak is the header's `parentBeaconBlockRoot`.
    section: Bytes,
    /// RLP of header and certificate in one, as `FinalityProof::decode_exact` takes it.
    proof: Bytes,
}

#[derive(Serialize)]
struct SignatureJson {
    validator: Address,
    signature: Bytes,
}

/// The proof that a block is final: whoever knows the committee's keys can check it and needs nothing else (CHN-42).
pub(super) fn finality_proof(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let Some(block) = context.block(at(args)?)? else { return Ok(null()) };
    let Some(certificate) = block.certificate.clone() else { return Err(RpcError::NoCertificate(block.height())) };
    let header = Bytes::from(alloy_rlp::encode(&block.block.header));
    let signatures = certificate
        .signatures
        .iter()
        .map(|entry| SignatureJson { validator: entry.validator, signature: entry.signature.clone() })
        .collect();
    let round = U64::from(certificate.round);
    let proof = FinalityProof { header_rlp: header.clone(), certificate };
    json(&ProofJson {
        number: U64::from(block.height()),
        hash: block.hash,
        genesis_hash: context.store.genesis_hash()?.ok_or(RpcError::Internal("no genesis"))?,
        header,
        round,
        signatures,
        section: alloy_rlp::encode(&block.block.section).into(),
        proof: alloy_rlp::encode(&proof).into(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidatorJson {
    address: Address,
    scheme: &'static str,
    vote_key: Bytes,
    power: U64,
    account: Address,
}

/// The committee that decides a block: keys, power, and how much of it a certificate needs.
pub(super) fn validators(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let Some(height) = context.height(at(args)?)? else { return Ok(null()) };
    let Some(set) = context.committee.committee(height) else { return Ok(null()) };
    json(&object!({
        "height": U64::from(height),
        "totalPower": U64::from(set.total_power()),
        "quorumPower": U64::from(set.quorum_power()),
        "validators": members(&set),
    }))
}

fn members(set: &ValidatorSet) -> Vec<ValidatorJson> {
    let one = |member: &trellis_chain_finality::Validator| ValidatorJson {
        address: member.address,
        scheme: member.public_key.scheme().word(),
        vote_key: Bytes::copy_from_slice(member.public_key.as_bytes()),
        power: U64::from(member.power),
        account: member.account,
    };
    set.validators().iter().map(one).collect()
}

/// The node in one answer: chain, head, pool, network, market.
pub(super) fn status(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let head = context.store.block(context.store.height())?.ok_or(RpcError::Internal("no head"))?;
    let pool = context.mempool.status();
    let syncing = context.net.sync_progress().map(|progress| {
        object!({
            "startingBlock": progress.starting_block,
            "currentBlock": progress.current_block,
            "highestBlock": progress.highest_block,
        })
    });
    json(&object!({
        "client": context.client_version,
        "chainId": context.chain_id(),
        "genesisHash": context.store.genesis_hash()?,
        "head": {
            "number": head.height(),
            "hash": head.hash,
            "timeMs": head.block.section.time_ms,
            "transactions": head.block.transactions.len(),
            "final": true,
        },
        "nextBaseFeeWei": context.next_base_fee(),
        "txpool": { "pending": pool.pending, "queued": pool.queued, "bytes": pool.bytes },
        "syncing": syncing,
        "net": context.net.summary(),
        "market": context.market.summary(),
    }))
}
