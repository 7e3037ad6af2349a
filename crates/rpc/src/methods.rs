//! Every method by name: its namespace, what it costs, and the function that answers.

mod blocks;
mod checkpoint;
mod config;
mod debug;
mod execute;
mod fees;
mod fill;
mod installed;
mod logs;
mod net;
mod otterscan;
mod pool;
mod simulate;
mod state;
mod testing;
mod trace;
mod transactions;
mod trellis;

pub(crate) use execute::{RawTransactions, send_raw, send_raw_sync};
pub(crate) use logs::{LogBlooms, LogQuery, query, wanted};

use crate::config::Namespace;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::Args;
use crate::shape::Answer;

/// What a method costs at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cost {
    /// Memory only: answered where it is asked.
    Light,
    /// Reads the disk: answered on a thread that may block, so many at one time.
    Read,
    /// Runs the machine or reads much: likewise, and only a few at one time.
    Heavy,
}

/// The function that answers.
pub(crate) type Handler = fn(&RpcContext, &Args) -> Result<Answer, RpcError>;

/// One method.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) namespace: Namespace,
    pub(crate) cost: Cost,
    pub(crate) handler: Handler,
}

const fn method(namespace: Namespace, name: &'static str, cost: Cost, handler: Handler) -> Method {
    Method { name, namespace, cost, handler }
}

