//! What the chain's commonest actions cost, in gas, TRL and dollars (CHN-54).
//!
//! The gas is what real transactions take on a chain with our contracts; a test executes them and holds each figure. The
//! price of a TRL is an assumption that everybody can set, and no market's price.

use crate::failure::Failure;
use eyre::Result;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use trellis_primitives::WEI_PER_TRL;

/// What a TRL is assumed to be worth, in US dollars, where nobody says otherwise. Then the default prices of a provider,
/// 1 and 3 TRL for a million tokens, are 0.10 and 0.30 dollars, which is what others ask for small open models.
pub const TRL_PRICE_USD_DEFAULT: &str = "0.10";
/// The highest price that can be assumed, in US dollars.
const TRL_PRICE_USD_MAX: f64 = 1e9;
/// What an action may cost, in US dollars (CHN-54).
pub const FEE_USD_MAX: f64 = 0.01;

/// Something that people do on the chain.
pub struct Action {
    /// Its name in metrics and JSON.
    pub name: &'static str,
    /// What it is, for people.
    pub meaning: &'static str,
    /// Gas that its transaction uses.
    pub gas: u64,
}

/// The actions whose fees have a bar, each at its dearest ordinary case: who receives has nothing yet, who pays does so for
/// the first time.
pub const ACTIONS: [Action; 5] = [
    Action { name: "native_transfer", meaning: "send TRL", gas: 21_000 },
    Action { name: "erc20_transfer", meaning: "send WTRL to who has none", gas: 56_327 },
    Action { name: "vote", meaning: "vote on a proposal", gas: 103_549 },
    Action { name: "channel_open", meaning: "open a payment channel", gas: 277_554 },
    Action { name: "stake", meaning: "stake with a validator", gas: 109_395 },
];

/// What gas costs, and what a TRL is assumed to be worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Wei for each gas: base fee and tip.
    pub gas_price_wei: u128,
    /// US dollars for each TRL, assumed.
    pub trl_usd: f64,
}

impl Prices {
    /// The fee of so much gas, in TRL.
    pub fn trl(&self, gas: u64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "shown to a few digits")]
        let (wei, whole) = (self.gas_price_wei.saturating_mul(u128::from(gas)) as f64, WEI_PER_TRL as f64);
        wei / whole
    }

    /// The same in US dollars.
    pub fn usd(&self, gas: u64) -> f64 {
        self.trl(gas) * self.trl_usd
    }

    /// Up to which price of a TRL, in US dollars, the dearest action stays below [`FEE_USD_MAX`].
    pub fn trl_usd_max(&self) -> f64 {
        let dearest = ACTIONS.iter().map(|action| self.trl(action.gas)).fold(0.0, f64::max);
        if dearest > 0.0 { FEE_USD_MAX / dearest } else { f64::INFINITY }
    }
}

/// Reads the assumed price of a TRL.
///
/// # Errors
/// A usage failure where it is no number above zero.
pub fn trl_price_usd(text: &str) -> Result<f64> {
    let price = text.parse::<f64>().ok().filter(|price| *price > 0.0 && *price <= TRL_PRICE_USD_MAX);
    price.ok_or_else(|| {
        Failure::usage(format!("the assumed price of a TRL is a number of US dollars above 0, got {text:?}"))
            .hint("for example 0.10")
            .into()
    })
}

/// The `action` of a fee.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ActionLabel {
    action: &'static str,
}

/// Fees as metrics.
#[derive(Clone, Default)]
pub struct FeeGauges(Family<ActionLabel, Gauge<f64, AtomicU64>>);

impl FeeGauges {
    /// Adds the figures to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        registry.register(
            "chain_gas_cost_usd",
            "US dollars that an action costs in the next block, at the assumed price of a TRL (setting trl_price_usd)",
            gauges.0.clone(),
        );
        gauges
    }

    /// Shows the fees at these prices.
    pub fn show(&self, prices: &Prices) {
        for action in &ACTIONS {
            self.0.get_or_create(&ActionLabel { action: action.name }).set(prices.usd(action.gas));
        }
    }
}

#[cfg(test)]
mod tests;
