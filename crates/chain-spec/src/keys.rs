//! Checkpoint keys of the first committee (CHN-15): no contract has checked them, so the spec's reader does.

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::RlpEncodable;
use serde::{Deserialize, Serialize};
use trellis_crypto::{CheckpointKey, MLDSA44_PUBLIC_BYTES, verify_bls};

/// What the proofs are for.
const PROOF_DOMAIN: &[u8] = b"trellis/genesis-keys/1";

/// What a validator of the first committee signs checkpoints with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct CheckpointEntry {
    /// BLS12-381 key, a compressed point of G2.
    pub bls: Bytes,
    /// ML-DSA-44 key.
    pub mldsa44: Bytes,
    /// Signature with the BLS key over chain, account and key: keys that nobody was shown to have cannot be added up.
    pub bls_proof: Bytes,
}

impl CheckpointEntry {
    /// The entry of a key's holder.
    #[must_use]
    pub fn of(key: &CheckpointKey, chain_id: u64, account: Address) -> Self {
        let bls = key.bls_public();
        Self {
            bls: Bytes::copy_from_slice(&bls),
            mldsa44: key.mldsa44_public().into(),
            bls_proof: Bytes::copy_from_slice(&key.prove_bls(proof_message(chain_id, account, &bls).as_slice())),
        }
    }

    /// Whether both are keys and the BLS key's holder has shown to have it.
    #[must_use]
    pub fn holds(&self, chain_id: u64, account: Address) -> bool {
        let message = proof_message(chain_id, account, &self.bls);
        self.mldsa44.len() == MLDSA44_PUBLIC_BYTES && verify_bls(&self.bls, message.as_slice(), &self.bls_proof).is_ok()
    }
}

fn proof_message(chain_id: u64, account: Address, bls: &[u8]) -> B256 {
    keccak256([PROOF_DOMAIN, &chain_id.to_be_bytes(), account.as_slice(), bls].concat())
}