/// Every method that is one question and one answer. Raw transactions and subscriptions are registered apart.
pub(crate) const METHODS: &[Method] = {
    use Cost::{Heavy, Light, Read};
    use Namespace::{Debug, Eth, Net, Ots, Testing, Trellis, Txpool, Web3};
    &[
        method(Eth, "eth_chainId", Light, net::chain_id),
        method(Eth, "eth_syncing", Light, net::syncing),
        method(Eth, "eth_accounts", Light, net::accounts),
        method(Eth, "eth_blockNumber", Light, blocks::block_number),
        method(Eth, "eth_config", Read, config::config),
        method(Eth, "eth_capabilities", Read, config::capabilities),
        method(Eth, "eth_getBlockByNumber", Read, blocks::by_number),
        method(Eth, "eth_getBlockByHash", Read, blocks::by_hash),
        method(Eth, "eth_getHeaderByNumber", Read, blocks::header_by_number),
        method(Eth, "eth_getHeaderByHash", Read, blocks::header_by_hash),
        method(Eth, "eth_getBlockTransactionCountByNumber", Read, blocks::count_by_number),
        method(Eth, "eth_getBlockTransactionCountByHash", Read, blocks::count_by_hash),
        method(Eth, "eth_getUncleCountByBlockNumber", Read, blocks::uncles_by_number),
        method(Eth, "eth_getUncleCountByBlockHash", Read, blocks::uncles_by_hash),
        method(Eth, "eth_getUncleByBlockNumberAndIndex", Read, blocks::uncle_by_number),
        method(Eth, "eth_getUncleByBlockHashAndIndex", Read, blocks::uncle_by_hash),
        method(Eth, "eth_getBlockReceipts", Heavy, blocks::receipts),
        method(Eth, "eth_getTransactionByHash", Read, transactions::by_hash),
        method(Eth, "eth_getTransactionByBlockNumberAndIndex", Read, transactions::by_number_and_index),
        method(Eth, "eth_getTransactionByBlockHashAndIndex", Read, transactions::by_hash_and_index),
        method(Eth, "eth_getRawTransactionByHash", Read, transactions::raw_by_hash),
        method(Eth, "eth_getTransactionReceipt", Read, transactions::receipt),
        method(Eth, "eth_getBalance", Read, state::balance),
        method(Eth, "eth_getTransactionCount", Read, state::transaction_count),
        method(Eth, "eth_getCode", Read, state::code),
        method(Eth, "eth_getStorageAt", Read, state::storage_at),
        method(Eth, "eth_getStorageValues", Heavy, state::storage_values),
        method(Eth, "eth_getProof", Heavy, state::proof),
        method(Eth, "eth_call", Heavy, execute::call),
        method(Eth, "eth_estimateGas", Heavy, execute::estimate_gas),
        method(Eth, "eth_createAccessList", Heavy, execute::access_list),
        method(Eth, "eth_fillTransaction", Heavy, fill::fill),
        method(Eth, "eth_simulateV1", Heavy, simulate::simulate),
        method(Eth, "eth_gasPrice", Read, fees::gas_price),
        method(Eth, "eth_maxPriorityFeePerGas", Read, fees::max_priority_fee),
        method(Eth, "eth_feeHistory", Heavy, fees::history),
        method(Eth, "eth_baseFee", Light, fees::base_fee),
        method(Eth, "eth_blobBaseFee", Light, fees::blob_base_fee),
        method(Eth, "eth_getLogs", Heavy, logs::get_logs),
        method(Eth, "eth_newFilter", Light, installed::new_filter),
        method(Eth, "eth_newBlockFilter", Light, installed::new_block_filter),
        method(Eth, "eth_newPendingTransactionFilter", Light, installed::new_pending_filter),
        method(Eth, "eth_getFilterChanges", Heavy, installed::changes),
        method(Eth, "eth_getFilterLogs", Heavy, installed::all_logs),
        method(Eth, "eth_uninstallFilter", Light, installed::uninstall),
        method(Net, "net_version", Light, net::version),
        method(Net, "net_listening", Light, net::listening),
        method(Net, "net_peerCount", Light, net::peer_count),
        method(Web3, "web3_clientVersion", Light, net::client_version),
        method(Web3, "web3_sha3", Light, net::sha3),
        method(Txpool, "txpool_status", Light, pool::status),
        method(Txpool, "txpool_content", Read, pool::content),
        method(Txpool, "txpool_contentFrom", Read, pool::content_from),
        method(Txpool, "txpool_inspect", Read, pool::inspect),
        method(Trellis, "trellis_getCheckpoint", Read, checkpoint::checkpoint),
        method(Trellis, "trellis_getCheckpointCommittee", Heavy, checkpoint::committee),
        method(Trellis, "trellis_getFinalityProof", Read, trellis::finality_proof),
        method(Trellis, "trellis_status", Read, trellis::status),
        method(Trellis, "trellis_validators", Read, trellis::validators),
        method(Debug, "debug_getRawHeader", Read, debug::raw_header),
        method(Debug, "debug_getRawBlock", Read, debug::raw_block),
        method(Debug, "debug_getRawReceipts", Heavy, debug::raw_receipts),
        method(Debug, "debug_getRawTransaction", Read, debug::raw_transaction),
        method(Debug, "debug_traceTransaction", Heavy, trace::transaction),
        method(Debug, "debug_traceBlockByNumber", Heavy, trace::block_by_number),
        method(Debug, "debug_traceBlockByHash", Heavy, trace::block_by_hash),
        method(Debug, "debug_traceCall", Heavy, trace::call),
        method(Ots, "ots_getApiLevel", Light, otterscan::api_level),
        method(Ots, "ots_hasCode", Read, otterscan::has_code),
        method(Ots, "ots_getInternalOperations", Heavy, otterscan::internal_operations),
        method(Ots, "ots_getTransactionError", Heavy, otterscan::transaction_error),
        method(Ots, "ots_traceTransaction", Heavy, otterscan::trace_transaction),
        method(Ots, "ots_getBlockDetails", Read, otterscan::block_details),
        method(Ots, "ots_getBlockDetailsByHash", Read, otterscan::block_details_by_hash),
        method(Ots, "ots_getBlockTransactions", Read, otterscan::block_transactions),
        method(Ots, "ots_searchTransactionsBefore", Heavy, otterscan::search_before),
        method(Ots, "ots_searchTransactionsAfter", Heavy, otterscan::search_after),
        method(Ots, "ots_getTransactionBySenderAndNonce", Heavy, otterscan::by_sender_and_nonce),
        method(Ots, "ots_getContractCreator", Heavy, otterscan::contract_creator),
        method(Testing, "testing_buildBlockV1", Heavy, testing::build_block),
    ]
};
