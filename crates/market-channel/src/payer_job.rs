//! What a gateway checks before it signs for a job: its own count of tokens, its own prices, its own limit of trust.

use crate::cost::{CostError, JobState, Prices, job_cost};
use trellis_market_receipt::Receipt;
use trellis_primitives::Wei;

/// Output tokens that a provider may count beyond the bound that the text gives: a stop sequence that is withheld and the end token
/// have no text of their own, and a stop sequence has at most 256 bytes.
pub const OUTPUT_TOKENS_SLACK: u64 = 256;

/// Why a gateway does not pay what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayerFault {
    /// A cost that cannot be computed, or a meter that runs backwards.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// More prompt tokens than this gateway counts.
    #[error("the provider counts {actual} prompt tokens, at most {max} are accepted")]
    PromptTokens {
        /// What this gateway accepts.
        max: u64,
        /// What the provider says.
        actual: u64,
    },
    /// More output tokens than the delivered text can have.
    #[error("the provider counts {actual} output tokens, the text has at most {max}")]
    OutputTokens {
        /// What this gateway accepts.
        max: u64,
        /// What the provider says.
        actual: u64,
    },
    /// Asked for more than the meter shows.
    #[error("asked for {actual}, the meter shows {metered}")]
    Overcharge {
        /// What the tokens cost.
        metered: Wei,
        /// What is asked for.
        actual: Wei,
    },
    /// Beyond the maximum that was accepted.
    #[error("asked for {actual}, {max_cost} was accepted")]
    MaxCost {
        /// The accepted maximum.
        max_cost: Wei,
        /// What is asked for.
        actual: Wei,
    },
    /// Asked to pay too far ahead of delivery.
    #[error("asked to pay {actual} ahead of delivery, the risk limit is {risk_limit}")]
    Ahead {
        /// The gateway's risk limit.
        risk_limit: Wei,
        /// What would be paid and not delivered.
        actual: Wei,
    },
    /// The receipt says another cost than was agreed.
    #[error("the receipt's cost is {actual}, expected {expected}")]
    ReceiptCost {
        /// What it must be.
        expected: Wei,
        /// What it says.
        actual: Wei,
    },
    /// The job is over.
    #[error("the job is {state:?}")]
    State {
        /// Its state.
        state: JobState,
    },
}

/// How many tokens a gateway believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBounds {
    /// Prompt tokens at most: the gateway's own count with the model's tokenizer, or the request's bytes where it has none.
    pub prompt_max: u64,
}

/// The money of one job, on the gateway's side.
#[derive(Debug, Clone)]
pub struct PayerJob {
    prices: Prices,
    max_cost: Wei,
    risk_limit: Wei,
    bounds: TokenBounds,
    tokens_in: u64,
    tokens_out: u64,
    output_max: u64,
    signed: Wei,
    state: JobState,
}

impl PayerJob {
    /// A job at these prices, of which at most `max_cost` is paid and at most `risk_limit` ahead of delivery.
    #[must_use]
    pub const fn new(prices: Prices, max_cost: Wei, risk_limit: Wei, bounds: TokenBounds) -> Self {
        Self {
            prices,
            max_cost,
            risk_limit,
            bounds,
            tokens_in: 0,
            tokens_out: 0,
            output_max: OUTPUT_TOKENS_SLACK,
            signed: Wei::ZERO,
            state: JobState::Open,
        }
    }

    /// A piece of text came. `text_tokens_max` is how many tokens this piece can have: its bytes, or less with a tokenizer.
    ///
    /// # Errors
    /// [`PayerFault`] where the provider's count cannot be true.
    pub fn delivered(&mut self, tokens_in: u64, tokens_out: u64, text_tokens_max: u64) -> Result<(), PayerFault> {
        self.open()?;
        self.check_prompt(tokens_in)?;
        let (have_in, have_out) = (self.tokens_in, self.tokens_out);
        if tokens_in < have_in || tokens_out < have_out {
            let fault = CostError::Backwards { have_in, have_out, got_in: tokens_in, got_out: tokens_out };
            return Err(fault.into());
        }
        let max = self.output_max.saturating_add(text_tokens_max);
        if tokens_out > max {
            return Err(PayerFault::OutputTokens { max, actual: tokens_out });
        }
        job_cost(&self.prices, tokens_in, tokens_out)?;
        self.output_max = max;
        self.tokens_in = tokens_in;
        self.tokens_out = tokens_out;
        Ok(())
    }

