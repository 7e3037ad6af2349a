//! Whose turn it is to propose.

use crate::turns::Demoted;
use crate::validator_set::{Validator, ValidatorSet};
use trellis_crypto::sha3_256;

/// The proposer of (`height`, `round`): drawn by power from a hash of the height, and in the later rounds of one
/// height never one who was already drawn in it, so that n dead proposers cost at most n rounds. Who is demoted is drawn
/// only after all others. Everybody computes the same; nothing here is unpredictable, and nothing relies on that.
pub fn proposer<'a>(set: &'a ValidatorSet, demoted: &Demoted, height: u64, round: u32) -> Option<&'a Validator> {
    let count = u32::try_from(set.count()).unwrap_or(u32::MAX);
    let turn = round.checked_rem(count)?;
    proposers(set, demoted, height, turn.saturating_add(1)).pop()
}

/// The proposers of the first rounds of a height, each member once at most.
pub(crate) fn proposers<'a>(set: &'a ValidatorSet, demoted: &Demoted, height: u64, rounds: u32) -> Vec<&'a Validator> {
    let (back, front): (Vec<_>, Vec<_>) = set.validators().iter().partition(|member| demoted.contains(&member.address));
    let mut drawn = Vec::new();
    let mut draws = 0..rounds;
    for mut left in [front, back] {
        let mut power: u64 = left.iter().map(|member| member.power).fold(0, u64::saturating_add);
        while !left.is_empty()
            && let Some(draw) = draws.next()
            && let Some(index) = draw_index(&left, power, height, draw)
        {
            let chosen = left.remove(index);
            power = power.saturating_sub(chosen.power);
            drawn.push(chosen);
        }
    }
    drawn
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
