//! Whether the chain's word on what is final has the committee's signatures.

use std::sync::Arc;

use trellis_chain_finality::{FinalityProof, ValidatorSet};
use trellis_primitives::{B256, Header};

use crate::error::ChainError;

/// The committee that must have signed. One committee until it changes; the caller makes a new client then.
#[derive(Clone)]
pub struct Committee {
    validators: Arc<ValidatorSet>,
    genesis_hash: B256,
}

impl std::fmt::Debug for Committee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committee").field("genesis_hash", &self.genesis_hash).finish_non_exhaustive()
    }
}

impl Committee {
    /// The validators of a chain.
    #[must_use]
    pub fn new(validators: ValidatorSet, genesis_hash: B256) -> Self {
        Self { validators: Arc::new(validators), genesis_hash }
    }

    /// Checks a proof and gives the header that it makes final.
    ///
    /// # Errors
    /// [`ChainError::NotProved`].
    pub fn check(&self, proof: &[u8]) -> Result<Header, ChainError> {
        let proof = FinalityProof::decode_exact(proof)?;
        Ok(proof.verify(&self.validators, &self.genesis_hash)?)
    }
}
