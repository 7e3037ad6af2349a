//! Whose turn it is to propose.

use crate::validator_set::{Validator, ValidatorSet};
use trellis_crypto::sha3_256;

/// The proposer of (`height`, `round`): drawn by power from a hash of the height, and in the later rounds of one
/// height never one who was already drawn in it, so that n dead proposers cost at most n rounds. Everybody computes
/// the same; nothing here is unpredictable, and nothing relies on that.
pub fn proposer(set: &ValidatorSet, height: u64, round: u32) -> Option<&Validator> {
    let count = u32::try_from(set.count()).unwrap_or(u32::MAX);
    let turn = round.checked_rem(count)?;
    let mut left: Vec<&Validator> = set.validators().iter().collect();
    let mut power_left = set.total_power();
    for draw in 0..=turn {
        let index = draw_index(&left, power_left, height, draw)?;
        let chosen = left.remove(index);
        if draw == turn {
            return Some(chosen);
        }
        power_left = power_left.checked_sub(chosen.power)?;
    }
    None
}

fn draw_index(left: &[&Validator], power: u64, height: u64, draw: u32) -> Option<usize> {
    let hash = sha3_256(&[b"trellis/proposer/1", &height.to_be_bytes(), &draw.to_be_bytes()]);
    let wide = u128::from_be_bytes(hash.get(..16)?.try_into().ok()?);
    let mut ticket = wide.checked_rem(u128::from(power))?;
    for (index, validator) in left.iter().enumerate() {
        match ticket.checked_sub(u128::from(validator.power)) {
            Some(rest) => ticket = rest,
            None => return Some(index),
        }
    }
    None
}
