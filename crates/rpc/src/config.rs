//! The server's limits and switches, each bound a named constant with its unit.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Default port of JSON-RPC over HTTP and WebSocket, where Ethereum's tools look for it (OPS-11).
pub const RPC_PORT_DEFAULT: u16 = 8_545;
/// Default port of `/metrics` and `/health` (OPS-11).
pub const MONITOR_PORT_DEFAULT: u16 = 9_600;
/// Bytes of a request's body at most.
pub const REQUEST_BYTES_MAX: u32 = 10 * 1024 * 1024;
/// Bytes of a response at most.
pub const RESPONSE_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Requests in a batch at most.
pub const BATCH_REQUESTS_MAX: u32 = 1_000;
/// Connections at one time at most.
pub const CONNECTIONS_MAX: u32 = 1_024;
/// Subscriptions of one connection at most.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: u32 = 64;
/// Messages that a slow WebSocket client may be behind.
pub const MESSAGES_BUFFERED_MAX: u32 = 1_024;
/// Milliseconds until a connection must have sent its first request.
pub const FIRST_REQUEST_MS_MAX: u64 = 30_000;
/// Milliseconds that one question may take.
pub const QUESTION_MS_MAX: u64 = 10_000;
/// Milliseconds that a filter looks at further blocks; what is left it tells the next time.
pub(crate) const FILTER_LOOK_MS_MAX: u64 = QUESTION_MS_MAX / 2;
/// Milliseconds after which a filter's answer may not reach its asker any more, below [`QUESTION_MS_MAX`] by what the way to the
/// asker takes: it then counts as not told.
pub(crate) const FILTER_TOLD_MS_MAX: u64 = QUESTION_MS_MAX - 1_000;
/// Heavy questions (calls, logs, proofs) at one time at most.
pub const HEAVY_QUESTIONS_MAX: usize = 16;
/// Questions that only read the disk at one time at most: each may hold a whole block and its answer.
pub const READS_MAX: usize = 128;
/// Blocks that one `eth_getLogs` may look at.
pub const LOG_RANGE_BLOCKS_MAX: u64 = 10_000;
/// Logs that one answer may have.
pub const LOG_RESULTS_MAX: usize = 20_000;
/// Addresses or topics that one position of a filter may have.
pub const FILTER_VALUES_MAX: usize = 1_000;
/// Filters installed by `eth_newFilter` and its kin at most.
pub const FILTERS_MAX: usize = 1_024;
/// Milliseconds after which a filter that nobody asks for is dropped, as in geth.
pub const FILTER_IDLE_MS_MAX: u64 = 5 * 60 * 1_000;
/// Pending hashes that a filter keeps for its owner.
pub const FILTER_PENDING_HASHES_MAX: usize = 8_192;
/// Blocks of one `eth_feeHistory` at most.
pub const FEE_HISTORY_BLOCKS_MAX: u64 = 1_024;
/// Percentiles of one `eth_feeHistory` at most.
pub const FEE_HISTORY_PERCENTILES_MAX: usize = 100;
/// The tip suggested when nobody tips, in wei per gas: 0.001 gwei.
pub const TIP_WEI_MIN: u128 = 1_000_000;
/// Storage slots of one `eth_getProof` or `eth_getStorageValues` at most.
pub const SLOTS_MAX: usize = 1_024;
/// Transactions that one `txpool_content` shows at most.
pub const POOL_CONTENT_TXS_MAX: usize = 10_000;
/// Milliseconds that `eth_sendRawTransactionSync` waits at most.
pub const SEND_SYNC_MS_MAX: u64 = 30_000;
/// Milliseconds that `eth_sendRawTransactionSync` waits when it is not told otherwise.
pub const SEND_SYNC_MS_DEFAULT: u64 = 20_000;

/// A family of methods that can be opened or closed as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Namespace {
    /// `eth_*`
    Eth,
    /// `net_*`
    Net,
    /// `web3_*`
    Web3,
    /// `txpool_*`
    Txpool,
    /// `trellis_*`
    Trellis,
    /// `debug_*`: closed by default.
    Debug,
    /// `ots_*`, what the explorer Otterscan asks: closed by default.
    Ots,
    /// `testing_*`: closed by default.
    Testing,
}

impl Namespace {
    /// Every one.
    pub const ALL: [Self; 8] =
        [Self::Eth, Self::Net, Self::Web3, Self::Txpool, Self::Trellis, Self::Debug, Self::Ots, Self::Testing];

    /// The text before the underscore.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eth => "eth",
            Self::Net => "net",
            Self::Web3 => "web3",
            Self::Txpool => "txpool",
            Self::Trellis => "trellis",
            Self::Debug => "debug",
            Self::Ots => "ots",
            Self::Testing => "testing",
        }
    }
}

/// What the JSON-RPC server is told at its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RpcConfig {
    /// Where to listen. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Which families of methods are open.
    pub namespaces: BTreeSet<Namespace>,
    /// Names that the `Host` header may have, without port; `*` for any. An IP address is always allowed, because
    /// it cannot be rebound by DNS.
    pub hosts: Vec<String>,
    /// Web origins that a browser may ask from; `*` for any. Empty for none.
    pub origins: Vec<String>,
    /// Requests in a batch at most.
    pub batch_requests_max: u32,
    /// Bytes of a request's body at most.
    pub request_bytes_max: u32,
    /// Bytes of a response at most.
    pub response_bytes_max: u32,
    /// Connections at one time at most.
    pub connections_max: u32,
    /// Subscriptions of one connection at most.
    pub subscriptions_per_connection_max: u32,
    /// Blocks that one `eth_getLogs` may look at.
    pub log_range_blocks_max: u64,
    /// Logs that one answer may have.
    pub log_results_max: usize,
    /// The height of `safe`, where it is not the newest block: of an imported chain of Ethereum's.
    pub safe_height: Option<u64>,
    /// The height of `finalized`, where it is not the newest block.
    pub finalized_height: Option<u64>,
}

impl Default for RpcConfig {
    fn default() -> Self {
        use Namespace::{Eth, Net, Trellis, Txpool, Web3};
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), RPC_PORT_DEFAULT),
            namespaces: BTreeSet::from([Eth, Net, Web3, Txpool, Trellis]),
            hosts: vec!["localhost".to_owned()],
            origins: Vec::new(),
            batch_requests_max: BATCH_REQUESTS_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
            response_bytes_max: RESPONSE_BYTES_MAX,
            connections_max: CONNECTIONS_MAX,
            subscriptions_per_connection_max: SUBSCRIPTIONS_PER_CONNECTION_MAX,
            log_range_blocks_max: LOG_RANGE_BLOCKS_MAX,
            log_results_max: LOG_RESULTS_MAX,
            safe_height: None,
            finalized_height: None,
        }
    }
}
