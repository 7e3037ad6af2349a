//! ML-DSA-65 over the Merkle root of a pair's receipts.
//!
//! One post-quantum signature per receipt would cost more than the job's accounting. So a gateway and a provider sign the root of
//! what they agreed on each second, each 256 receipts and at close. Roots form a chain by `previous`, so none can be slipped in later.

use crate::SignedReceipt;
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};
use trellis_crypto::{HybridKey, HybridPublic, SignatureError, domain_hash, merkle};
use trellis_primitives::{B256, Bytes, NodeId};

/// Receipts under one root at most.
pub const PAIR_ROOT_RECEIPTS_MAX: usize = 256;
/// A root is signed this long after its first receipt at the latest, in milliseconds.
pub const PAIR_ROOT_INTERVAL_MS: u64 = 1_000;
/// Levels of a proof at most: 256 receipts.
const PROOF_LEVELS_MAX: usize = 8;
/// Length of a proof without its siblings: root 32, count 2, index 2.
const PROOF_HEAD_BYTES: usize = 36;
const DOMAIN: &str = "trellis/pair-root/1";

/// Why a pair root or a proof under it is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairRootError {
    /// No receipts, or too many.
    #[error("a pair root covers 1 to {PAIR_ROOT_RECEIPTS_MAX} receipts, got {actual}")]
    Count {
        /// What was given.
        actual: usize,
    },
    /// Not the RLP of a pair root.
    #[error("not a pair root: {0}")]
    Rlp(alloy_rlp::Error),
    /// Not a proof.
    #[error("not a proof of {actual} bytes")]
    Proof {
        /// What was given.
        actual: usize,
    },
    /// The root is of another pair.
    #[error("the root names {side} {actual}, expected {expected}")]
    Party {
        /// `gateway` or `provider`.
        side: &'static str,
        /// Who should be named.
        expected: NodeId,
        /// Who is named.
        actual: NodeId,
    },
    /// The receipts do not have this root.
    #[error("the receipts have root {actual}, the record says {expected}")]
    Root {
        /// The record's root.
        expected: B256,
        /// The receipts' root.
        actual: B256,
    },
    /// Not the successor of the last root of this pair.
    #[error("the root follows {actual}, expected {expected}")]
    Chain {
        /// The hash of the last root.
        expected: B256,
        /// What the record says.
        actual: B256,
    },
    /// The receipt is not under the root.
    #[error("the receipt is not under the root")]
    NotUnder,
    /// A signature does not verify.
    #[error("the {side} post-quantum signature: {source}")]
    Signature {
        /// `gateway` or `provider`.
        side: &'static str,
        /// Why.
        source: SignatureError,
    },
}

/// The record that both sides sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash, RlpEncodable, RlpDecodable)]
pub struct PairRoot {
    /// The chain of the receipts.
    pub chain_id: u64,
    /// The gateway.
    pub gateway: [u8; 32],
    /// The provider.
    pub provider: [u8; 32],
    /// Number of this root within the pair, from 0.
    pub index: u64,
    /// [`PairRoot::hash`] of the root before; zero for the first.
    pub previous: B256,
    /// How many receipts.
    pub count: u16,
    /// The Merkle root over the receipts' struct hashes in the order of `receipts`.
    pub root: B256,
    /// When the gateway made it, Unix milliseconds.
    pub made_at_ms: u64,
}

/// A root with both post-quantum signatures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedPairRoot {
    /// The RLP as it was signed; never encoded again.
    pub record_rlp: Bytes,
    /// ML-DSA-65 by the gateway, 3,309 bytes; empty while missing.
    pub gateway_signature: Bytes,
    /// ML-DSA-65 by the provider, 3,309 bytes; empty while missing.
    pub provider_signature: Bytes,
}

impl PairRoot {
    /// RLP.
    #[must_use]
    pub fn to_rlp(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out.into()
    }

    /// Reads RLP to its last byte.
    ///
    /// # Errors
    /// [`PairRootError::Rlp`] or [`PairRootError::Count`].
    pub fn from_rlp(bytes: &[u8]) -> Result<Self, PairRootError> {
        let mut rest = bytes;
        let root = Self::decode(&mut rest).map_err(PairRootError::Rlp)?;
        if !rest.is_empty() {
            return Err(PairRootError::Rlp(alloy_rlp::Error::UnexpectedLength));
        }
        let actual = usize::from(root.count);
        if actual == 0 || actual > PAIR_ROOT_RECEIPTS_MAX {
            return Err(PairRootError::Count { actual });
        }
        Ok(root)
    }

    /// The gateway's node id.
    #[must_use]
    pub const fn gateway(&self) -> NodeId {
        NodeId(self.gateway)
    }

    /// The provider's node id.
    #[must_use]
    pub const fn provider(&self) -> NodeId {
        NodeId(self.provider)
    }
}

