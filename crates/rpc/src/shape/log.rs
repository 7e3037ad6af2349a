//! Logs with their places.

use alloy_primitives::{B256, Log};
use trellis_chain_storage::CommittedBlock;

/// Where the logs of one transaction stand.
#[derive(Clone, Copy)]
pub(crate) struct LogPlace {
    pub(crate) block_hash: B256,
    pub(crate) block_number: u64,
    pub(crate) block_timestamp: u64,
    pub(crate) transaction_hash: B256,
    pub(crate) transaction_index: u64,
}

impl LogPlace {
    pub(crate) fn of(block: &CommittedBlock, index: usize, transaction_hash: B256) -> Self {
        Self {
            block_hash: block.hash,
            block_number: block.height(),
            block_timestamp: block.block.header.timestamp,
            transaction_hash,
            transaction_index: u64::try_from(index).unwrap_or(u64::MAX),
        }
    }

    /// One log, with its index in the block.
    pub(crate) fn log(&self, log: &Log, log_index: u64) -> alloy_rpc_types::Log {
        alloy_rpc_types::Log {
            inner: log.clone(),
            block_hash: Some(self.block_hash),
            block_number: Some(self.block_number),
            block_timestamp: Some(self.block_timestamp),
            transaction_hash: Some(self.transaction_hash),
            transaction_index: Some(self.transaction_index),
            log_index: Some(log_index),
            removed: false,
        }
    }
}

/// The logs of a block that a filter wants, with their places.
pub(crate) fn block_logs(
    block: &CommittedBlock,
    wanted: impl Fn(&Log) -> bool,
) -> impl Iterator<Item = alloy_rpc_types::Log> {
    let transactions = block.block.transactions.iter().zip(&block.receipts).enumerate();
    let logs = transactions.flat_map(|(index, (tx, receipt))| {
        let place = LogPlace::of(block, index, *tx.hash());
        receipt.logs.iter().map(move |log| (place, log))
    });
    (0u64..).zip(logs).filter(move |(_, (_, log))| wanted(log)).map(|(index, (place, log))| place.log(log, index))
}
