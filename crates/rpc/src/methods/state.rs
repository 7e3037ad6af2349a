//! Accounts, code, slots and their proofs.

use crate::block_ref::{BlockRef, block_ref};
use crate::config::SLOTS_MAX;
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::params::{Args, address, storage_key, texts};
use crate::shape::{Answer, json};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U64, U256};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

fn at(args: &Args, index: usize) -> Result<BlockRef, RpcError> {
    Ok(args.optional(index, block_ref)?.unwrap_or(BlockRef::Latest))
}

pub(super) fn balance(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let who = args.required(0, address)?;
    let account = context.view(at(args, 1)?)?.account(who);
    json(&account.map(|account| account.balance).unwrap_or_default())
}

/// The nonce; for `pending`, the one after the sender's last waiting transaction.
pub(super) fn transaction_count(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let who = args.required(0, address)?;
    let named = at(args, 1)?;
    if named == BlockRef::Pending {
        return json(&U64::from(pending_nonce(context, who)));
    }
    json(&U64::from(context.view(named)?.account(who).map(|account| account.nonce).unwrap_or_default()))
}

/// The nonce after the sender's last waiting transaction.
pub(super) fn pending_nonce(context: &RpcContext, who: Address) -> u64 {
    let waiting = context.mempool.pending_nonce(&who);
    let nonce = context.store.head().account(who).map(|account| account.nonce).unwrap_or_default();
    waiting.unwrap_or(nonce).max(nonce)
}

pub(super) fn code(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let who = args.required(0, address)?;
    let view = context.view(at(args, 1)?)?;
    let code = match view.account(who) {
        Some(account) => view.code(account.code_hash)?,
        None => None,
    };
    json(&code.unwrap_or_default())
}

pub(super) fn storage_at(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let who = args.required(0, address)?;
    let slot = args.storage_key(1)?;
    json(&B256::from(context.view(at(args, 2)?)?.storage(who, slot)))
}

/// Many slots of many accounts at once.
pub(super) fn storage_values(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let wanted = args.required(0, slots_by_account)?;
    let count = wanted.iter().map(|(_, slots)| slots.len()).fold(0, usize::saturating_add);
    if count == 0 {
        return Err(RpcError::InvalidParams("empty request"));
    }
    check_slots(count)?;
    let view = context.view(at(args, 1)?)?;
    let values: BTreeMap<Address, Vec<B256>> = wanted
        .into_iter()
        .map(|(who, slots)| {
            let values = slots.into_iter().map(|slot| B256::from(view.storage(who, slot)));
            (who, values.collect())
        })
        .collect();
    json(&values)
}

fn slots_by_account(value: &Value) -> Result<Vec<(Address, Vec<U256>)>, ArgumentError> {
    let object = value.as_object().ok_or(ArgumentError::Want("object of address to slots"))?;
    object
        .iter()
        .map(|(who, slots)| {
            let who = address(&Value::String(who.clone()))?;
            let slots = texts(slots)?;
            let slots = slots.iter().map(|text| storage_key(text));
            let slots = slots.collect::<Result<_, _>>().map_err(|error| ArgumentError::Object(error.to_string()))?;
            Ok((who, slots))
        })
        .collect()
}

fn check_slots(count: usize) -> Result<(), RpcError> {
    let as_u64 = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    if count > SLOTS_MAX {
        return Err(RpcError::Limit { what: "storage slots", asked: as_u64(count), max: as_u64(SLOTS_MAX) });
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProofJson {
    address: Address,
    account_proof: Vec<Bytes>,
    balance: U256,
    code_hash: B256,
    nonce: U64,
    storage_hash: B256,
    storage_proof: Vec<SlotProofJson>,
}

#[derive(Serialize)]
struct SlotProofJson {
    key: String,
    value: U256,
    proof: Vec<Bytes>,
}

/// An account and some of its slots with their Merkle proofs (EIP-1186).
pub(super) fn proof(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let who = args.required(0, address)?;
    let keys = args.optional(1, texts)?.unwrap_or_default();
    check_slots(keys.len())?;
    let slots = keys.iter().map(|key| storage_key(key)).collect::<Result<Vec<_>, _>>();
    let slots = slots.map_err(RpcError::StorageKey)?;
    let proof = context.view(at(args, 2)?)?.proof(who, &slots);
    let account = proof.account.unwrap_or_default();
    let code_hash = if account.code_hash.is_zero() { KECCAK256_EMPTY } else { account.code_hash };
    let storage_proof = proof
        .storage
        .into_iter()
        .zip(&keys)
        .map(|(slot, key)| SlotProofJson { key: key_as_asked(key, slot.slot), value: slot.value, proof: slot.nodes })
        .collect();
    json(&ProofJson {
        address: who,
        account_proof: proof.nodes,
        balance: account.balance,
        code_hash,
        nonce: U64::from(account.nonce),
        storage_hash: proof.storage_root,
        storage_proof,
    })
}

/// A whole word is given back as a word, everything else as a number, as geth does.
fn key_as_asked(key: &str, slot: U256) -> String {
    const WORD_DIGITS: usize = 64;
    if key.trim_start_matches("0x").len() == WORD_DIGITS { B256::from(slot).to_string() } else { format!("{slot:#x}") }
}
