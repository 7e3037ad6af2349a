//! The committee of a height, and who of it is demoted, as the simulated blocks say: each carries the round of its parent's
//! certificate as its proposer holds it, which need not be the round in which others saw the parent decided.

use trellis_chain_finality::{TERM_HEIGHTS, Turns, ValidatorSet};
use trellis_primitives::B256;

use super::World;
use crate::context::{BlockHeight, Committee};

impl World {
    /// Who decides a height.
    pub(super) fn set(&self, height: u64) -> &ValidatorSet {
        let epoch = (height - 1) / self.faults.epoch_heights;
        let place = epoch % u64::try_from(self.committees.len()).unwrap();
        &self.committees[usize::try_from(place).unwrap()]
    }

    /// The committee that decides a height, with its demoted. All heights before it are decided.
    pub(super) fn committee(&mut self, height: u64) -> Committee {
        if let Some(known) = self.sitting.get(&height) {
            return known.clone();
        }
        let committee = (height - 1) / self.faults.epoch_heights * self.faults.epoch_heights + 1;
        let first = height - (height - committee) % TERM_HEIGHTS;
        let mut turns = Turns::new(first);
        while turns.next() + 1 < height {
            let carrier = self.block(turns.next() + 1).expect("the heights before are decided");
            turns.count(self.set(height), self.carried[&carrier]);
        }
        let set = self.set(height).clone();
        let sitting = Committee::new(set, if height > first { turns.demoted() } else { Default::default() }).unwrap();
        self.sitting.insert(height, sitting.clone());
        sitting
    }

    /// A node makes a block, on its own certificate of the parent.
    pub(super) fn carry(&mut self, node: usize, height: BlockHeight, hash: B256) {
        let parent = height.0.checked_sub(1).and_then(|parent| self.nodes[node].decided.get(&parent));
        let round = parent.and_then(|certificate| certificate.round.as_u32()).unwrap_or_default();
        self.carried.entry(hash).or_insert(round);
    }
}
