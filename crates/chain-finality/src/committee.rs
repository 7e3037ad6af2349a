//! Who sits next: the committee of an epoch from stakes (CHN-11, CHN-14; decisions: "Committee"). Pure.

use crate::validator_set::{POWER_TOTAL_MAX, Validator, ValidatorSet, ValidatorSetError};
use std::collections::{BTreeMap, BTreeSet};
use trellis_crypto::VotePublicKey;
use trellis_primitives::Address;

/// Blocks from the first of an epoch, which names a committee, until that one decides.
pub const COMMITTEE_DELAY_BLOCKS: u64 = 2;
/// Of its power a committee changes at most one part in so many in an epoch: whoever could verify the last one's signatures
/// still trusts a third of the next.
const CHANGE_PARTS: u128 = 3;

/// A validator that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whose stake it is.
    pub account: Address,
    /// What it votes with.
    pub public_key: VotePublicKey,
    /// Own and delegated stake in whole TRL.
    pub power: u64,
}

/// The last epoch that is over before a block is decided, as far as its committee goes: 0 where that is the genesis's.
///
/// Epoch n is the blocks (n - 1) * length + 1 to n * length; the block after names the committee that the stakes then give.
#[must_use]
pub fn committee_epoch(height: u64, epoch_blocks: u64) -> u64 {
    height
        .checked_sub(COMMITTEE_DELAY_BLOCKS.saturating_add(1))
        .and_then(|past| past.checked_div(epoch_blocks))
        .unwrap_or(0)
}

/// The epoch that a block is the first after, if it is the first after one.
#[must_use]
pub fn ended_epoch(height: u64, epoch_blocks: u64) -> Option<u64> {
    let before = height.checked_sub(1)?;
    let epoch = before.checked_div(epoch_blocks)?;
    (epoch > 0 && before.checked_rem(epoch_blocks) == Some(0)).then_some(epoch)
}

/// The next committee: the `seats` candidates with the most stake, with their stake as power, but at most a third of the
/// sitting committee's power moves. Without a candidate the sitting one stays.
///
/// # Errors
/// [`ValidatorSetError`] where candidates share a key; the sitting committee should then stay.
pub fn next_committee(
    sitting: &ValidatorSet,
    mut candidates: Vec<Candidate>,
    seats: usize,
) -> Result<ValidatorSet, ValidatorSetError> {
    candidates.retain(|candidate| candidate.power > 0);
    candidates.sort_by(|a, b| b.power.cmp(&a.power).then_with(|| a.account.cmp(&b.account)));
    candidates.truncate(seats.max(1));
    if candidates.is_empty() {
        return Ok(sitting.clone());
    }
    fit(&mut candidates);
    let mut keys: BTreeMap<Address, VotePublicKey> =
        sitting.validators().iter().map(|member| (member.account, member.public_key.clone())).collect();
    let before: BTreeMap<Address, u64> =
        sitting.validators().iter().map(|member| (member.account, member.power)).collect();
    let wanted: BTreeMap<Address, u64> =
        candidates.iter().map(|candidate| (candidate.account, candidate.power)).collect();
    keys.extend(candidates.into_iter().map(|candidate| (candidate.account, candidate.public_key)));
    let moved = moves(&before, &wanted, sitting.total_power());
    let members = keys.into_iter().filter_map(|(account, key)| {
        let power = moved.get(&account).copied().filter(|power| *power > 0)?;
        Some(Validator::new(key, power, account))
    });
    ValidatorSet::new(members.collect())
}

/// Scales powers down where their sum is over what a committee may have.
fn fit(candidates: &mut [Candidate]) {
    let total: u128 = candidates.iter().map(|candidate| u128::from(candidate.power)).sum();
    let most = u128::from(POWER_TOTAL_MAX);
    if total <= most {
        return;
    }
    for candidate in candidates {
        let scaled = u128::from(candidate.power).saturating_mul(most).checked_div(total).unwrap_or(0);
        candidate.power = u64::try_from(scaled).unwrap_or(u64::MAX).max(1);
    }
}

