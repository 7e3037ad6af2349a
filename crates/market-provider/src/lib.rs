//! Sell compute: admit, run, meter, sign.
//!
//! [`Provider::start`] serves the protocol `/trellis/job/1` on a network handle. Money rules are those of `market-channel`; this
//! crate moves bytes, keeps deadlines and writes the journal before anything signed is sent.

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
pub mod backend;
mod channels;
mod config;
mod error;
mod job;
mod link;
mod metrics;
mod pairs;
mod restore;
mod service;
mod session;
mod settle;
mod watch;

pub use backend::embedded::EmbeddedBackend;
pub use backend::upstream::{UpstreamBackend, UpstreamConfig};
pub use backend::{Backend, BackendDone, BackendError, BackendEvent, BackendInfo, BackendStream};
pub use channels::{ChannelSource, ChannelSourceError};
pub use config::{ModelForSale, ProviderConfig};
pub use error::ProviderError;
pub use metrics::ProviderMetrics;
pub use service::{ChannelSummary, Provider, ProviderParts};
pub use watch::{Payouts, RECEIPTS_AT_ONCE_MAX, RedeemCause, RedeemIntent};
