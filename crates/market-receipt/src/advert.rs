//! What a provider sells: a short-lived, signed list of models with prices.

use crate::receipt::InstructionSet;
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};
use trellis_crypto::{AccountKey, SignatureError, domain_hash, recover};
use trellis_primitives::{Address, B256, Bytes, NodeId, UnixMs, Wei};

/// Models in one advert at most.
pub const ADVERT_MODELS_MAX: usize = 64;
/// An advert's life at most, in milliseconds.
pub const ADVERT_TTL_MS_MAX: u64 = 10 * 60 * 1_000;
/// An advert's bytes at most.
pub const ADVERT_BYTES_MAX: usize = 64 * 1024;
/// A name's length at most, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Set in [`ModelOffer::kinds`] where chats are served.
pub const KIND_BIT_CHAT: u8 = 1;
/// Set in [`ModelOffer::kinds`] where plain completions are served.
pub const KIND_BIT_COMPLETION: u8 = 2;
const DOMAIN: &str = "trellis/advert/1";

/// Why an advert is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Not the RLP of an advert.
    #[error("not an advert: {0}")]
    Rlp(alloy_rlp::Error),
    /// A bound is passed.
    #[error("an advert has at most {max} {what}, got {actual}")]
    Bound {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What was given.
        actual: usize,
    },
    /// Too old, or valid for too long.
    #[error("the advert is valid until {expires:?}, it is {now:?}")]
    Expired {
        /// The end of its life.
        expires: UnixMs,
        /// The verifier's time.
        now: UnixMs,
    },
    /// Of another node.
    #[error("the advert is of {actual}, expected {expected}")]
    Provider {
        /// Who was asked.
        expected: NodeId,
        /// Who is named.
        actual: NodeId,
    },
    /// Signed by another account than the one it names.
    #[error("the advert is signed by {actual}, it names {expected}")]
    Signer {
        /// The account in the advert.
        expected: Address,
        /// Who signed.
        actual: Address,
    },
    /// The signature is malformed.
    #[error("the advert's signature: {0}")]
    Signature(#[from] SignatureError),
}

/// One model for sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct ModelOffer {
    /// The name that clients ask for.
    pub name: String,
    /// Hash of the weights and recipe, from the manifest; for an upstream, the hash of its URL-free name.
    pub model_digest: B256,
    /// Hash of the tokenizer; zero where counts are unverified.
    pub tokenizer_digest: B256,
    /// Wei per million prompt tokens.
    pub price_in: Wei,
    /// Wei per million output tokens.
    pub price_out: Wei,
    /// Tokens of prompt and answer together at most.
    pub context_tokens: u32,
    /// Jobs at once.
    pub capacity: u32,
    /// Jobs running now.
    pub running: u32,
    /// [`KIND_BIT_CHAT`] and [`KIND_BIT_COMPLETION`].
    pub kinds: u8,
    /// The engine build; its hash is in the receipts.
    pub engine: String,
    /// The tier, as its number in the receipts.
    pub instruction_set: u16,
    /// Free text, two letters by custom; empty: not said.
    pub region: String,
}

impl ModelOffer {
    /// The tier.
    #[must_use]
    pub const fn tier(&self) -> InstructionSet {
        InstructionSet(self.instruction_set)
    }

    /// True where token counts can be checked.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        !self.tokenizer_digest.is_zero()
    }
}

/// What a provider sells, and on which terms it is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct Advert {
    /// The provider's node.
    pub provider: B256,
    /// The account that channels pay and that signs receipts.
    pub payee: Address,
    /// Where payouts go.
    pub payout: Address,
    /// The aggregator that receipts should name; zero: none.
    pub aggregator: Address,
    /// The provider's risk limit in wei: what it delivers before it is paid.
    pub risk_limit: Wei,
    /// The smallest deposit for which it serves, in wei.
    pub deposit_min: Wei,
    /// The shortest challenge period it accepts, in seconds.
    pub challenge_seconds_min: u32,
    /// When it was made, Unix milliseconds.
    pub made_at_ms: u64,
    /// Until when its prices hold, Unix milliseconds.
    pub expires_ms: u64,
    /// The models.
    pub models: Vec<ModelOffer>,
}

impl Advert {
    /// The provider's node id.
    #[must_use]
    pub fn provider(&self) -> NodeId {
        NodeId::from(self.provider)
    }

    /// The offer of a model by name.
    #[must_use]
    pub fn offer(&self, model: &str) -> Option<&ModelOffer> {
        self.models.iter().find(|offer| offer.name == model)
    }

    fn check_bounds(&self) -> Result<(), AdvertError> {
        let bound = |what, max, actual| {
            if actual > max { Err(AdvertError::Bound { what, max, actual }) } else { Ok(()) }
        };
        bound("models", ADVERT_MODELS_MAX, self.models.len())?;
        for offer in &self.models {
            bound("bytes in a model's name", NAME_BYTES_MAX, offer.name.len())?;
            bound("bytes in an engine's name", NAME_BYTES_MAX, offer.engine.len())?;
            bound("bytes in a region", NAME_BYTES_MAX, offer.region.len())?;
        }
        Ok(())
    }
}

/// An advert as it was received, with its signature by the payee account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAdvert {
    /// The RLP as it was signed.
    pub advert_rlp: Bytes,
    /// `r ‖ s ‖ v` by the payee account.
    pub signature: Bytes,
}

impl SignedAdvert {
    /// Signs with the payee account.
    #[must_use]
    pub fn sign(advert: &Advert, chain_id: u64, payee: &AccountKey) -> Self {
        let mut rlp = Vec::with_capacity(advert.length());
        advert.encode(&mut rlp);
        let signature = payee.sign_hash(domain_hash(DOMAIN, chain_id, &rlp));
        Self { advert_rlp: rlp.into(), signature: Bytes::copy_from_slice(&signature) }
    }

    /// Checks bounds, signature, the node and the time, and gives the advert.
    ///
    /// # Errors
    /// [`AdvertError`] names what does not fit.
    pub fn verify(&self, chain_id: u64, expected: NodeId, now: UnixMs) -> Result<Advert, AdvertError> {
        if self.advert_rlp.len() > ADVERT_BYTES_MAX {
            return Err(AdvertError::Bound { what: "bytes", max: ADVERT_BYTES_MAX, actual: self.advert_rlp.len() });
        }
        let signer = recover(domain_hash(DOMAIN, chain_id, &self.advert_rlp), &self.signature)?;
        let mut rest: &[u8] = &self.advert_rlp;
        let advert = Advert::decode(&mut rest).map_err(AdvertError::Rlp)?;
        if !rest.is_empty() {
            return Err(AdvertError::Rlp(alloy_rlp::Error::UnexpectedLength));
        }
        advert.check_bounds()?;
        if signer != advert.payee {
            return Err(AdvertError::Signer { expected: advert.payee, actual: signer });
        }
        if advert.provider() != expected {
            return Err(AdvertError::Provider { expected, actual: advert.provider() });
        }
        let expires = UnixMs(advert.expires_ms);
        if expires <= now || expires > now.plus_ms(ADVERT_TTL_MS_MAX) {
            return Err(AdvertError::Expired { expires, now });
        }
        Ok(advert)
    }
}
