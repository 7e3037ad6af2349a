//! The job client's settings.

use trellis_market_receipt::eip712::Domain;
use trellis_primitives::{Address, Wei};

/// The job client's settings.
#[derive(Debug, Clone)]
pub struct JobClientConfig {
    /// The chain of the channels.
    pub chain_id: u64,
    /// The `PaymentChannels` contract.
    pub channels: Address,
    /// The `Settlement` contract, under whose domain receipts are signed.
    pub settlement: Address,
    /// The token of the channels.
    pub token: Address,
    /// The most that is paid ahead of delivery, per job.
    pub risk_limit: Wei,
    /// The deposit of a new channel, unless the provider wants more.
    pub deposit: Wei,
    /// To get an advert, in milliseconds.
    pub advert_wait_ms: u64,
    /// To reach a provider whose connection is gone, in milliseconds.
    pub redial_wait_ms: u64,
    /// To have a channel, in milliseconds.
    pub channel_wait_ms: u64,
    /// To be accepted, in milliseconds.
    pub accept_wait_ms: u64,
    /// To the first token, in milliseconds; the provider's queue is part of it.
    pub first_token_wait_ms: u64,
    /// Between two pieces of the answer, in milliseconds.
    pub stall_wait_ms: u64,
    /// To the receipt after a cancellation, in milliseconds.
    pub receipt_wait_ms: u64,
    /// To the acknowledgement of a countersignature, in milliseconds.
    pub ack_wait_ms: u64,
    /// Providers that are kept connected because they served well lately; 0 for none.
    pub favourites_max: usize,
    /// Pair roots are looked at this often, in milliseconds.
    pub pair_root_tick_ms: u64,
}

impl Default for JobClientConfig {
    fn default() -> Self {
        Self {
            chain_id: 0,
            channels: Address::ZERO,
            settlement: Address::ZERO,
            token: Address::ZERO,
            risk_limit: Wei::from_milli_trl(10),
            deposit: Wei::from_trl(1),
            advert_wait_ms: 5_000,
            redial_wait_ms: 3_000,
            channel_wait_ms: 30_000,
            accept_wait_ms: 10_000,
            first_token_wait_ms: 60_000,
            stall_wait_ms: 30_000,
            receipt_wait_ms: 10_000,
            ack_wait_ms: 10_000,
            favourites_max: 8,
            pair_root_tick_ms: 250,
        }
    }
}

impl JobClientConfig {
    /// The domain of vouchers.
    #[must_use]
    pub const fn channels_domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, contract: self.channels }
    }

    /// The domain of receipts.
    #[must_use]
    pub const fn settlement_domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, contract: self.settlement }
    }
}
