//! What a job costs, and the money of one job.

use serde::{Deserialize, Serialize};
use trellis_primitives::Wei;

/// Prices are in wei per so many tokens.
pub const TOKENS_PER_PRICE: u128 = 1_000_000;

/// Why a cost cannot be stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// Tokens times price passes 2^128.
    #[error("{tokens_in} + {tokens_out} tokens at these prices pass 2^128 wei")]
    Overflow {
        /// Prompt tokens.
        tokens_in: u64,
        /// Output tokens.
        tokens_out: u64,
    },
    /// A meter that runs backwards.
    #[error("a meter only grows: it stands at {have_in} + {have_out} tokens, got {got_in} + {got_out}")]
    Backwards {
        /// Prompt tokens so far.
        have_in: u64,
        /// Output tokens so far.
        have_out: u64,
        /// Prompt tokens given.
        got_in: u64,
        /// Output tokens given.
        got_out: u64,
    },
}

/// Wei per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Prices {
    /// Of the prompt.
    pub input: Wei,
    /// Of the answer.
    pub output: Wei,
}

/// `ceil((tokens_in × price_in + tokens_out × price_out) / 10^6)` in wei.
///
/// # Errors
/// [`CostError::Overflow`].
pub fn job_cost(prices: &Prices, tokens_in: u64, tokens_out: u64) -> Result<Wei, CostError> {
    let overflow = CostError::Overflow { tokens_in, tokens_out };
    let input = prices.input.checked_mul_u64(tokens_in).ok_or(overflow)?;
    let output = prices.output.checked_mul_u64(tokens_out).ok_or(overflow)?;
    let both = input.checked_add(output).ok_or(overflow)?;
    Ok(Wei(both.0.div_ceil(TOKENS_PER_PRICE)))
}

/// How far a job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted.
    Open,
    /// The provider has signed the receipt.
    SignedByProvider,
    /// Both have signed, and the cost is paid.
    Complete,
    /// Ended without both signatures; its cost is what was signed for it.
    Aborted,
}

/// The money of one job, on the provider's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobMoney {
    prices: Prices,
    max_cost: Wei,
    tokens_in: u64,
    tokens_out: u64,
    metered: Wei,
    signed: Wei,
    state: JobState,
}

/// What a job ended with. `cost` is exactly what was signed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobOutcome {
    /// [`JobState::Complete`] or [`JobState::Aborted`].
    pub state: JobState,
    /// What was computed and delivered, in wei.
    pub metered: Wei,
    /// What was signed for it.
    pub cost: Wei,
    /// Metered beyond what was signed.
    pub written_off: Wei,
}

impl JobMoney {
    /// A job at these prices of which the gateway pays at most `max_cost`.
    #[must_use]
    pub const fn new(prices: Prices, max_cost: Wei) -> Self {
        Self {
            prices,
            max_cost,
            tokens_in: 0,
            tokens_out: 0,
            metered: Wei::ZERO,
            signed: Wei::ZERO,
            state: JobState::Open,
        }
    }

    /// Moves the meter to what was computed and delivered.
    ///
    /// # Errors
    /// [`CostError`] where it would run backwards or overflow.
    pub fn meter(&mut self, tokens_in: u64, tokens_out: u64) -> Result<Wei, CostError> {
        let (have_in, have_out) = (self.tokens_in, self.tokens_out);
        if tokens_in < have_in || tokens_out < have_out {
            return Err(CostError::Backwards { have_in, have_out, got_in: tokens_in, got_out: tokens_out });
        }
        self.metered = job_cost(&self.prices, tokens_in, tokens_out)?;
        self.tokens_in = tokens_in;
        self.tokens_out = tokens_out;
        Ok(self.metered)
    }

    /// Notes what a voucher added for this job.
    pub const fn credit(&mut self, amount: Wei) {
        self.signed = self.signed.saturating_add(amount);
    }

    /// The provider's receipt went out.
    pub const fn sign(&mut self) {
        self.state = JobState::SignedByProvider;
    }

    /// What the job's prices are.
    #[must_use]
    pub const fn prices(&self) -> &Prices {
        &self.prices
    }

    /// The most that the gateway pays.
    #[must_use]
    pub const fn max_cost(&self) -> Wei {
        self.max_cost
    }

    /// Prompt and output tokens on the meter.
    #[must_use]
    pub const fn tokens(&self) -> (u64, u64) {
        (self.tokens_in, self.tokens_out)
    }

    /// What the meter shows in wei.
    #[must_use]
    pub const fn metered(&self) -> Wei {
        self.metered
    }

    /// What was signed for this job.
    #[must_use]
    pub const fn signed(&self) -> Wei {
        self.signed
    }

    /// Metered and not signed for.
    #[must_use]
    pub const fn unpaid(&self) -> Wei {
        self.metered.saturating_sub(self.signed)
    }

    /// How far it came.
    #[must_use]
    pub const fn state(&self) -> JobState {
        self.state
    }

    /// Ends the job with what it has.
    #[must_use]
    pub const fn end(&self, state: JobState) -> JobOutcome {
        JobOutcome { state, metered: self.metered, cost: self.signed, written_off: self.unpaid() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_part_of_a_wei_is_rounded_up_once_per_job() {
        let prices = Prices { input: Wei(1), output: Wei(3) };
        assert_eq!(job_cost(&prices, 0, 0).unwrap(), Wei(0));
        assert_eq!(job_cost(&prices, 1, 0).unwrap(), Wei(1));
        assert_eq!(job_cost(&prices, 1_000_000, 0).unwrap(), Wei(1));
        assert_eq!(job_cost(&prices, 1_000_000, 1).unwrap(), Wei(2));
    }

    #[test]
    fn a_cost_beyond_128_bits_is_an_error_and_not_a_wrap() {
        let prices = Prices { input: Wei::MAX, output: Wei(0) };
        assert_eq!(job_cost(&prices, 2, 0), Err(CostError::Overflow { tokens_in: 2, tokens_out: 0 }));
    }

    #[test]
    fn a_meter_never_runs_backwards() {
        let mut job = JobMoney::new(Prices { input: Wei(1_000_000), output: Wei(1_000_000) }, Wei::MAX);
        job.meter(5, 5).unwrap();
        assert!(matches!(job.meter(5, 4), Err(CostError::Backwards { .. })));
        assert_eq!(job.metered(), Wei(10));
    }

    proptest! {
        // row: MKT-31
        #[test]
        fn more_tokens_never_cost_less(price_in in any::<u64>(), price_out in any::<u64>(), a in 0u64..1 << 32, b in 0u64..1 << 32, more in 0u64..1 << 20) {
            let prices = Prices { input: Wei(price_in.into()), output: Wei(price_out.into()) };
            let cost = job_cost(&prices, a, b).unwrap();
            prop_assert!(job_cost(&prices, a + more, b).unwrap() >= cost);
            prop_assert!(job_cost(&prices, a, b + more).unwrap() >= cost);
        }
    }
}
