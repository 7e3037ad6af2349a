//! Blocks and heads.

use alloy_primitives::{B256, U64};
use alloy_rlp::Encodable;
use serde::Serialize;
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
    pub(crate) uncles: [B256; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) withdrawals: Option<[B256; 0]>,
}

/// A block's transactions: only their hashes, or whole.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum TransactionsJson {
    Hashes(Vec<B256>),
    Full(Vec<alloy_rpc_types::Transaction>),
}

/// A head as `eth_subscribe("newHeads")` tells it.
#[derive(Serialize)]
pub(crate) struct HeadJson<'a> {
    #[serde(flatten)]
    pub(crate) header: &'a Header,
    pub(crate) hash: B256,
}

/// Bytes of the block in Ethereum's own form: header, transactions, no uncles, no withdrawals.
pub(crate) fn block_size(header: &Header, transactions: &[TxEnvelope]) -> U64 {
    const EMPTY_LIST_BYTES: usize = 1;
    let mut payload = header.length();
    payload = payload.saturating_add(alloy_rlp::list_length(transactions)).saturating_add(EMPTY_LIST_BYTES);
    if header.withdrawals_root.is_some() {
        payload = payload.saturating_add(EMPTY_LIST_BYTES);
    }
    let header_bytes = alloy_rlp::Header { list: true, payload_length: payload }.length();
    U64::from(payload.saturating_add(header_bytes))
}