/// Each account's power on the way from one distribution to another: all of the way, or so far that what is gained and what
/// is lost are each at most a third of the total before.
fn moves(before: &BTreeMap<Address, u64>, wanted: &BTreeMap<Address, u64>, total: u64) -> BTreeMap<Address, u64> {
    let accounts: BTreeSet<Address> = before.keys().chain(wanted.keys()).copied().collect();
    let at = |powers: &BTreeMap<Address, u64>, account: &Address| powers.get(account).copied().unwrap_or(0);
    let (mut gained, mut lost) = (0u128, 0u128);
    for account in &accounts {
        let (old, new) = (at(before, account), at(wanted, account));
        gained = gained.saturating_add(u128::from(new.saturating_sub(old)));
        lost = lost.saturating_add(u128::from(old.saturating_sub(new)));
    }
    let allowed = u128::from(total).checked_div(CHANGE_PARTS).unwrap_or(0).max(1);
    let most = gained.max(lost).max(allowed);
    let step = |change: u64| {
        let part = u128::from(change).saturating_mul(allowed).checked_div(most).unwrap_or(0);
        u64::try_from(part).unwrap_or(change)
    };
    let moved = |account: &Address| {
        let (old, new) = (at(before, account), at(wanted, account));
        let up = step(new.saturating_sub(old));
        let down = step(old.saturating_sub(new));
        // A seat that is given up and whose rest no longer weighs anything is free.
        (*account, old.saturating_add(up).saturating_sub(down))
    };
    accounts.iter().map(moved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8) -> VotePublicKey {
        VotePublicKey::Ed25519([number; 32])
    }

    fn account(number: u8) -> Address {
        Address::repeat_byte(number)
    }

    fn set(powers: &[(u8, u64)]) -> ValidatorSet {
        let members = powers.iter().map(|(number, power)| Validator::new(key(*number), *power, account(*number)));
        ValidatorSet::new(members.collect()).unwrap()
    }

    fn candidates(powers: &[(u8, u64)]) -> Vec<Candidate> {
        let one = |(number, power): &(u8, u64)| Candidate {
            account: account(*number),
            public_key: key(*number),
            power: *power,
        };
        powers.iter().map(one).collect()
    }

    // row: CHN-14
    #[test]
    fn the_first_block_after_an_epoch_names_the_committee_and_the_second_after_it_is_decided_by_it() {
        assert_eq!((1..=25).filter_map(|height| ended_epoch(height, 10)).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            (ended_epoch(11, 10), ended_epoch(21, 10), ended_epoch(1, 10), ended_epoch(0, 10)),
            (Some(1), Some(2), None, None)
        );
        let epochs: Vec<_> = (0..=24).map(|height| committee_epoch(height, 10)).collect();
        assert_eq!(epochs.iter().position(|epoch| *epoch == 1), Some(13));
        assert_eq!(epochs.iter().position(|epoch| *epoch == 2), Some(23));
    }

    // row: CHN-11
    #[test]
    fn seats_go_by_stake_and_power_is_stake() {
        let sitting = set(&[(1, 100), (2, 100), (3, 100)]);
        let next = next_committee(&sitting, candidates(&[(1, 100), (2, 110), (3, 90), (4, 10)]), 3).unwrap();
        assert_eq!(next, set(&[(2, 110), (1, 100), (3, 90)]));
        assert_eq!(next_committee(&sitting, Vec::new(), 3).unwrap(), sitting);
    }

    // row: CHN-14
    #[test]
    fn a_large_change_is_spread_over_epochs_and_arrives() {
        let mut sitting = set(&[(1, 1_000_000)]);
        let wanted = candidates(&[(1, 1_000_000), (2, 9_000_000)]);
        let mut epochs = 0;
        while sitting != set(&[(2, 9_000_000), (1, 1_000_000)]) {
            let next = next_committee(&sitting, wanted.clone(), 100).unwrap();
            assert!(next.total_power() <= sitting.total_power() + sitting.total_power() / 3 + 1);
            sitting = next;
            epochs += 1;
            assert!(epochs < 20);
        }
        assert!(epochs > 3);
    }

    // row: CHN-14
    #[test]
    fn a_rotated_key_moves_no_power() {
        let sitting = set(&[(1, 1_000_000)]);
        let rotated = vec![Candidate { account: account(1), public_key: key(9), power: 1_000_000 }];
        let next = next_committee(&sitting, rotated, 100).unwrap();
        assert_eq!(next.validators(), [Validator::new(key(9), 1_000_000, account(1))]);
    }

    proptest! {
        #[test]
        fn what_moves_is_at_most_a_third_and_every_way_arrives(
            old in prop::collection::btree_map(0u8..20, 1u64..10_000_000, 1..20),
            new in prop::collection::btree_map(0u8..20, 1u64..10_000_000, 1..20),
        ) {
            let pairs = |powers: &BTreeMap<u8, u64>| powers.iter().map(|(n, p)| (*n, *p)).collect::<Vec<_>>();
            let mut sitting = set(&pairs(&old));
            let target = set(&pairs(&new));
            for _ in 0..200 {
                let next = next_committee(&sitting, candidates(&pairs(&new)), 100).unwrap();
                let power = |set: &ValidatorSet, account: Address| {
                    set.validators().iter().find(|member| member.account == account).map_or(0, |member| member.power)
                };
                let lost: u64 = (0..20).map(account).map(|a| power(&sitting, a).saturating_sub(power(&next, a))).sum();
                prop_assert!(lost <= sitting.total_power() / 3 + 1);
                sitting = next;
                if sitting == target {
                    break;
                }
            }
            prop_assert_eq!(sitting, target);
        }
    }
}
