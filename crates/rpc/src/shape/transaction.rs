//! Transactions, in a block and waiting.

use alloy_consensus::transaction::{Recovered, TransactionInfo};
use alloy_rpc_types::Transaction;
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::RecoveredTx;

/// A transaction in a block; `None` where the index is past the end.
pub(crate) fn block_transaction(block: &CommittedBlock, index: usize) -> Option<Transaction> {
    let tx = block.block.transactions.get(index)?;
    let sender = block.senders.get(index)?;
    let header = &block.block.header;
    let info = TransactionInfo {
        hash: Some(*tx.hash()),
        index: u64::try_from(index).ok(),
        block_hash: Some(block.hash),
        block_number: Some(header.number),
        base_fee: header.base_fee_per_gas,
        block_timestamp: Some(header.timestamp),
    };
    Some(Transaction::from_transaction(Recovered::new_unchecked(tx.clone(), *sender), info))
}

/// A transaction that waits: its place is null.
pub(crate) fn pending_transaction(tx: &RecoveredTx) -> Transaction {
    let recovered = Recovered::new_unchecked(tx.tx.as_ref().clone(), tx.sender);
    let info = TransactionInfo { hash: Some(tx.hash), ..TransactionInfo::default() };
    Transaction::from_transaction(recovered, info)
}
