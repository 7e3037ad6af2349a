//! The JSON of blocks, transactions, receipts and logs, as Ethereum's clients expect it.

mod block;
mod log;
mod receipt;
mod transaction;

pub(crate) use block::{BlockJson, HeadJson, TransactionsJson, block_size, transactions_bytes};
pub(crate) use log::{LogPlace, block_logs};
pub(crate) use receipt::{block_receipts, receipt};
pub(crate) use transaction::{block_transaction, pending_transaction};

use crate::error::RpcError;
use serde::Serialize;
use serde_json::value::RawValue;

/// An answer, written once.
pub(crate) type Answer = Box<RawValue>;

/// Writes an answer.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<Answer, RpcError> {
    serde_json::value::to_raw_value(value).map_err(|_| RpcError::Internal("an answer has no JSON"))
}

/// The answer of Ethereum to what does not exist.
pub(crate) fn null() -> Answer {
    RawValue::NULL.to_owned()
}
