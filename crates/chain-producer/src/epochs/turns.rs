//! Whose turns as proposers were missed, as the sections of committed blocks say (CHN-10).
//!
//! Nothing of it is stored: whoever has the blocks of the term knows it, after a restart, behind a sync, and with a snapshot.

use super::Committees;
use trellis_chain_finality::{Demoted, Turns, first_of_term};
use trellis_chain_storage::ReadError;

impl Committees {
    /// Who is drawn as proposer of a block only after the others. All blocks before it must be committed.
    ///
    /// # Errors
    /// [`ReadError`] where a block of the term cannot be read.
    pub fn demoted(&self, height: u64) -> Result<Demoted, ReadError> {
        let rules = &self.inner.rules;
        let first = first_of_term(height, rules.staking.map(|_| rules.epoch_blocks));
        // The certificate of a block is in the section of the next, so this is the first that nobody has in a block yet.
        let open = height.saturating_sub(1).max(first);
        let mut turns = self.inner.turns.lock();
        if turns.first() != first || turns.next() > open {
            *turns = Turns::new(first);
        }
        if turns.next() < open {
            // All heights of a term are decided by the same committee.
            let set = self.of(height)?;
            while turns.next() < open {
                let carrier = turns.next().saturating_add(1);
                let block = self.inner.store.block(carrier)?;
                let missing =
                    || ReadError::Damaged { height: carrier, what: "a block of the term is missing".to_owned() };
                let block = block.ok_or_else(missing)?;
                let certificate = block.block.section.parent_commit.as_ref();
                turns.count(&set, certificate.map_or(0, |certificate| certificate.round));
            }
        }
        Ok(if height > first { turns.demoted() } else { Demoted::default() })
    }
}
