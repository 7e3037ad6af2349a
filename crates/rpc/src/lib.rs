//! Answer questions: `eth_*`, `ots_*`, `trellis_*`, metrics, dashboard files; owns the trait `MarketView`.
//!
//! [`start`] serves JSON-RPC over HTTP and WebSocket on one port; [`start_monitor`] serves `/metrics` and `/health`.
//! What the answers need from other planes comes through [`MarketView`], [`NetView`] and [`CommitteeView`], which the
//! node plugs in. A stored block is final, so `latest`, `safe` and `finalized` are the same block here.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod admission;
mod batch;
mod block_ref;
mod config;
mod context;
mod error;
mod filters;
mod methods;
mod metrics;
mod monitor;
mod params;
mod registry;
mod server;
mod shape;
mod subscriptions;
mod views;
mod words;

pub use config::{
    BATCH_REQUESTS_MAX, CONNECTIONS_MAX, FEE_HISTORY_BLOCKS_MAX, FEE_HISTORY_PERCENTILES_MAX, FILTER_IDLE_MS_MAX,
    FILTER_PENDING_HASHES_MAX, FILTER_VALUES_MAX, FILTERS_MAX, FIRST_REQUEST_MS_MAX, HEAVY_QUESTIONS_MAX,
    LOG_RANGE_BLOCKS_MAX, LOG_RESULTS_MAX, MESSAGES_BUFFERED_MAX, MONITOR_PORT_DEFAULT, Namespace,
    POOL_CONTENT_TXS_MAX, QUESTION_MS_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, RPC_PORT_DEFAULT, RpcConfig,
    SEND_SYNC_MS_DEFAULT, SEND_SYNC_MS_MAX, SLOTS_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX, TIP_WEI_MIN,
};
pub use context::RpcParts;
pub use error::{
    ArgumentError, DecodeError, INTERNAL_CODE, INVALID_PARAMS_CODE, LIMIT_CODE, METHOD_NOT_FOUND_CODE, REVERT_CODE,
    RpcError, SERVER_CODE, SYNC_TIMEOUT_CODE, StorageKeyError,
};
pub use metrics::{KindLabel, MethodLabel, RpcMetrics};
pub use monitor::{ComponentHealth, MonitorServer, MonitorStartError, MonitorView, start_monitor};
pub use registry::{MethodInfo, method_list, method_names};
pub use server::{RpcServer, RpcStartError, start};
pub use views::{CommitteeView, MarketView, NetView, NoMarket, NoNet, SyncProgress};
