//! What a pool asks of fees at least, so that peers need not send it what it would not keep (CHN-24).

/// The least fees that a pool takes. Whoever knows a peer's does not send it what is below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeeFilter {
    /// The least `maxFeePerGas`, wei: the chain's floor, or what the operator asks above it.
    pub fee_min_wei: u128,
    /// The least that a block's maker must get per gas at the base fee of the next block, wei; above zero in a full pool only.
    pub tip_min_wei: u128,
}

impl FeeFilter {
    /// Whether a transaction with these caps is taken at this base fee. All in wei per gas.
    #[must_use]
    pub fn takes(&self, fee_cap: u128, tip_cap: u128, base_fee: u64) -> bool {
        if fee_cap < self.fee_min_wei {
            return false;
        }
        // A full pool first lets go of what cannot run in the next block.
        self.tip_min_wei == 0
            || fee_cap.checked_sub(u128::from(base_fee)).is_some_and(|left| left.min(tip_cap) >= self.tip_min_wei)
    }
}

/// How much of a bound is used, in parts of it: three quarters and above is full enough to be choosy.
pub(crate) fn is_choosy(used: usize, most: usize) -> bool {
    used.saturating_mul(4) >= most.saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-24
    #[test]
    fn a_filter_looks_at_the_cap_and_at_what_the_maker_would_get() {
        let open = FeeFilter { fee_min_wei: 100, tip_min_wei: 0 };
        assert!(open.takes(100, 0, 500), "it waits for the base fee to fall");
        assert!(!open.takes(99, 50, 10));
        let choosy = FeeFilter { fee_min_wei: 100, tip_min_wei: 20 };
        assert!(choosy.takes(120, 20, 100));
        assert!(!choosy.takes(119, 20, 100), "the cap leaves 19");
        assert!(!choosy.takes(500, 19, 100));
        assert!(!choosy.takes(100, 100, 101), "it cannot run");
        assert!(FeeFilter::default().takes(0, 0, u64::MAX));
    }

    #[test]
    fn three_quarters_are_full_enough_to_be_choosy() {
        assert!(!is_choosy(74, 100) && is_choosy(75, 100) && is_choosy(usize::MAX, usize::MAX) && is_choosy(0, 0));
    }
}
