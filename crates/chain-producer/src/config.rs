//! Bounds and settings of a producer.

use crate::epochs::EpochRules;
use alloy_primitives::{Address, Bytes};

/// Executed blocks of undecided heights held at most; one per round is needed, more are a proposer's mischief.
pub const CANDIDATES_MAX: usize = 16;
/// Requests that may wait for the producer's thread.
pub const WORK_QUEUE_MAX: usize = 64;
/// How far a block's time may be ahead of the local clock, in milliseconds.
pub const CLOCK_AHEAD_MS_MAX: u64 = 500;

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Who gets the tips of the blocks proposed here.
    pub beneficiary: Address,
    /// Free bytes in the headers of the blocks proposed here, at most 32.
    pub extra_data: Bytes,
    /// The committees.
    pub epochs: EpochRules,
    /// How far a block's time may be ahead of the local clock, in milliseconds.
    pub clock_ahead_ms_max: u64,
}
