//! Encrypted streams between two hybrid identities over QUIC, TCP, relays and proxies.
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
mod error;
mod policy;

pub use admission::{Admission, AdmissionLimits, AdmitFn, Admit};
pub use error::TransportSetupError;
pub use policy::Policy;
