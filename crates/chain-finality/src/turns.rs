//! Who goes to the back of the queue of proposers, because it missed its turn (CHN-10). Pure.
//!
//! # Rule
//! Everything follows from the rounds in which blocks were decided, as the certificates *inside* the blocks say: block h
//! carries the certificate of h-1, and all who have the block have the same one. (The certificate that a node keeps beside
//! its newest block is its own: another node's may be of another round.) So what is known for height h are the rounds of
//! the heights up to h-2.
//!
//! A height decided in round r says that the proposers of its rounds 0 to r-1 missed their turn, and that the one of round r
//! took it. Who missed goes behind all others for [`DEMOTED_TURNS`] turns, that is so many times the number of members in
//! heights, and twice as long each time it misses again; who proposes successfully is like everybody at once. Behind the
//! others means: drawn only when all of them had their turn in this height. So a proposer that is dead costs a few timeouts
//! in a term, and one that was slow once loses little.
//!
//! All of it begins anew with every committee and, under one committee, every [`TERM_HEIGHTS`] heights: whoever has that many
//! blocks knows as much as whoever has them all.

use crate::committee::{COMMITTEE_DELAY_BLOCKS, committee_epoch};
use crate::proposer::{proposer, proposers};
use crate::validator_set::ValidatorSet;
use std::collections::{BTreeMap, BTreeSet};
use trellis_primitives::Address;

/// Heights after which all is forgotten. No more than a snapshot has blocks (256), so that who began with one knows it too.
pub const TERM_HEIGHTS: u64 = 240;
/// How long a validator stays behind the others after the first turn that it missed: in turns, of one height for each member.
pub const DEMOTED_TURNS: u64 = 4;
/// Heights from a missed turn until others can act on it: it stands in the next block, and that must be decided.
const KNOWN_AFTER_HEIGHTS: u64 = 2;
/// Missed turns after which staying behind does not get longer.
const MISSED_MAX: u32 = 8;

/// Who is behind the others at one height.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demoted(BTreeSet<Address>);

impl Demoted {
    /// Whether this validator is.
    #[must_use]
    pub fn contains(&self, validator: &Address) -> bool {
        self.0.contains(validator)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.0.iter()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Address> for Demoted {
    fn from_iter<I: IntoIterator<Item = Address>>(validators: I) -> Self {
        Self(validators.into_iter().collect())
    }
}

/// What a validator has on its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Turns missed since it last proposed.
    missed: u32,
    /// The first height at which it is like the others again.
    until: u64,
}

type Marks = BTreeMap<Address, Mark>;

/// The first height of the term that a height is in; `epoch_blocks` is none where the first committee sits for ever.
#[must_use]
pub fn first_of_term(height: u64, epoch_blocks: Option<u64>) -> u64 {
    let begins = |blocks: u64| match committee_epoch(height, blocks) {
        0 => 1,
        epoch => epoch.saturating_mul(blocks).saturating_add(1).saturating_add(COMMITTEE_DELAY_BLOCKS),
    };
    let committee = epoch_blocks.map_or(1, begins);
    let past = height.saturating_sub(committee).checked_rem(TERM_HEIGHTS).unwrap_or(0);
    height.saturating_sub(past)
}

/// The turns of one term, counted height by height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turns {
    first: u64,
    /// The height whose round is counted next.
    next: u64,
    /// By all rounds counted.
    marks: Marks,
    /// By all but the last: what was known at the height that is counted next.
    before: Marks,
}

impl Turns {
    /// Of the term that begins with this height.
    #[must_use]
    pub const fn new(first: u64) -> Self {
        Self { first, next: first, marks: Marks::new(), before: Marks::new() }
    }

    /// The first height of the term.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The height whose round is to be counted next.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Counts the next height: `set` decided it in this round.
    pub fn count(&mut self, set: &ValidatorSet, round: u32) {
        let height = self.next;
        let known = std::mem::replace(&mut self.before, self.marks.clone());
        self.next = height.saturating_add(1);
        if round == 0 && self.marks.is_empty() {
            return;
        }
        // Beyond one round for each member the draw repeats, and everybody missed.
        let most = u32::try_from(set.count()).unwrap_or(u32::MAX);
        let drawn = proposers(set, &demoted(&known, height), height, round.min(most).saturating_add(1));
        let turns = DEMOTED_TURNS.saturating_mul(most.into());
        let missed = usize::try_from(round).unwrap_or(usize::MAX);
        for validator in drawn.iter().take(missed) {
            let mark = self.marks.entry(validator.address).or_insert(Mark { missed: 0, until: 0 });
            mark.missed = mark.missed.saturating_add(1).min(MISSED_MAX);
            let heights = turns.saturating_mul(1 << mark.missed.saturating_sub(1));
            mark.until = height.saturating_add(KNOWN_AFTER_HEIGHTS).saturating_add(heights);
        }
        if let Some(proposed) = proposer(set, &demoted(&known, height), height, round) {
            self.marks.remove(&proposed.address);
        }
    }

    /// Who is behind the others at the height after the one whose round is counted next: the height that is being decided,
    /// when all rounds are counted that the blocks before it say.
    #[must_use]
    pub fn demoted(&self) -> Demoted {
        demoted(&self.marks, self.next.saturating_add(1))
    }
}

fn demoted(marks: &Marks, height: u64) -> Demoted {
    marks.iter().filter(|(_, mark)| mark.until > height).map(|(validator, _)| *validator).collect()
}

#[cfg(test)]
mod tests;
