//! Amounts of TRL as a person writes them.

use crate::failure::Failure;
use eyre::Result;
use trellis_primitives::{WEI_PER_TRL, Wei};

/// Decimals of a TRL at most: a wei is the smallest part.
const DECIMALS_MAX: usize = 18;

/// A number of TRL: digits, with one to 18 decimals or none. Zero is one.
///
/// # Errors
/// Any other text: an amount that is nearly one is not guessed at.
pub fn trl(text: &str) -> Result<Wei> {
    exact(text).ok_or_else(|| {
        Failure::usage(format!("an amount of TRL is a number with at most {DECIMALS_MAX} decimals, got {text:?}"))
            .hint("for example 1000 or 0.5")
            .into()
    })
}

/// A number of TRL above zero.
///
/// # Errors
/// Zero, and any text that is no amount.
pub fn trl_above_zero(text: &str) -> Result<Wei> {
    let wei = trl(text)?;
    if wei.is_zero() {
        return Err(Failure::usage(format!("an amount of TRL above 0 is needed, got {text:?}"))
            .hint("for example 1000 or 0.5")
            .into());
    }
    Ok(wei)
}

/// Read digit by digit: the usual parser takes `1.5_0` for 0.15, cuts the nineteenth decimal and wraps around at 2^256.
fn exact(text: &str) -> Option<Wei> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS_MAX {
        return None;
    }
    let parts: u128 = format!("{decimals:0<DECIMALS_MAX$}").parse().ok()?;
    whole.parse::<u128>().ok()?.checked_mul(WEI_PER_TRL)?.checked_add(parts).map(Wei)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRL: u128 = 10u128.pow(18);

    fn wei(text: &str) -> Option<u128> {
        exact(text).map(|wei| wei.0)
    }

    #[test]
    fn an_amount_is_read_exactly_to_the_last_wei() {
        assert_eq!(wei("1000"), Some(1_000 * TRL));
        assert_eq!(wei("0.5"), Some(TRL / 2));
        assert_eq!(wei("1.50"), Some(TRL * 3 / 2));
        assert_eq!(wei("007.0"), Some(7 * TRL));
        assert_eq!(wei("0.000000000000000001"), Some(1));
        assert_eq!(wei("1.000000000000000001"), Some(TRL + 1));
        assert_eq!(wei("0"), Some(0));
    }

    #[test]
    fn a_text_that_is_nearly_an_amount_is_refused() {
        let nearly =
            ["", ".", "_", "1.", ".5", "1_000", "1.5_0", "1,5", "+1", "-1", "1e3", "0x1", " 1", "1 ", "1.2.3", "١"];
        for text in nearly {
            assert!(trl(text).is_err(), "{text:?}");
        }
        assert!(trl("0.0000000000000000001").is_err(), "the nineteenth decimal");
        assert_eq!(wei("340282366920938463463.374607431768211455"), Some(u128::MAX));
        assert!(trl("340282366920938463463.374607431768211456").is_err(), "more wei than are counted");
        assert!(trl(&"9".repeat(90)).is_err());
    }

    #[test]
    fn nothing_is_no_amount_where_one_above_zero_is_needed() {
        for text in ["0", "0.0", "000"] {
            assert!(trl_above_zero(text).is_err(), "{text:?}");
        }
        assert!(trl_above_zero("0.1").is_ok());
    }
}
