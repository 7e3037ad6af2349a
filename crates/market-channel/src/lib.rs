//! Pay as you go: channel and job-money state machines, vouchers. Pure.
//!
//! No clock, no socket, no key store: callers bring the time, sign with the key they hold, write the journal, and only then send.

#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
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

mod cost;
mod payee;
mod payer;
mod payer_job;
mod terms;
mod voucher;

pub use cost::{CostError, JobMoney, JobOutcome, JobState, Prices, TOKENS_PER_PRICE, job_cost};
pub use payee::{Applied, JOBS_OPEN_MAX, PayeeChannel, PayeeError, Permit, StopReason};
pub use payer::{PayerChannel, PayerError, VoucherDraft};
pub use payer_job::{OUTPUT_TOKENS_SLACK, PayerFault, PayerJob, TokenBounds};
pub use terms::{ChannelPhase, ChannelTerms, ChannelView, EXPIRY_MARGIN_CHALLENGES, ServeFault, UNSEEN_MARGIN_DIVISOR};
pub use voucher::{CloseAgreement, VoucherFault, close_digest, sign_voucher, verify_voucher, voucher_digest};
