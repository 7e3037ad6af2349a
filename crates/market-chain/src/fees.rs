//! What to offer for gas (EIP-1559), and how much more for a transaction that is stuck. Pure.

use crate::config::FeePolicy;
use crate::error::ChainError;

/// The two figures of a transaction, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// At most so much in all.
    pub max_fee_wei: u128,
    /// So much of it for the proposer.
    pub priority_fee_wei: u128,
}

impl Fees {
    /// Room for the base fee to double, within the cap.
    ///
    /// # Errors
    /// [`ChainError::FeeAboveCap`] where the base fee and the tip alone pass the cap.
    pub fn choose(policy: &FeePolicy, base_fee_wei: u128) -> Result<Self, ChainError> {
        let priority_fee_wei = policy.priority_fee_wei;
        let needed = base_fee_wei.saturating_add(priority_fee_wei);
        if needed > policy.max_fee_cap_wei {
            return Err(ChainError::FeeAboveCap { base_fee_wei, cap_wei: policy.max_fee_cap_wei });
        }
        let wanted = base_fee_wei.saturating_mul(2).saturating_add(priority_fee_wei);
        Ok(Self { max_fee_wei: wanted.min(policy.max_fee_cap_wei), priority_fee_wei })
    }

    /// Both figures raised by 12.5 %, rounded up, which is what nodes demand of a replacement; `None` where that passes the cap.
    #[must_use]
    pub fn raised(self, policy: &FeePolicy) -> Option<Self> {
        let raise = |wei: u128| wei.saturating_add(wei.div_ceil(8)).saturating_add(u128::from(wei == 0));
        let raised = Self { max_fee_wei: raise(self.max_fee_wei), priority_fee_wei: raise(self.priority_fee_wei) };
        (raised.max_fee_wei <= policy.max_fee_cap_wei).then_some(raised)
    }
}
