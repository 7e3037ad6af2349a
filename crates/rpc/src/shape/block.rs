//! Blocks and heads.

use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{B256, U64};
use alloy_rlp::Encodable;
use serde::Serialize;
use trellis_chain_storage::EthereumBody;
use trellis_primitives::{Header, TxEnvelope};

/// A block as `eth_getBlockBy*` answers it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockJson<'a> {
    #[serde(flatten)]
    pub(crate) header: &'a Header,
    /// Null for the pending block.
    pub(crate) hash: Option<B256>,
    pub(crate) size: U64,
    pub(crate) transactions: TransactionsJson,
    pub(crate) uncles: Vec<B256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) withdrawals: Option<&'a [Withdrawal]>,
}

/// A block's transactions: only their hashes, or whole.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum TransactionsJson {
    Hashes(Vec<B256>),
    Full(Vec<alloy_rpc_types::Transaction>),
    Values(Vec<serde_json::Value>),
}

/// A head as `eth_subscribe("newHeads")` tells it.
#[derive(Serialize)]
pub(crate) struct HeadJson<'a> {
    #[serde(flatten)]
    pub(crate) header: &'a Header,
    pub(crate) hash: B256,
}

/// Bytes of the block in Ethereum's own form: header, transactions, uncles, withdrawals.
pub(crate) fn block_size(header: &Header, transactions_bytes: usize, ethereum: Option<&EthereumBody>) -> U64 {
    const EMPTY_LIST_BYTES: usize = 1;
    let mut payload = header.length().saturating_add(transactions_bytes);
    payload = payload.saturating_add(ethereum.map_or(EMPTY_LIST_BYTES, |body| body.ommers.length()));
    if header.withdrawals_root.is_some() {
        payload = payload.saturating_add(ethereum.map_or(EMPTY_LIST_BYTES, |body| body.withdrawals.length()));
    }
    let header_bytes = alloy_rlp::Header { list: true, payload_length: payload }.length();
    U64::from(payload.saturating_add(header_bytes))
}

/// Bytes of a block's list of transactions.
pub(crate) fn transactions_bytes(transactions: &[TxEnvelope]) -> usize {
    alloy_rlp::list_length(transactions)
}
