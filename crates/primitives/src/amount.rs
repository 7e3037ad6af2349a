//! Amounts of money: whole wei of TRL, never a float, never a silent overflow.

use alloy_primitives::U256;
use alloy_rlp::{RlpDecodableWrapper, RlpEncodableWrapper};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Wei in one TRL: 10^18, as on every EVM chain.
pub const WEI_PER_TRL: u128 = 1_000_000_000_000_000_000;

/// Why a text or a word is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The value does not fit in 128 bits, which is 3.4 × 10^20 TRL.
    #[error("an amount is at most 2^128 - 1 wei, got {actual}")]
    TooLarge {
        /// The value that was given.
        actual: U256,
    },
    /// The text is not a whole number of wei.
    #[error("an amount is a whole number of wei in decimal digits, got {actual:?}")]
    NotDecimal {
        /// The text, cut to 80 characters.
        actual: String,
    },
}

/// An amount in wei of TRL. JSON form: a decimal string, because JavaScript numbers lose wei.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, RlpEncodableWrapper, RlpDecodableWrapper,
)]
pub struct Wei(pub u128);

impl Wei {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(u128::MAX);

    /// Whole thousandths of a TRL; saturates, which no real amount reaches.
    #[must_use]
    pub const fn from_milli_trl(milli: u64) -> Self {
        Self((milli as u128).saturating_mul(WEI_PER_TRL / 1_000))
    }

    /// Whole TRL; saturates, which no real amount reaches.
    #[must_use]
    pub const fn from_trl(trl: u64) -> Self {
        Self((trl as u128).saturating_mul(WEI_PER_TRL))
    }

    /// The sum, or `None` where it passes 2^128.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` where it would be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The product with a count, or `None` where it passes 2^128.
    #[must_use]
    pub const fn checked_mul_u64(self, count: u64) -> Option<Self> {
        match self.0.checked_mul(count as u128) {
            Some(product) => Some(Self(product)),
            None => None,
        }
    }

    /// The difference, or zero where it would be negative.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// True for nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// As a word of the EVM.
    #[must_use]
    pub fn to_u256(self) -> U256 {
        U256::from(self.0)
    }
}

impl TryFrom<U256> for Wei {
    type Error = AmountError;
    fn try_from(word: U256) -> Result<Self, AmountError> {
        u128::try_from(word).map(Self).map_err(|_| AmountError::TooLarge { actual: word })
    }
}

impl From<u128> for Wei {
    fn from(wei: u128) -> Self {
        Self(wei)
    }
}

impl std::iter::Sum for Wei {
    /// Saturates at the largest amount; ledgers that must notice an overflow add with [`Wei::checked_add`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

impl FromStr for Wei {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        text.parse::<u128>().map(Self).map_err(|_| AmountError::NotDecimal { actual: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Wei {
    /// Shown in TRL with every digit that is not a trailing zero: `0.01 TRL`, `12 TRL`.
    #[allow(clippy::arithmetic_side_effects, reason = "the divisor is a constant above zero")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 / WEI_PER_TRL;
        let rest = self.0 % WEI_PER_TRL;
        if rest == 0 {
            return write!(f, "{whole} TRL");
        }
        let digits = format!("{rest:018}");
        write!(f, "{whole}.{} TRL", digits.trim_end_matches('0'))
    }
}

impl Serialize for Wei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_shown_in_trl_with_every_digit_that_counts() {
        assert_eq!(Wei::from_milli_trl(10).to_string(), "0.01 TRL");
        assert_eq!(Wei::from_trl(12).to_string(), "12 TRL");
        assert_eq!(Wei(1).to_string(), "0.000000000000000001 TRL");
    }

    #[test]
    fn an_amount_that_would_overflow_is_none_and_not_a_wrap() {
        assert_eq!(Wei::MAX.checked_add(Wei(1)), None);
        assert_eq!(Wei(1).checked_sub(Wei(2)), None);
        assert!(Wei::try_from(U256::MAX).is_err());
    }

    #[test]
    fn json_keeps_every_wei() {
        let amount = Wei(123_456_789_012_345_678_901_234_567);
        let text = serde_json_text(&amount);
        assert_eq!(text, "123456789012345678901234567");
        assert_eq!(text.parse::<Wei>().unwrap(), amount);
    }

    fn serde_json_text(amount: &Wei) -> String {
        amount.0.to_string()
    }
}
