//! Proposing blocks, sending them in parts, and judging those that arrive.

use std::time::Duration;

use arc_malachitebft_core_consensus::{LocallyProposedValue, ProposedValue};
use arc_malachitebft_core_types::{Round, Validity};
use arc_malachitebft_engine::network::NetworkMsg;
use arc_malachitebft_engine::util::streaming::{StreamContent, StreamId, StreamMessage};
use arc_malachitebft_peer::PeerId;
use bytes::Bytes;
use trellis_chain_finality::ProposalPlace;
use trellis_primitives::{B256, keccak256};

use super::{Host, value_of};
use crate::application::Verdict;
use crate::context::{BlockHeight, BlockId, Part, PartsInit, Trellis};
use crate::error::StopReason;
use crate::parts::cut;
use crate::signing::parts_hash;
use crate::undecided::Undecided;

/// Heights ahead of ours for which whole blocks are kept until we are there.
const EARLY_HEIGHTS_MAX: u64 = 2;
/// Whole blocks kept for one such height.
const EARLY_BLOCKS_MAX: usize = 3;
/// Rounds ahead of ours in which a proposal is looked at; the engine drops votes further ahead too.
const ROUNDS_AHEAD_MAX: u32 = 10;

impl Host {
    /// Builds a block of our own, or finds the one built for this place before a restart.
    pub(super) async fn propose(
        &mut self,
        height: u64,
        round: u32,
        timeout: Duration,
    ) -> Result<Option<LocallyProposedValue<Trellis>>, StopReason> {
        let answer = |hash: B256| LocallyProposedValue::new(BlockHeight(height), Round::new(round), BlockId(hash));
        let before = self.work.blocks.values().find(|b| b.own && b.height == height && b.round == round);
        if let Some(block) = before {
            return Ok(Some(answer(block.block_hash)));
        }
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let deadline = self.clock.now().plus_ms(timeout_ms);
        let parent = self.tip.certificate.clone();
        let building = self.app.propose(height, round, parent, deadline);
        let block = match tokio::time::timeout(timeout, building).await {
            Ok(Ok(block)) => block,
            Ok(Err(error)) => {
                tracing::warn!(height, round, %error, "no block proposed");
                return Ok(None);
            }
            Err(_) => {
                tracing::warn!(height, round, timeout_ms, "no block proposed in time");
                return Ok(None);
            }
        };
        self.keep(Undecided {
            height,
            round,
            pol_round: None,
            proposer: self.address,
            own: true,
            block_hash: block.block_hash,
            block_rlp: block.block_rlp,
        })
        .await?;
        self.metrics.proposed.inc();
        Ok(Some(answer(block.block_hash)))
    }

    /// Sends a block of this height to the other validators, in parts, as the proposer of `round`.
    pub(super) async fn stream(&mut self, hash: B256, round: u32, pol_round: Option<u32>) {
        let Some(block) = self.work.blocks.get(&hash) else {
            return;
        };
        if self.shared.peers().is_empty() {
            return;
        }
        let payload: Bytes = block.block_rlp.0.clone();
        let payload_hash = keccak256(&payload);
        let place = ProposalPlace { height: block.height, round };
        let signed = self.signer.sign_parts(place, hash, &payload_hash, payload.len()).await;
        let signature = match signed {
            Ok(signature) => signature,
            Err(error) => {
                tracing::warn!(%error, "proposal not streamed");
                return;
            }
        };
        let init = PartsInit {
            height: place.height,
            round,
            pol_round,
            proposer: self.address,
            block_hash: hash,
            payload_hash,
            payload_bytes: payload.len(),
            signature,
        };
        self.work.streams = self.work.streams.saturating_add(1);
        let mut id = place.height.to_be_bytes().to_vec();
        id.extend_from_slice(&round.to_be_bytes());
        id.extend_from_slice(&self.work.streams.to_be_bytes());
        let id = Bytes::from(id);
        for (sequence, part) in (0u64..).zip(cut(init, &payload)) {
            let stream = StreamId::new(id.clone());
            let message = StreamMessage::new(stream, sequence, StreamContent::Data(part));
            // The actor is gone only when the engine stops.
            let _ = self.net.cast(NetworkMsg::PublishProposalPart(message));
        }
    }

