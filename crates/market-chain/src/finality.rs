//! Whether the chain's word on what is final has the committee's signatures.

use std::sync::Arc;

use parking_lot::Mutex;
use trellis_chain_finality::{CommitteeChain, FinalityProof, ValidatorSet};
use trellis_primitives::{B256, Header};

use crate::error::ChainError;

/// The committees that must have signed, followed from the first one. Clones follow together.
#[derive(Clone)]
pub struct Committee {
    genesis_hash: B256,
    chain: Arc<Mutex<CommitteeChain>>,
}

impl std::fmt::Debug for Committee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committee").field("genesis_hash", &self.genesis_hash).finish_non_exhaustive()
    }
}

impl Committee {
    /// The first validators of a chain, and the blocks of its epochs where they change.
    #[must_use]
    pub fn new(validators: ValidatorSet, genesis_hash: B256, epoch_blocks: Option<u64>) -> Self {
        let chain = CommitteeChain::new(validators, genesis_hash, epoch_blocks);
        Self { genesis_hash, chain: Arc::new(Mutex::new(chain)) }
    }

    /// The block to [`Self::learn`] next before one at `height` can be checked.
    #[must_use]
    pub fn needed(&self, height: u64) -> Option<u64> {
        self.chain.lock().needed(height)
    }

    /// Learns the committee that a block names.
    ///
    /// # Errors
    /// [`ChainError::NotHandedOver`].
    pub fn learn(&self, proof: &[u8], section: &[u8]) -> Result<(), ChainError> {
        Ok(self.chain.lock().learn(&FinalityProof::decode_exact(proof)?, section)?)
    }

    /// Checks a proof and gives the header that it makes final.
    ///
    /// # Errors
    /// [`ChainError::NotProved`].
    pub fn check(&self, proof: &[u8]) -> Result<Header, ChainError> {
        Ok(self.chain.lock().check(&FinalityProof::decode_exact(proof)?)?)
    }
}
