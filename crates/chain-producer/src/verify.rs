//! Judging a proposed block: what takes the committee, the clock and the chain; the rest is the executor's.

use crate::RefusedBlock;
use crate::service::Inner;
use crate::state::check_time;
use alloy_primitives::B256;
use trellis_chain_finality::{ValidatorSet, verify_certificate};
use trellis_chain_storage::{ExecutedBlock, StateView};
use trellis_primitives::{Block, ConsensusSection};

/// The parent's certificate in a section: there, for the parent, and proving it.
pub(crate) fn check_section(
    section: &ConsensusSection,
    parent: &StateView,
    validators: &ValidatorSet,
    genesis_hash: &B256,
) -> Result<(), RefusedBlock> {
    let expected = parent.height() > 0;
    match &section.parent_commit {
        None if !expected => Ok(()),
        Some(certificate) if expected => {
            let (height, hash) = (parent.height(), parent.block_hash());
            if certificate.block_hash != hash || certificate.height != height {
                return Err(RefusedBlock::OtherParent {
                    expected: hash,
                    expected_height: height,
                    found: certificate.block_hash,
                    found_height: certificate.height,
                });
            }
            verify_certificate(certificate, validators, genesis_hash)?;
            Ok(())
        }
        _ => Err(RefusedBlock::ParentCertificate { expected }),
    }
}

impl Inner {
    /// Decodes, checks and executes a proposed block on the head.
    pub(crate) fn judge(&self, parent: &StateView, block_rlp: &[u8]) -> Result<ExecutedBlock, RefusedBlock> {
        let block = Block::from_rlp(block_rlp).map_err(RefusedBlock::Decode)?;
        let expected = parent.height().saturating_add(1);
        if block.header.number != expected {
            return Err(RefusedBlock::Height { expected, found: block.header.number });
        }
        let parent_ms = self.parent_time_ms(parent);
        let local_ms = self.clock.now().0;
        check_time(parent_ms, block.section.time_ms, local_ms, self.config.clock_ahead_ms_max)?;
        let hash = block.hash();
        if let Some(known) = self.candidates.lock().get(&hash) {
            // The hash covers the body through its roots, so another body is a block that would fail anyway.
            return if *known.block == block { Ok(known) } else { Err(RefusedBlock::OtherBody { hash }) };
        }
        let deciders = self.committees.of(parent.height()).map_err(RefusedBlock::Read)?;
        check_section(&block.section, parent, &deciders, &self.genesis_hash)?;
        self.committees.check_checkpoint(&block)?;
        self.committees.check(&self.executor, parent, &block)?;
        self.execute(parent, block)
    }

    /// Recovers the senders that are not known yet, executes, compares every header field.
    pub(crate) fn execute(&self, parent: &StateView, block: Block) -> Result<ExecutedBlock, RefusedBlock> {
        let senders = self.executor.recover_senders(&block, &|hash| self.mempool.sender_of(hash))?;
        let own =
            self.committees.call(block.header.number, block.section.epoch.as_ref()).map_err(RefusedBlock::Read)?;
        Ok(self.executor.execute_block(parent, block, senders, own.as_ref())?)
    }
}