impl SignedPairRoot {
    /// The record.
    ///
    /// # Errors
    /// As [`PairRoot::from_rlp`].
    pub fn record(&self) -> Result<PairRoot, PairRootError> {
        PairRoot::from_rlp(&self.record_rlp)
    }

    /// What both keys sign, and the name by which proofs and the next root refer to this one.
    ///
    /// # Errors
    /// As [`PairRoot::from_rlp`].
    pub fn hash(&self) -> Result<B256, PairRootError> {
        Ok(domain_hash(DOMAIN, self.record()?.chain_id, &self.record_rlp))
    }

    /// Signs for the gateway.
    ///
    /// # Errors
    /// [`PairRootError::Signature`] where the library cannot sign.
    pub fn sign_as_gateway(&mut self, key: &HybridKey) -> Result<(), PairRootError> {
        self.gateway_signature = sign(self.hash()?, "gateway", key)?;
        Ok(())
    }

    /// Signs for the provider.
    ///
    /// # Errors
    /// [`PairRootError::Signature`] where the library cannot sign.
    pub fn sign_as_provider(&mut self, key: &HybridKey) -> Result<(), PairRootError> {
        self.provider_signature = sign(self.hash()?, "provider", key)?;
        Ok(())
    }

    /// Checks the gateway's name and signature.
    ///
    /// # Errors
    /// [`PairRootError::Party`] or [`PairRootError::Signature`].
    pub fn verify_gateway(&self, gateway: &HybridPublic) -> Result<(), PairRootError> {
        party("gateway", gateway.node_id(), self.record()?.gateway())?;
        verify(self.hash()?, "gateway", gateway, &self.gateway_signature)
    }

    /// Checks the provider's name and signature.
    ///
    /// # Errors
    /// [`PairRootError::Party`] or [`PairRootError::Signature`].
    pub fn verify_provider(&self, provider: &HybridPublic) -> Result<(), PairRootError> {
        party("provider", provider.node_id(), self.record()?.provider())?;
        verify(self.hash()?, "provider", provider, &self.provider_signature)
    }

    /// Checks that exactly these receipts' struct hashes, in this order, are under the root.
    ///
    /// # Errors
    /// [`PairRootError::Root`].
    pub fn verify_receipts(&self, digests: &[B256]) -> Result<(), PairRootError> {
        let (expected, actual) = (self.record()?.root, merkle::root(digests));
        if expected != actual {
            return Err(PairRootError::Root { expected, actual });
        }
        Ok(())
    }
}

fn party(side: &'static str, expected: NodeId, actual: NodeId) -> Result<(), PairRootError> {
    if expected == actual { Ok(()) } else { Err(PairRootError::Party { side, expected, actual }) }
}

fn sign(hash: B256, side: &'static str, key: &HybridKey) -> Result<Bytes, PairRootError> {
    let signature = key.mldsa65_sign(hash.as_slice());
    signature.map(Bytes::from).map_err(|source| PairRootError::Signature { side, source })
}

fn verify(hash: B256, side: &'static str, key: &HybridPublic, signature: &[u8]) -> Result<(), PairRootError> {
    key.verify_mldsa65(hash.as_slice(), signature).map_err(|source| PairRootError::Signature { side, source })
}

/// A receipt's place under a pair root: what the receipts tree's leaf commits to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PqProof {
    /// [`SignedPairRoot::hash`].
    pub pair_root: B256,
    /// Receipts under the root.
    pub count: u16,
    /// The receipt's place.
    pub index: u16,
    /// The way up.
    pub siblings: Vec<B256>,
}

impl PqProof {
    /// `pair root ‖ count ‖ index ‖ siblings`, integers big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = self.pair_root.to_vec();
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
        for sibling in &self.siblings {
            out.extend_from_slice(sibling.as_slice());
        }
        out.into()
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`PairRootError::Proof`] for a length that no proof has.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PairRootError> {
        let fault = PairRootError::Proof { actual: bytes.len() };
        let (Some(head), Some(tail)) = (bytes.get(..PROOF_HEAD_BYTES), bytes.get(PROOF_HEAD_BYTES..)) else {
            return Err(fault);
        };
        let siblings = tail.chunks_exact(32);
        if !siblings.remainder().is_empty() || siblings.len() > PROOF_LEVELS_MAX {
            return Err(fault);
        }
        let (root, numbers) = head.split_at(32);
        let [count_high, count_low, index_high, index_low] = numbers else { return Err(fault) };
        Ok(Self {
            pair_root: B256::from_slice(root),
            count: u16::from_be_bytes([*count_high, *count_low]),
            index: u16::from_be_bytes([*index_high, *index_low]),
            siblings: siblings.map(B256::from_slice).collect(),
        })
    }

    /// The proofs of all receipts under a root, from their struct hashes in its order.
    ///
    /// # Errors
    /// [`PairRootError`] where the hashes do not have this root.
    pub fn all_under(root: &SignedPairRoot, hashes: &[B256]) -> Result<Vec<Self>, PairRootError> {
        let (record, pair_root) = (root.record()?, root.hash()?);
        root.verify_receipts(hashes)?;
        let prove = |index: u16| merkle::prove(hashes, usize::from(index)).unwrap_or_default();
        let proof = |index| Self { pair_root, count: record.count, index, siblings: prove(index) };
        Ok((0..record.count).map(proof).collect())
    }

    /// Checks that a receipt is under a signed root; the root's own signatures are checked apart.
    ///
    /// # Errors
    /// [`PairRootError::NotUnder`].
    pub fn verify(&self, signed: &SignedReceipt, root: &SignedPairRoot) -> Result<(), PairRootError> {
        let record = root.record()?;
        let digest = signed.receipt.struct_hash();
        let (count, index) = (usize::from(self.count), usize::from(self.index));
        let under = root.hash()? == self.pair_root
            && record.count == self.count
            && (record.gateway(), record.provider()) == signed.pair()
            && merkle::verify(record.root, count, index, &digest, &self.siblings);
        if under { Ok(()) } else { Err(PairRootError::NotUnder) }
    }
}

