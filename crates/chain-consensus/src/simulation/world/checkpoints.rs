//! Checkpoints in the simulated world: the collectors of all nodes over the same lossy network, and the blocks in which the
//! certificates come to stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use trellis_chain_finality::{
    CHECKPOINT_INCLUSION_BLOCKS, CheckpointCertificate, CheckpointCommittee, CheckpointMessage, CheckpointRules,
    CheckpointSignature, PostQuantumCertificate,
};
use trellis_crypto::CheckpointKey;
use trellis_primitives::{B256, Bytes, CheckpointKeys, keccak256};

use super::{Event, Evil, GENESIS, World, node_id};
use crate::checkpoint::CheckpointDuty;
use crate::checkpoint::state::{Action, Collector};
use crate::checkpoint::wire::CheckpointVote;

/// What the nodes have of checkpoints.
pub(super) struct Checkpointing {
    rules: CheckpointRules,
    /// Of each epoch, as the world's committees.
    committees: Vec<Arc<CheckpointCommittee>>,
    collectors: Vec<Collector>,
    /// By node and checkpoint.
    kept: BTreeMap<(usize, u64), (Bytes, Bytes)>,
    /// Which checkpoint's certificate a block carries, by the block's hash.
    carried: BTreeMap<B256, u64>,
    /// In which block a checkpoint's certificate stands.
    stands: BTreeMap<u64, u64>,
}

fn checkpoint_key(node: usize) -> CheckpointKey {
    CheckpointKey::from_seed(&keccak256((node + 1_000).to_be_bytes()).0).unwrap()
}

fn keys_of(committee: &trellis_chain_finality::ValidatorSet, nodes: &[super::Node]) -> CheckpointCommittee {
    let of = |member: &trellis_chain_finality::Validator| {
        let node = nodes.iter().position(|node| node.address.0 == member.address).unwrap();
        let key = checkpoint_key(node);
        CheckpointKeys { bls: key.bls_public().to_vec().into(), mldsa44: key.mldsa44_public().into() }
    };
    let keys: Vec<_> = committee.validators().iter().map(of).collect();
    CheckpointCommittee::new(committee, &keys)
}

impl World {
    /// Every so many heights a checkpoint.
    pub(in crate::simulation) fn with_checkpoints(mut self, interval_blocks: u64) -> Self {
        let rules = CheckpointRules { interval_blocks, epoch_blocks: None };
        let committees = self.committees.iter().map(|committee| Arc::new(keys_of(committee, &self.nodes))).collect();
        let collectors =
            (0..self.nodes.len()).map(|node| Collector::new(rules, Some(checkpoint_key(node)), 0)).collect();
        let (kept, carried, stands) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.checkpoints = Some(Checkpointing { rules, committees, collectors, kept, carried, stands });
        self
    }

    /// A node's process ended: what it collected and did not keep is gone.
    pub(super) fn forget_checkpoints(&mut self, node: usize) {
        let Some(here) = &mut self.checkpoints else { return };
        let height = self.nodes[node].height.saturating_sub(1);
        here.collectors[node] = Collector::new(here.rules, Some(checkpoint_key(node)), height);
        let again: Vec<u64> = here.rules.open_in(height + 1);
        for checkpoint in again.into_iter().filter(|checkpoint| *checkpoint <= height) {
            self.begin_checkpoint(node, checkpoint);
        }
    }

    /// The node builds a block: it carries the oldest certificate that is due.
    pub(super) fn carry_checkpoint(&mut self, node: usize, height: u64, hash: B256) {
        let Some(here) = &mut self.checkpoints else { return };
        let due = here.rules.open_in(height).into_iter();
        let due = due.filter(|checkpoint| here.kept.contains_key(&(node, *checkpoint)));
        if let Some(checkpoint) = due.filter(|checkpoint| !here.stands.contains_key(checkpoint)).min() {
            here.carried.insert(hash, checkpoint);
        }
    }

    /// A block is final on a node.
    pub(super) fn checkpoint_final(&mut self, node: usize, height: u64) {
        let hash = self.block(height);
        let Some(here) = &mut self.checkpoints else { return };
        let settled: Vec<u64> = hash.and_then(|hash| here.carried.get(&hash)).copied().into_iter().collect();
        for checkpoint in &settled {
            here.stands.entry(*checkpoint).or_insert(height);
        }
        let actions = here.collectors[node].advance(height, &settled);
        let begins = here.rules.has(height);
        self.act_on_checkpoints(node, actions);
        if begins {
            self.begin_checkpoint(node, height);
        }
    }