    fn open(&self) -> Result<(), PayerFault> {
        if self.state == JobState::Open { Ok(()) } else { Err(PayerFault::State { state: self.state }) }
    }

    fn check_prompt(&self, tokens_in: u64) -> Result<(), PayerFault> {
        let max = self.bounds.prompt_max;
        if tokens_in > max { Err(PayerFault::PromptTokens { max, actual: tokens_in }) } else { Ok(()) }
    }

    /// The provider asks for payment up to `due`: how much more to sign, zero if all is signed.
    ///
    /// The prompt is paid as the provider meters it, before it is computed; its price is bounded by this gateway's own count of its
    /// tokens. Output is paid at most one risk limit ahead of its delivery.
    ///
    /// # Errors
    /// [`PayerFault`] where it is asked for more than that.
    pub fn due(&self, tokens_in: u64, tokens_out: u64, due: Wei) -> Result<Wei, PayerFault> {
        self.open()?;
        self.check_prompt(tokens_in)?;
        let metered = job_cost(&self.prices, tokens_in, tokens_out)?;
        if due > metered {
            return Err(PayerFault::Overcharge { metered, actual: due });
        }
        if due > self.max_cost {
            return Err(PayerFault::MaxCost { max_cost: self.max_cost, actual: due });
        }
        let delivered = job_cost(&self.prices, tokens_in, self.tokens_out)?;
        let ahead = due.saturating_sub(delivered);
        // One token may cost more than the limit; then it is paid alone, before it comes.
        let one_more = self.tokens_out.checked_add(1) == Some(tokens_out);
        if ahead > self.risk_limit && !one_more {
            return Err(PayerFault::Ahead { risk_limit: self.risk_limit, actual: ahead });
        }
        Ok(due.saturating_sub(self.signed))
    }

    /// What to sign now of one's own accord, so that the provider never has to wait: everything delivered, once the unpaid part is
    /// half a risk limit; zero before.
    ///
    /// # Errors
    /// [`PayerFault::Cost`].
    pub fn pay_ahead_of_limit(&self) -> Result<Wei, PayerFault> {
        let unpaid = self.delivered_cost()?.saturating_sub(self.signed);
        let half = Wei(self.risk_limit.0 >> 1);
        Ok(if unpaid > half { unpaid } else { Wei::ZERO })
    }

    /// What was delivered costs so much, and never more than was accepted.
    ///
    /// # Errors
    /// [`PayerFault::Cost`].
    pub fn delivered_cost(&self) -> Result<Wei, PayerFault> {
        let cost = job_cost(&self.prices, self.tokens_in, self.tokens_out)?;
        Ok(cost.min(self.max_cost))
    }

    /// The increment was signed and journalled.
    pub const fn signed(&mut self, amount: Wei) {
        self.signed = self.signed.saturating_add(amount);
    }

    /// The provider's receipt came: how much more to sign, so that its cost is exactly what was signed.
    ///
    /// # Errors
    /// [`PayerFault`] where its counts or its cost are not those of what was delivered.
    pub fn receipt(&self, receipt: &Receipt) -> Result<Wei, PayerFault> {
        self.open()?;
        self.check_prompt(receipt.tokens_in)?;
        if receipt.tokens_out > self.tokens_out {
            return Err(PayerFault::OutputTokens { max: self.tokens_out, actual: receipt.tokens_out });
        }
        let metered = job_cost(&self.prices, receipt.tokens_in, receipt.tokens_out)?;
        // Nothing is signed back: where more was signed than metered, the cost is what was signed.
        let expected = metered.saturating_sub(receipt.written_off).max(self.signed);
        if receipt.cost != expected {
            return Err(PayerFault::ReceiptCost { expected, actual: receipt.cost });
        }
        if receipt.cost > self.max_cost {
            return Err(PayerFault::MaxCost { max_cost: self.max_cost, actual: receipt.cost });
        }
        Ok(receipt.cost.saturating_sub(self.signed))
    }

    /// The job is over.
    pub const fn finish(&mut self, state: JobState) {
        self.state = state;
    }

    /// What was signed for it.
    #[must_use]
    pub const fn signed_amount(&self) -> Wei {
        self.signed
    }

    /// Prompt and output tokens delivered.
    #[must_use]
    pub const fn tokens(&self) -> (u64, u64) {
        (self.tokens_in, self.tokens_out)
    }
}
