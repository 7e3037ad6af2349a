//! Buy compute: OpenAI HTTP, routing, vouchers, checks.
//!
//! [`JobClient`] speaks to providers; the HTTP side calls it and never sees a voucher.

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

pub mod http;
pub mod job;
pub mod jobs;
mod routing;
mod selection;

pub use routing::Market;

pub use job::{
    ChannelNeed, ChannelOpenError, ChannelOpener, ChannelSummary, JobClient, JobClientConfig, JobClientError,
    JobClientParts, JobDone, JobEvent, JobFault, JobOrder, ProviderOffer, RunningJob, WaitedFor,
};
