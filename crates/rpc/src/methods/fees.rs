//! What gas costs: now, and in the blocks before.

use crate::block_ref::block_number;
use crate::config::{FEE_HISTORY_BLOCKS_MAX, FEE_HISTORY_PERCENTILES_MAX, QUESTION_MS_MAX, TIP_WEI_MIN};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, percentiles, quantity_u64};
use crate::shape::{Answer, json};
use alloy_consensus::Transaction;
use alloy_primitives::{U64, U256};
use serde::Serialize;
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::Header;

/// Blocks that the suggested tip looks back at.
const TIP_BLOCKS: u64 = 10;
/// The percentile of their tips that is suggested, as geth does.
const TIP_PERCENTILE: usize = 60;
/// The tip suggested at most: 500 gwei, as geth.
const TIP_WEI_MAX: u128 = 500_000_000_000;

/// Worked out once for each head.
pub(super) fn suggested_tip(context: &RpcContext) -> Result<u128, RpcError> {
    let head = context.store.height();
    if let Some((height, tip)) = *context.tip.lock()
        && height == head
    {
        return Ok(tip);
    }
    let tip = tip_at(context, head)?;
    *context.tip.lock() = Some((head, tip));
    Ok(tip)
}

fn tip_at(context: &RpcContext, head: u64) -> Result<u128, RpcError> {
    let mut tips = Vec::new();
    for height in head.saturating_sub(TIP_BLOCKS.saturating_sub(1))..=head {
        let Some(block) = context.store.block(height)? else { continue };
        let base_fee = block.block.header.base_fee_per_gas.unwrap_or_default();
        tips.extend(block.block.transactions.iter().filter_map(|tx| tx.effective_tip_per_gas(base_fee)));
    }
    if tips.is_empty() {
        return Ok(TIP_WEI_MIN);
    }
    let place = tips.len().saturating_sub(1).saturating_mul(TIP_PERCENTILE).div_euclid(100);
    let (_, tip, _) = tips.select_nth_unstable(place);
    Ok((*tip).clamp(TIP_WEI_MIN, TIP_WEI_MAX))
}

pub(super) fn gas_price(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let tip = suggested_tip(context)?;
    json(&U256::from(tip.saturating_add(u128::from(context.next_base_fee()))))
}

pub(super) fn max_priority_fee(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&U256::from(suggested_tip(context)?))
}

pub(super) fn base_fee(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&U64::from(context.next_base_fee()))
}

pub(super) fn blob_base_fee(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let head = context.store.head();
    json(&U256::from(context.executor.next_blob_base_fee(head.header()).unwrap_or_default()))
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct HistoryJson {
    oldest_block: U64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<Vec<Vec<U256>>>,
    base_fee_per_gas: Vec<U64>,
    gas_used_ratio: Vec<f64>,
    base_fee_per_blob_gas: Vec<U256>,
    blob_gas_used_ratio: Vec<f64>,
}

/// Base fees, fullness and tips of some blocks, and the base fee of the one after.
pub(super) fn history(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let count = args.required(0, quantity_u64)?.min(FEE_HISTORY_BLOCKS_MAX);
    let newest = args.required(1, block_number)?;
    let asked = args.optional(2, percentiles)?;
    if asked.as_ref().is_some_and(|list| list.len() > FEE_HISTORY_PERCENTILES_MAX) {
        return Err(RpcError::InvalidParams("over the query limit 100"));
    }
    let Some(newest) = context.height(newest)? else {
        return Err(RpcError::InvalidParams("request beyond head block"));
    };
    let mut answer = HistoryJson::default();
    if count == 0 {
        return json(&answer);
    }
    let oldest = newest.saturating_add(1).saturating_sub(count);
    answer.oldest_block = U64::from(oldest);
    let mut rewards = Vec::new();
    let started = context.clock.now();
    for height in oldest..=newest {
        if context.clock.now().ms_since(started) > QUESTION_MS_MAX {
            return Err(RpcError::TimedOut(QUESTION_MS_MAX));
        }
        let header = context.store.header(height)?.ok_or(RpcError::HeaderNotFound)?;
        if let Some(asked) = asked.as_ref().filter(|list| !list.is_empty()) {
            let block = context.store.block(height)?.ok_or(RpcError::HeaderNotFound)?;
            rewards.push(tips_at(&block, asked));
        }
        push_block(context, &mut answer, &header);
        if height == newest {
            let after = context.executor.next_base_fee(&header).unwrap_or_default();
            answer.base_fee_per_gas.push(U64::from(after));
            let after = context.executor.next_blob_base_fee(&header).unwrap_or_default();
            answer.base_fee_per_blob_gas.push(U256::from(after));
        }
    }
    answer.reward = (!rewards.is_empty()).then_some(rewards);
    json(&answer)
}

// A share of gas is shown as a float; its last bits do not matter.
#[allow(clippy::cast_precision_loss)]
fn push_block(context: &RpcContext, answer: &mut HistoryJson, header: &Header) {
    answer.base_fee_per_gas.push(U64::from(header.base_fee_per_gas.unwrap_or_default()));
    answer.gas_used_ratio.push(header.gas_used as f64 / header.gas_limit.max(1) as f64);
    answer.base_fee_per_blob_gas.push(U256::from(context.executor.blob_base_fee(header).unwrap_or_default()));
    let blob_gas_max = context.executor.blob_gas_max(header).unwrap_or(1).max(1);
    answer.blob_gas_used_ratio.push(header.blob_gas_used.unwrap_or_default() as f64 / blob_gas_max as f64);
}

/// The tips at these percentiles of the block's gas.
// A percentile of gas is a float by nature; its last bits do not matter.
#[allow(clippy::cast_precision_loss)]
fn tips_at(block: &CommittedBlock, asked: &[f64]) -> Vec<U256> {
    let base_fee = block.block.header.base_fee_per_gas.unwrap_or_default();
    let mut before = 0;
    let mut paid: Vec<(u128, u64)> = Vec::with_capacity(block.receipts.len());
    for (tx, receipt) in block.block.transactions.iter().zip(&block.receipts) {
        let gas = receipt.cumulative_gas_used.saturating_sub(before);
        before = receipt.cumulative_gas_used;
        paid.push((tx.effective_tip_per_gas(base_fee).unwrap_or_default(), gas));
    }
    paid.sort_unstable();
    let mut sums = paid.iter().scan(0_u64, |sum, (tip, gas)| {
        *sum = sum.saturating_add(*gas);
        Some((*tip, *sum))
    });
    let mut current = sums.next();
    let last = paid.last().map(|(tip, _)| *tip).unwrap_or_default();
    asked
        .iter()
        .map(|percentile| {
            let wanted = before as f64 * percentile / 100.0;
            while current.is_some_and(|(_, sum)| (sum as f64) < wanted) {
                current = sums.next();
            }
            U256::from(current.map_or(last, |(tip, _)| tip))
        })
        .collect()
}
