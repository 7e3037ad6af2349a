//! Nodes that do not keep to the protocol, each in one way.

use std::rc::Rc;

use arc_malachitebft_core_consensus::{Input, SignedConsensusMsg};
use arc_malachitebft_core_types::{CommitCertificate, NilOrVal, Round, SignedMessage};
use arc_malachitebft_signing::Signer;
use rand::Rng;
use std::sync::Arc;
use trellis_chain_finality::Equivocation;
use trellis_crypto::VoteKey;
use trellis_primitives::{B256, keccak256};

use super::{GENESIS, World, input_of, now_or_never};
use crate::context::{BlockHeight, BlockId, Proposal, Trellis, Vote};
use crate::signing::EngineSigner;

/// How a node is evil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evil {
    /// It hears everything and says nothing.
    Silent,
    /// It signs two values for every place: one half of the nodes gets the one, the other half the other, some get both.
    Equivocates,
    /// It votes in others' names, with signatures that are none, and hands out false certificates.
    Lies,
}

impl World {
    /// What an evil node makes of a message of its own.
    pub(super) fn publish_evil(&mut self, node: usize, message: SignedConsensusMsg<Trellis>) {
        match self.faults.evil.get(&node) {
            Some(Evil::Silent) | None => {}
            Some(Evil::Equivocates) => {
                let twin = twin(node, &self.nodes[node].key, &message);
                let pair = [Rc::new(input_of(message)), Rc::new(input_of(twin))];
                for to in (0..self.nodes.len()).filter(|to| *to != node) {
                    let both = self.rng.random_range(0..4) == 0;
                    for (side, input) in pair.iter().enumerate() {
                        if both || to % 2 == side {
                            self.send(node, to, input);
                        }
                    }
                }
            }
            Some(Evil::Lies) => {
                let victim = self.nodes[self.rng.random_range(0..self.nodes.len())].address;
                let input = match message {
                    SignedConsensusMsg::Vote(vote) => {
                        let forged = Vote { voter: victim, ..vote.message.clone() };
                        Input::Vote(SignedMessage::new(forged, vote.signature))
                    }
                    SignedConsensusMsg::Proposal(proposal) => {
                        let forged = Proposal { value: BlockId(B256::repeat_byte(0xee)), ..proposal.message.clone() };
                        Input::Proposal(SignedMessage::new(forged, proposal.signature))
                    }
                };
                self.broadcast(node, input);
            }
        }
    }

    /// An equivocator streams a second block for its place, so that its second proposal can be voted for.
    pub(super) fn propose_twice(&mut self, node: usize, height: BlockHeight, round: Round) {
        if self.faults.evil.get(&node) == Some(&Evil::Equivocates) {
            self.stream(node, height, (round, Round::Nil), other(node, height, round));
        }
    }

    /// A liar's certificate is for another block than was decided.
    pub(super) fn falsify(&self, node: usize, certificate: &mut CommitCertificate<Trellis>) {
        if self.faults.evil.get(&node) == Some(&Evil::Lies) {
            certificate.value_id = B256::repeat_byte(0xdd);
        }
    }

    /// Evidence at an honest node: it convicts the evil and nobody else.
    pub(super) fn accuse(&mut self, node: usize, evidence: &[Equivocation]) {
        for piece in evidence {
            let accused = self.nodes.iter().position(|other| other.address.0 == piece.validator());
            if piece.verify(self.set(piece.height()), &GENESIS).is_err() {
                continue;
            }
            match accused {
                Some(accused) if self.faults.evil.contains_key(&accused) => drop(self.convicted.insert(accused)),
                _ => self.fail(format!("node {node} can convict an honest validator: {piece:?}")),
            }
        }
    }
}

/// The block that an equivocator proposes beside its first.
fn other(node: usize, height: BlockHeight, round: Round) -> B256 {
    keccak256(format!("twin {node} {height} {round}").as_bytes())
}

/// The same place, another value, soundly signed.
fn twin(node: usize, key: &VoteKey, message: &SignedConsensusMsg<Trellis>) -> SignedConsensusMsg<Trellis> {
    // A guard of its own: the node's would refuse.
    let signer = EngineSigner::new(Arc::new(key.clone()), GENESIS);
    match message {
        SignedConsensusMsg::Vote(vote) => {
            let value = match vote.value {
                NilOrVal::Nil => NilOrVal::Val(other(node, vote.height, vote.round)),
                NilOrVal::Val(_) => NilOrVal::Nil,
            };
            let vote = Vote { value, ..vote.message.clone() };
            SignedConsensusMsg::Vote(now_or_never(signer.sign_vote(vote)).unwrap())
        }
        SignedConsensusMsg::Proposal(proposal) => {
            let value = BlockId(other(node, proposal.height, proposal.round));
            let proposal = Proposal { value, ..proposal.message.clone() };
            SignedConsensusMsg::Proposal(now_or_never(signer.sign_proposal(proposal)).unwrap())
        }
    }
}
