//! A batch's leaf with everything its hash covers: what is served to whoever asks, and what a proof on chain carries.

use alloy_sol_types::SolValue;
use trellis_contracts::settlement::Settlement::{LeafProof, PathStep, Receipt};
use trellis_contracts::typed;
use trellis_crypto::recover;
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::eip712::Domain;
use trellis_primitives::{Address, B256, Bytes, ChannelId, keccak256};

use crate::error::DataError;
use crate::tree::Node;

/// Bytes of both sides' signatures.
pub(crate) const SIGNATURES_BYTES: usize = 130;
/// Bytes of a served leaf: 29 words, signatures of any length up to this, one hash, one sum.
pub(crate) const SIGNATURES_BYTES_MAX: usize = 1_024;

/// One leaf as an aggregator states it; nothing in it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafData {
    /// The receipt, any field of which may be wrong.
    pub receipt: Receipt,
    /// Both signatures, or anything else.
    pub signatures: Bytes,
    /// Hash of the post-quantum proof.
    pub pq_hash: B256,
    /// What the tree says that the leaf adds, in wei.
    pub sum: u128,
}

/// What makes a receipt good in one aggregator's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) chain_id: u64,
    pub(crate) channels: Address,
    pub(crate) settlement: Address,
    pub(crate) aggregator: Address,
}

/// The two keys of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelKeys {
    pub(crate) signer: Address,
    pub(crate) payee: Address,
}

impl LeafData {
    /// The leaf of a receipt that both sides signed; `None` while a signature is missing.
    #[must_use]
    pub fn of(signed: &SignedReceipt) -> Option<Self> {
        let receipt = Receipt::abi_decode(&signed.receipt.to_abi_bytes()).ok()?;
        Some(Self {
            sum: receipt.outcome.cost,
            receipt,
            signatures: Bytes::copy_from_slice(&signed.signatures()?),
            pq_hash: keccak256(&signed.pq_proof),
        })
    }

    /// Where it stands in a sorted tree.
    #[must_use]
    pub fn key(&self) -> (ChannelId, u64) {
        (ChannelId(self.receipt.key.channelId), self.receipt.key.sequence)
    }

    /// EIP-712 `hashStruct` of the receipt: every field is one word, so the ABI encoding is its data.
    pub(crate) fn receipt_hash(&self) -> B256 {
        let mut bytes = keccak256(typed::RECEIPT_TYPE).to_vec();
        bytes.extend_from_slice(&self.receipt.abi_encode());
        keccak256(bytes)
    }

    pub(crate) fn node(&self) -> Node {
        let mut bytes = [0u8; 97];
        bytes[1..33].copy_from_slice(self.receipt_hash().as_slice());
        bytes[33..65].copy_from_slice(keccak256(&self.signatures).as_slice());
        bytes[65..97].copy_from_slice(self.pq_hash.as_slice());
        (keccak256(bytes), self.sum)
    }

    /// The proof of its place.
    pub(crate) fn proof(&self, index: u32, path: Vec<PathStep>) -> LeafProof {
        LeafProof {
            index,
            sum: self.sum,
            receipt: self.receipt.clone(),
            signatures: self.signatures.clone(),
            pqHash: self.pq_hash,
            path,
        }
    }

    /// The contract's own test of a receipt. `keys` are those of the receipt's channel, `None` where there is no such channel.
    pub(crate) fn is_good(&self, rules: &Rules, keys: Option<ChannelKeys>) -> bool {
        let r = &self.receipt.key;
        let placed = r.version == typed::RECEIPT_VERSION
            && r.chainId == rules.chain_id
            && r.channels == rules.channels
            && r.aggregator == rules.aggregator
            && self.signatures.len() == SIGNATURES_BYTES
            && self.sum == self.receipt.outcome.cost;
        let (Some(keys), true) = (keys, placed) else { return false };
        let domain = Domain { chain_id: rules.chain_id, contract: rules.settlement };
        let digest = domain.digest(self.receipt_hash());
        let (gateway, provider) = self.signatures.split_at(SIGNATURES_BYTES / 2);
        recover(digest, gateway) == Ok(keys.signer) && recover(digest, provider) == Ok(keys.payee)
    }

    pub(crate) fn abi_bytes(&self) -> Vec<u8> {
        self.receipt.abi_encode()
    }

    /// Reads a served leaf. Any receipt is read that the contract could be shown, good or not.
    pub(crate) fn from_parts(receipt: &[u8], signatures: &[u8], pq_hash: &[u8], sum: &[u8]) -> Result<Self, DataError> {
        let receipt = Receipt::abi_decode(receipt).map_err(|_| DataError::Field("receipt"))?;
        if signatures.len() > SIGNATURES_BYTES_MAX {
            return Err(DataError::Field("signatures"));
        }
        Ok(Self {
            receipt,
            signatures: Bytes::copy_from_slice(signatures),
            pq_hash: B256::try_from(pq_hash).map_err(|_| DataError::Field("pq_hash"))?,
            sum: u128::from_be_bytes(sum.try_into().map_err(|_| DataError::Field("sum"))?),
        })
    }
}
