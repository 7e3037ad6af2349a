//! What this node's chain is and what of it can be asked: `eth_config` (EIP-7910), `eth_capabilities`.

use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::Args;
use crate::shape::{Answer, json};
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::BEACON_ROOTS_ADDRESS;
use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_eips::eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS;
use alloy_eips::eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS;
use alloy_primitives::{Address, B256, Bytes, U64};
use serde_json::{Map, Value, json as value};
use trellis_chain_execution::ForkSchedule;
use trellis_primitives::Header;

/// The forks around now: the one that holds, the next, and the last that is planned.
pub(super) fn config(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let head = context.store.head();
    let Some(forks) = context.executor.forks() else {
        let genesis_hash = context.store.genesis_hash()?.unwrap_or_default();
        let current = trellis(context, head.header(), genesis_hash);
        return json(&value!({ "current": current, "next": null, "last": null }));
    };
    let genesis = context.store.header(0)?.ok_or(RpcError::HeaderNotFound)?;
    let timed = forks.timed_forks();
    let now = head.header().timestamp;
    let at = |time_s: u64| fork(context, forks, &genesis, head.header(), time_s);
    let current = timed.iter().rev().find(|fork| fork.time_s <= now).map(|fork| at(fork.time_s));
    let next = timed.iter().find(|fork| fork.time_s > now).map(|fork| at(fork.time_s));
    let last = timed.last().filter(|_| next.is_some()).map(|fork| at(fork.time_s));
    json(&value!({ "current": current, "next": next, "last": last }))
}

fn fork(context: &RpcContext, forks: &ForkSchedule, genesis: &Header, head: &Header, time_s: u64) -> Value {
    let header = Header { timestamp: time_s, ..head.clone() };
    let blobs = forks.blob_params(time_s);
    value!({
        "activationTime": time_s,
        "blobSchedule": blobs.map(|blobs| value!({
            "baseFeeUpdateFraction": u64::try_from(blobs.update_fraction).unwrap_or(u64::MAX),
            "max": blobs.max_blob_count,
            "target": blobs.target_blob_count,
        })),
        "chainId": U64::from(forks.chain_id()),
        "forkId": fork_id(forks, genesis, head.number, time_s),
        "precompiles": precompiles(context, &header),
        "systemContracts": system_contracts(context, &header),
    })
}

/// A Trellis chain is at its fork from the beginning, and sells no blobs.
fn trellis(context: &RpcContext, head: &Header, genesis_hash: B256) -> Value {
    value!({
        "activationTime": 0,
        "blobSchedule": { "baseFeeUpdateFraction": 0, "max": 0, "target": 0 },
        "chainId": U64::from(context.chain_id()),
        "forkId": Bytes::copy_from_slice(&crc32(&genesis_hash.0, &[]).to_be_bytes()),
        "precompiles": precompiles(context, head),
        "systemContracts": system_contracts(context, head),
    })
}

/// The checksum of EIP-2124: of block zero's hash and of every fork until then.
fn fork_id(forks: &ForkSchedule, genesis: &Header, height: u64, time_s: u64) -> Bytes {
    let (blocks, times) = forks.fork_id_steps(genesis.timestamp);
    let steps = blocks.into_iter().filter(|number| *number <= height);
    let steps: Vec<u64> = steps.chain(times.into_iter().filter(|begin| *begin <= time_s)).collect();
    Bytes::copy_from_slice(&crc32(&genesis.hash_slow().0, &steps).to_be_bytes())
}

/// CRC-32 (IEEE) of a hash and some big-endian numbers.
fn crc32(hash: &[u8], steps: &[u64]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let bytes = hash.iter().copied().chain(steps.iter().flat_map(|step| step.to_be_bytes()));
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 })
    })
}

fn precompiles(context: &RpcContext, header: &Header) -> Map<String, Value> {
    context.executor.precompile_names(header).into_iter().map(|(name, address)| (name, value!(address))).collect()
}

fn system_contracts(context: &RpcContext, header: &Header) -> Value {
    let mut contracts = vec![("BEACON_ROOTS_ADDRESS", BEACON_ROOTS_ADDRESS)];
    if header.requests_hash.is_some() || context.executor.is_prague(header) {
        contracts.push(("HISTORY_STORAGE_ADDRESS", HISTORY_STORAGE_ADDRESS));
        if let Some(forks) = context.executor.forks() {
            let deposits: Address = forks.deposit_contract().unwrap_or(MAINNET_DEPOSIT_CONTRACT_ADDRESS);
            contracts.extend([
                ("CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS", CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS),
                ("DEPOSIT_CONTRACT_ADDRESS", deposits),
                ("WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS", WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS),
            ]);
        }
    }
    contracts.into_iter().map(|(name, address)| (name.to_owned(), value!(address))).collect::<Map<_, _>>().into()
}

/// What can be asked of how old blocks: all blocks are kept, or those since the snapshot that the node began with; states of
/// the newest only.
pub(super) fn capabilities(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let head = context.store.head();
    let (oldest, kept) = context.store.oldest_state();
    let all = value!({ "disabled": false, "oldestBlock": U64::from(context.store.first_height()?) });
    let state = value!({
        "disabled": false,
        "oldestBlock": U64::from(oldest),
        "deleteStrategy": { "type": "window", "retentionBlocks": U64::from(kept) },
    });
    json(&value!({
        "head": { "number": U64::from(head.height()), "hash": head.block_hash() },
        "state": state.clone(),
        "tx": all.clone(),
        "logs": all.clone(),
        "receipts": all.clone(),
        "blocks": all,
        "stateproofs": state,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;

    #[test]
    fn fork_ids_are_those_of_the_standard() {
        // Mainnet's genesis and its first fork (EIP-2124, "Test cases").
        let genesis = hex!("d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3");
        assert_eq!(crc32(&genesis, &[]), 0xfc64_ec04);
        assert_eq!(crc32(&genesis, &[1_150_000]), 0x97c2_c34c);
    }
}
