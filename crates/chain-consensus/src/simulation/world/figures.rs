//! What a simulated history took: virtual time to finality, messages and bytes (CHN-12).

use std::collections::BTreeMap;

use arc_malachitebft_codec::Codec;
use arc_malachitebft_core_consensus::{Input, SignedConsensusMsg};

use crate::codec::EngineCodec;
use crate::context::Trellis;

/// Counted while a world runs.
#[derive(Default)]
pub(crate) struct Figures {
    /// When the first node began a height.
    began: BTreeMap<u64, u64>,
    /// How long after that each node had decided it, in milliseconds.
    finality_ms: Vec<u64>,
    /// Messages on the way, one for each receiver.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Figures {
    pub(super) fn began(&mut self, height: u64, now: u64) {
        self.began.entry(height).or_insert(now);
    }

    pub(super) fn decided(&mut self, height: u64, now: u64) {
        if let Some(began) = self.began.get(&height) {
            self.finality_ms.push(now - began);
        }
    }

    /// A message goes to so many. What a block's own bytes cost is another question.
    pub(super) fn sent(&mut self, input: &Input<Trellis>, receivers: usize) {
        let bytes = match input {
            Input::Vote(vote) => EngineCodec.encode(&SignedConsensusMsg::Vote(vote.clone())).map(|bytes| bytes.len()),
            Input::Proposal(proposal) => {
                EngineCodec.encode(&SignedConsensusMsg::Proposal(proposal.clone())).map(|bytes| bytes.len())
            }
            Input::PolkaCertificate(polka) => EngineCodec.encode(polka).map(|bytes| bytes.len()),
            _ => return,
        };
        let receivers = u64::try_from(receivers).unwrap();
        self.messages += receivers;
        self.bytes += receivers * u64::try_from(bytes.unwrap()).unwrap();
    }

    /// The time from the first node's start of a height to a node's decision that so many percent of them keep to.
    pub(crate) fn finality_ms(&self, percent: usize) -> u64 {
        let mut all = self.finality_ms.clone();
        all.sort_unstable();
        all[(all.len() * percent / 100).min(all.len() - 1)]
    }
}