/// Collects one pair's receipts until a root is due. Pure: the caller brings the time.
#[derive(Debug, Clone)]
pub struct PairRootBuilder {
    chain_id: u64,
    gateway: NodeId,
    provider: NodeId,
    next_index: u64,
    previous: B256,
    first_at_ms: u64,
    digests: Vec<B256>,
}

impl PairRootBuilder {
    /// Continues a pair's chain of roots: the next index and the hash of the last root (zero for the first).
    #[must_use]
    pub const fn new(chain_id: u64, gateway: NodeId, provider: NodeId, next_index: u64, previous: B256) -> Self {
        Self { chain_id, gateway, provider, next_index, previous, first_at_ms: 0, digests: Vec::new() }
    }

    /// Adds the struct hash of a receipt that both sides have signed.
    ///
    /// # Errors
    /// [`PairRootError::Count`] when the root is full: take it first.
    pub fn add(&mut self, digest: B256, now_ms: u64) -> Result<(), PairRootError> {
        if self.digests.len() >= PAIR_ROOT_RECEIPTS_MAX {
            return Err(PairRootError::Count { actual: self.digests.len().saturating_add(1) });
        }
        if self.digests.is_empty() {
            self.first_at_ms = now_ms;
        }
        self.digests.push(digest);
        Ok(())
    }

    /// True when a root should be signed now: it is full, or its first receipt is a second old.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        !self.digests.is_empty()
            && (self.digests.len() >= PAIR_ROOT_RECEIPTS_MAX
                || now_ms.saturating_sub(self.first_at_ms) >= PAIR_ROOT_INTERVAL_MS)
    }

    /// The receipts waiting.
    #[must_use]
    pub fn waiting(&self) -> &[B256] {
        &self.digests
    }

    /// The unsigned root over what is waiting, with the digests in its order; the builder stays as it is until [`Self::taken`].
    ///
    /// # Errors
    /// [`PairRootError::Count`] when nothing is waiting.
    pub fn make(&self, now_ms: u64) -> Result<(SignedPairRoot, Vec<B256>), PairRootError> {
        let count = match u16::try_from(self.digests.len()) {
            Ok(count) if count > 0 => count,
            _ => return Err(PairRootError::Count { actual: self.digests.len() }),
        };
        let record = PairRoot {
            chain_id: self.chain_id,
            gateway: self.gateway.0,
            provider: self.provider.0,
            index: self.next_index,
            previous: self.previous,
            count,
            root: merkle::root(&self.digests),
            made_at_ms: now_ms,
        };
        let unsigned = SignedPairRoot {
            record_rlp: record.to_rlp(),
            gateway_signature: Bytes::new(),
            provider_signature: Bytes::new(),
        };
        Ok((unsigned, self.digests.clone()))
    }

    /// The root made last is signed by both and stored: its receipts leave, each with its proof in the order of the digests.
    ///
    /// # Errors
    /// [`PairRootError`] where the root is not the one this builder would make.
    pub fn taken(&mut self, root: &SignedPairRoot) -> Result<Vec<(B256, PqProof)>, PairRootError> {
        let record = root.record()?;
        if record.previous != self.previous {
            return Err(PairRootError::Chain { expected: self.previous, actual: record.previous });
        }
        let count = usize::from(record.count);
        let covered = self.digests.get(..count).ok_or(PairRootError::Count { actual: count })?;
        let proofs = PqProof::all_under(root, covered)?;
        let proofs = covered.iter().copied().zip(proofs).collect();
        let hash = root.hash()?;
        self.digests.drain(..count);
        self.previous = hash;
        self.next_index = self.next_index.saturating_add(1);
        self.first_at_ms = record.made_at_ms;
        Ok(proofs)
    }
}