    /// Takes a part; gives the block's value once the block is whole and judged.
    pub(super) async fn received_part(
        &mut self,
        from: PeerId,
        message: StreamMessage<Part>,
    ) -> Result<Option<ProposedValue<Trellis>>, StopReason> {
        let StreamContent::Data(part) = message.content else {
            return Ok(None);
        };
        if let Part::Init(init) = &part
            && let Err(reason) = self.check_head(init)
        {
            self.metrics.refuse(reason);
            return Ok(None);
        }
        let id = message.stream_id.to_bytes();
        match self.work.assembler.take(from, &id, message.sequence, part) {
            Ok(None) => Ok(None),
            Ok(Some((init, body))) => self.whole(init, body).await,
            Err(refusal) => {
                self.metrics.refuse("part");
                tracing::debug!(%from, ?refusal, "proposal part refused");
                Ok(None)
            }
        }
    }

    /// Whether a stream is worth keeping. Who proposes at a later height is not known yet: there it is enough for now that
    /// a member of today's committee signed; whether it was its turn is checked when we are there.
    fn check_head(&self, init: &PartsInit) -> Result<(), &'static str> {
        let height = self.work.height;
        if init.height < height {
            return Err("part_too_old");
        }
        if init.height > height.saturating_add(EARLY_HEIGHTS_MAX) {
            return Err("part_too_early");
        }
        if init.height > height { self.check_signature(init) } else { self.check_proposer(init) }
    }

    fn check_proposer(&self, init: &PartsInit) -> Result<(), &'static str> {
        let Some(committee) = &self.work.committee else {
            return Err("part_without_committee");
        };
        if init.round > self.work.round.saturating_add(ROUNDS_AHEAD_MAX) {
            return Err("part_round_too_far");
        }
        let expected = committee.proposer(init.height, init.round);
        if expected.is_none_or(|member| member.address != init.proposer) {
            return Err("part_not_of_the_proposer");
        }
        self.check_signature(init)
    }

    fn check_signature(&self, init: &PartsInit) -> Result<(), &'static str> {
        let committee = self.work.committee.as_ref().ok_or("part_without_committee")?;
        let member = committee.set().get(&init.proposer).ok_or("part_not_of_the_committee")?;
        let place = ProposalPlace { height: init.height, round: init.round };
        let message = parts_hash(&self.genesis_hash, place, &init.block_hash, &init.payload_hash, init.payload_bytes);
        if member.public_key.verifies(message.as_slice(), &init.signature) { Ok(()) } else { Err("part_signature") }
    }

    async fn whole(&mut self, init: PartsInit, body: Bytes) -> Result<Option<ProposedValue<Trellis>>, StopReason> {
        // Between the decision of a height and the start of the next the tip is ahead of the height.
        let judgeable = init.height == self.work.height && self.tip.height < init.height;
        if judgeable {
            return self.judge(init, body).await;
        }
        if init.height > self.work.height {
            let early = self.work.early.entry(init.height).or_default();
            // One of each signer: nobody can fill the place of another's block.
            let new = early.iter().all(|(other, _)| other.proposer != init.proposer);
            if new && early.len() < EARLY_BLOCKS_MAX {
                early.push((init, body));
            } else {
                self.metrics.refuse("part_too_many_early");
            }
        }
        Ok(None)
    }

    /// Judges a whole block of the current height, keeps it if it is valid, and says so to the engine.
    pub(super) async fn judge(
        &mut self,
        init: PartsInit,
        body: Bytes,
    ) -> Result<Option<ProposedValue<Trellis>>, StopReason> {
        if let Err(reason) = self.check_proposer(&init) {
            self.metrics.refuse(reason);
            return Ok(None);
        }
        let block = Undecided {
            height: init.height,
            round: init.round,
            pol_round: init.pol_round,
            proposer: init.proposer,
            own: false,
            block_hash: init.block_hash,
            block_rlp: body.into(),
        };
        if self.work.blocks.contains_key(&block.block_hash) {
            return Ok(Some(value_of(&block, Validity::Valid)));
        }
        let reason = match self.app.verify(block.height, block.block_rlp.clone()).await {
            Ok(Verdict::Valid { block_hash }) if block_hash == block.block_hash => {
                let value = value_of(&block, Validity::Valid);
                self.keep(block).await?;
                return Ok(Some(value));
            }
            Ok(Verdict::Valid { .. }) => "the block has another hash than proposed".to_owned(),
            Ok(Verdict::Invalid { reason }) => reason,
            Err(error) => {
                tracing::warn!(height = block.height, %error, "proposed block not judged");
                return Ok(None);
            }
        };
        self.metrics.invalid_blocks.inc();
        tracing::warn!(height = block.height, round = block.round, reason, "invalid block proposed");
        Ok(Some(value_of(&block, Validity::Invalid)))
    }
}