    fn duty(&self, height: u64) -> Option<CheckpointDuty> {
        let here = self.checkpoints.as_ref()?;
        let of = |height: u64| {
            let epoch = (height - 1) / self.faults.epoch_heights;
            let place = epoch % u64::try_from(here.committees.len()).unwrap();
            Arc::clone(&here.committees[usize::try_from(place).unwrap()])
        };
        let next_committee = of(CheckpointRules::next_decides(height)).hash();
        let message =
            CheckpointMessage { genesis_hash: GENESIS, height, block_hash: self.block(height)?, next_committee };
        Some(CheckpointDuty { message, committee: of(height) })
    }

    fn begin_checkpoint(&mut self, node: usize, height: u64) {
        let Some(duty) = self.duty(height) else { return };
        let Some(here) = &mut self.checkpoints else { return };
        let actions = here.collectors[node].begin(duty);
        self.act_on_checkpoints(node, actions);
    }

    pub(super) fn hear_checkpoint(&mut self, from: usize, to: usize, vote: CheckpointVote) {
        let up = self.nodes[to].engine.is_some();
        let Some(here) = self.checkpoints.as_mut().filter(|_| up) else { return };
        let (_, actions) = here.collectors[to].hear(node_id(from), vote);
        self.act_on_checkpoints(to, actions);
    }

    fn act_on_checkpoints(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Say(vote) => self.say_checkpoint(node, &vote),
                Action::Keep { height, certificate, post_quantum } => {
                    self.keep_checkpoint(node, height, (certificate, post_quantum))
                }
            }
        }
    }

    /// What is kept holds, for the block that was decided.
    fn keep_checkpoint(&mut self, node: usize, height: u64, parts: (Bytes, Bytes)) {
        let duty = self.duty(height).unwrap();
        let short = CheckpointCertificate::decode_exact(&parts.0).unwrap();
        let long = PostQuantumCertificate::decode_exact(&parts.1).unwrap();
        let right = short.message(GENESIS) == duty.message && long.message(GENESIS) == duty.message;
        let holds = short.verify(&duty.committee, GENESIS).and_then(|()| long.verify(&duty.committee, GENESIS));
        if !right || holds.is_err() {
            self.fail(format!("node {node} keeps a wrong checkpoint {height}: {holds:?}"));
        }
        if let Some(here) = &mut self.checkpoints {
            here.kept.insert((node, height), parts);
        }
    }

    fn say_checkpoint(&mut self, node: usize, vote: &CheckpointVote) {
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            let Some(vote) = self.said_by(node, to, vote) else { continue };
            let delay = self.rng.random_range(self.faults.latency_ms.clone());
            let lost = self.rng.random_range(0..100) < self.faults.lost_percent;
            if !lost && self.hear_each_other(node, to) {
                self.at(delay, Event::Checkpoint { from: node, to, vote: Box::new(vote) });
            }
        }
    }

    /// What a node sends to another one; the evil do not send what they should.
    fn said_by(&self, node: usize, to: usize, vote: &CheckpointVote) -> Option<CheckpointVote> {
        let key = checkpoint_key(node);
        let forked = || {
            let duty = self.duty(vote.height)?;
            let message = CheckpointMessage { block_hash: B256::repeat_byte(0xee), ..duty.message };
            let signature = CheckpointSignature::sign(&key, &message, vote.signature.account).ok()?;
            Some(CheckpointVote { signature, ..vote.clone() })
        };
        match self.faults.evil.get(&node) {
            None => Some(vote.clone()),
            Some(Evil::Silent) => None,
            // Half of the nodes get a signature over another block under this one's name.
            Some(Evil::Equivocates) => {
                if to.is_multiple_of(2) {
                    Some(vote.clone())
                } else {
                    forked()
                }
            }
            // In another's name, with signatures that are none of his.
            Some(Evil::Lies) => {
                let mut lie = vote.clone();
                let duty = self.duty(vote.height)?;
                lie.signature.account = duty.committee.members()[to % duty.committee.members().len()].account;
                Some(lie)
            }
        }
    }

    /// Blocks between each checkpoint up to a height and the one in which its certificate stands; none where it stands
    /// nowhere in time.
    pub(in crate::simulation) fn checkpoint_delays(&self, up_to: u64) -> Vec<Option<u64>> {
        let Some(here) = &self.checkpoints else { return Vec::new() };
        let all = (1..=up_to).filter(|height| here.rules.has(*height));
        let delay = |height: u64| here.stands.get(&height).map(|block| block - height);
        all.map(|height| delay(height).filter(|delay| *delay <= CHECKPOINT_INCLUSION_BLOCKS)).collect()
    }

    /// Honest nodes that have both certificates of a checkpoint.
    pub(in crate::simulation) fn checkpoint_keepers(&self, height: u64) -> usize {
        let Some(here) = &self.checkpoints else { return 0 };
        self.honest().filter(|node| here.kept.contains_key(&(*node, height))).count()
    }
}
