//! What a provider sells and on which terms.

use crate::backend::Backend;
use std::sync::Arc;
use trellis_market_channel::Prices;
use trellis_market_receipt::eip712::Domain;
use trellis_primitives::{Address, Wei};

/// A provider's settings.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// The chain of the channels.
    pub chain_id: u64,
    /// The `PaymentChannels` contract.
    pub channels: Address,
    /// The `Settlement` contract, under whose domain receipts are signed.
    pub settlement: Address,
    /// The token in which channels must be.
    pub token: Address,
    /// Where payouts go.
    pub payout: Address,
    /// The aggregator that receipts should name; zero: none.
    pub aggregator: Address,
    /// What is delivered before it is paid, per channel.
    pub risk_limit: Wei,
    /// The smallest deposit for which jobs are taken.
    pub deposit_min: Wei,
    /// The shortest challenge period accepted, in seconds.
    pub challenge_seconds_min: u32,
    /// Jobs at once over all models.
    pub jobs_max: usize,
    /// Jobs waiting at most.
    pub queue_max: usize,
    /// Streams at once over all peers.
    pub streams_max: usize,
    /// How long an advert's prices hold, in milliseconds.
    pub advert_ttl_ms: u64,
    /// Free text in the advert, two letters by custom.
    pub region: String,
    /// A stream without a frame is closed after this, in milliseconds.
    pub idle_wait_ms: u64,
    /// The prompt must follow its accept within this, in milliseconds.
    pub prompt_wait_ms: u64,
    /// A job waits for its turn at most this long, in milliseconds.
    pub queue_wait_ms: u64,
    /// A voucher that is due must come within this, in milliseconds.
    pub payment_wait_ms: u64,
    /// The countersignature must come within this, in milliseconds.
    pub countersign_wait_ms: u64,
    /// The backend's first token must come within this, in milliseconds.
    pub first_token_wait_ms: u64,
    /// Each further piece must come within this, in milliseconds.
    pub stall_wait_ms: u64,
    /// Tokens that follow a chunk within this leave together, in milliseconds; 0 sends each by itself.
    pub chunk_window_ms: u64,
    /// The chain is asked about a channel within this, in milliseconds.
    pub chain_wait_ms: u64,
    /// Open channels are looked at on the chain this often, in milliseconds.
    pub watch_interval_ms: u64,
    /// A channel whose unredeemed vouchers reach this is redeemed.
    pub redeem_after: Wei,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            chain_id: 0,
            channels: Address::ZERO,
            settlement: Address::ZERO,
            token: Address::ZERO,
            payout: Address::ZERO,
            aggregator: Address::ZERO,
            risk_limit: Wei::from_milli_trl(10),
            deposit_min: Wei::from_milli_trl(10),
            challenge_seconds_min: 5,
            jobs_max: 16,
            queue_max: 64,
            streams_max: 1_024,
            advert_ttl_ms: 60_000,
            region: String::new(),
            idle_wait_ms: 60_000,
            prompt_wait_ms: 10_000,
            queue_wait_ms: 30_000,
            payment_wait_ms: 10_000,
            countersign_wait_ms: 10_000,
            first_token_wait_ms: 60_000,
            stall_wait_ms: 30_000,
            chunk_window_ms: 10,
            chain_wait_ms: 5_000,
            watch_interval_ms: 1_000,
            redeem_after: Wei::MAX,
        }
    }
}

impl ProviderConfig {
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

/// A model with its prices and what runs it.
#[derive(Clone)]
pub struct ModelForSale {
    /// The name that clients ask for.
    pub name: String,
    /// Wei per million tokens.
    pub prices: Prices,
    /// What runs it.
    pub backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for ModelForSale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelForSale").field("name", &self.name).field("prices", &self.prices).finish_non_exhaustive()
    }
}
