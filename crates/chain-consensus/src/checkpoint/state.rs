//! Who has signed which checkpoint: takes what is final and what is heard, says what to send and what to keep. No clock, no
//! network, no disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use trellis_chain_finality::{CheckpointRules, CheckpointSignature, CheckpointTally};
use trellis_crypto::CheckpointKey;
use trellis_primitives::{Bytes, NodeId};

use super::CheckpointDuty;
use super::wire::CheckpointVote;

/// Blocks for which the signatures of a checkpoint are taken.
pub(super) const OPEN_BLOCKS: u64 = 64;
/// Blocks by which a vote may be ahead of what is final here.
const EARLY_BLOCKS_MAX: u64 = 64;
/// Peers of which one early vote is held.
const EARLY_PEERS_MAX: usize = 4_096;
/// Wrong signatures of one peer that are looked at, for each checkpoint.
const FAULTS_MAX: u32 = 4;
/// Blocks in which an own signature is said at each one; afterwards at every eighth.
const REPEAT_BLOCKS: u64 = 8;

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send the own signature to every validator.
    Say(CheckpointVote),
    /// Keep certificates.
    Keep { height: u64, certificate: Bytes, post_quantum: Bytes },
}

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It counts.
    Counted,
    /// Its signer's was here already.
    Known,
    /// It is about a block that is not final here yet; it waits.
    Early,
    /// Nobody asks for it (any more).
    Unasked,
    /// It is for another block than the final one.
    OtherBlock,
    /// A signature does not verify, or nobody with keys made it.
    Wrong,
    /// Its peer has sent enough wrong ones.
    Ignored,
}

struct Open {
    tally: CheckpointTally,
    own: Option<CheckpointVote>,
    faults: BTreeMap<NodeId, u32>,
    /// Power of what was handed out to be kept.
    kept_power: u64,
    /// A certificate stands in a block: enough others have the own signature.
    settled: bool,
}

/// The checkpoints that are being signed.
pub(crate) struct Collector {
    rules: CheckpointRules,
    key: Option<CheckpointKey>,
    height: u64,
    open: BTreeMap<u64, Open>,
    early: BTreeMap<NodeId, CheckpointVote>,
}

impl Collector {
    /// Knows nothing yet; signs where it has a key that a committee knows.
    pub(crate) fn new(rules: CheckpointRules, key: Option<CheckpointKey>, height: u64) -> Self {
        Self { rules, key, height, open: BTreeMap::new(), early: BTreeMap::new() }
    }

    /// The newest height that it was told to be final.
    pub(crate) fn height(&self) -> u64 {
        self.height
    }

    /// Checkpoints whose signatures are taken and whose certificate stands in no block as far as is known.
    pub(crate) fn unsettled(&self) -> Vec<u64> {
        self.open.iter().filter(|(_, open)| !open.settled).map(|(height, _)| *height).collect()
    }

    /// A checkpoint's block is final: signs it, and looks at what was heard of it before.
    pub(crate) fn begin(&mut self, duty: CheckpointDuty) -> Vec<Action> {
        let height = duty.message.height;
        let own = self.sign(&duty);
        let tally = CheckpointTally::new(duty.message, Arc::clone(&duty.committee));
        let open = Open { tally, own: own.clone(), faults: BTreeMap::new(), kept_power: 0, settled: false };
        self.open.insert(height, open);
        let mut actions = Vec::new();
        if let (Some(vote), Some(open)) = (own, self.open.get_mut(&height)) {
            let counted = open.tally.add(&vote.signature);
            debug_assert!(counted.is_ok(), "the own signature verifies: {counted:?}");
            actions.push(Action::Say(vote));
            actions.extend(open.first_quorum());
        }
        let early: Vec<_> = self.early.extract_if(.., |_, vote| vote.height <= height).collect();
        for (peer, vote) in early {
            actions.extend(self.hear(peer, vote).1);
        }
        actions
    }

    fn sign(&self, duty: &CheckpointDuty) -> Option<CheckpointVote> {
        let key = self.key.as_ref()?;
        let member = duty.committee.holder(&key.bls_public())?;
        let signature = CheckpointSignature::sign(key, &duty.message, member.account)
            .inspect_err(|error| tracing::error!(height = duty.message.height, %error, "a checkpoint cannot be signed"))
            .ok()?;
        Some(CheckpointVote { height: duty.message.height, block_hash: duty.message.block_hash, signature })
    }

    /// A peer says something about a checkpoint.
    pub(crate) fn hear(&mut self, peer: NodeId, vote: CheckpointVote) -> (Heard, Vec<Action>) {
        let Some(open) = self.open.get_mut(&vote.height) else { return (self.set_aside(peer, vote), Vec::new()) };
        if vote.block_hash != open.tally.message().block_hash {
            return (Heard::OtherBlock, Vec::new());
        }
        if open.tally.has(&vote.signature.account) {
            return (Heard::Known, Vec::new());
        }
        let faults = open.faults.get(&peer).copied().unwrap_or_default();
        if faults >= FAULTS_MAX {
            return (Heard::Ignored, Vec::new());
        }
        match open.tally.add(&vote.signature) {
            Ok(_) => (Heard::Counted, open.first_quorum()),
            Err(error) => {
                open.faults.insert(peer, faults.saturating_add(1));
                tracing::debug!(%peer, %error, "a checkpoint's signature is not counted");
                (Heard::Wrong, Vec::new())
            }
        }
    }

    fn set_aside(&mut self, peer: NodeId, vote: CheckpointVote) -> Heard {
        let ahead = vote.height.checked_sub(self.height).is_some_and(|by| (1..=EARLY_BLOCKS_MAX).contains(&by));
        let room = self.early.len() < EARLY_PEERS_MAX || self.early.contains_key(&peer);
        if !ahead || !room || !self.rules.has(vote.height) {
            return Heard::Unasked;
        }
        self.early.insert(peer, vote);
        Heard::Early
    }

    /// Blocks up to `height` are final; certificates of `settled` stand in them.
    pub(crate) fn advance(&mut self, height: u64, settled: &[u64]) -> Vec<Action> {
        self.height = self.height.max(height);
        self.open.retain(|checkpoint, _| height < checkpoint.saturating_add(OPEN_BLOCKS));
        self.early.retain(|_, vote| height < vote.height.saturating_add(OPEN_BLOCKS));
        let mut actions = Vec::new();
        for (checkpoint, open) in &mut self.open {
            open.settled |= settled.contains(checkpoint);
            // Signatures that came since belong in what is kept: the more signers, the better.
            if open.tally.power() > open.kept_power {
                actions.extend(open.certificates());
            }
            let past = height.saturating_sub(*checkpoint);
            let due = past <= REPEAT_BLOCKS || past.is_multiple_of(REPEAT_BLOCKS);
            if let Some(own) = open.own.as_ref().filter(|_| due && !open.settled) {
                actions.push(Action::Say(own.clone()));
            }
        }
        actions
    }
}

impl Open {
    /// The certificates as soon as there are any.
    fn first_quorum(&mut self) -> Vec<Action> {
        if self.kept_power == 0 || self.tally.is_full() { self.certificates() } else { Vec::new() }
    }

    fn certificates(&mut self) -> Vec<Action> {
        let Some((short, long)) = self.tally.assemble() else { return Vec::new() };
        self.kept_power = self.tally.power();
        let height = short.height;
        let (certificate, post_quantum) = (alloy_rlp::encode(short).into(), alloy_rlp::encode(long).into());
        vec![Action::Keep { height, certificate, post_quantum }]
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
