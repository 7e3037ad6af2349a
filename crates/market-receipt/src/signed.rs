//! A receipt with its signatures, the texts behind its hashes, and the check of all of it.

use crate::eip712::Domain;
use crate::receipt::{Receipt, engine_build_digest, error_digest};
use crate::{Parameters, ReceiptFormatError};
use serde::{Deserialize, Serialize};
use trellis_crypto::{ACCOUNT_SIGNATURE_BYTES, AccountKey, SignatureError, recover};
use trellis_primitives::{Address, B256, Bytes, NodeId, keccak256};

/// The longest text beside a receipt, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1_024;

/// Why a receipt is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes are not a receipt.
    #[error(transparent)]
    Format(#[from] ReceiptFormatError),
    /// Another chain than the one the verifier looks at.
    #[error("the receipt is for chain {actual}, expected chain {expected}")]
    Chain {
        /// The verifier's chain id.
        expected: u64,
        /// The receipt's.
        actual: u64,
    },
    /// Another contract than the one that holds the channel.
    #[error("the receipt names channel contract {actual}, expected {expected}")]
    Channels {
        /// The verifier's contract.
        expected: Address,
        /// The receipt's.
        actual: Address,
    },
    /// Signed by somebody else.
    #[error("the {side} signature is by {actual}, expected {expected}")]
    Signer {
        /// `gateway` or `provider`.
        side: &'static str,
        /// The channel's signer or payee.
        expected: Address,
        /// Who signed.
        actual: Address,
    },
    /// The signature is malformed.
    #[error("the {side} signature: {source}")]
    Signature {
        /// `gateway` or `provider`.
        side: &'static str,
        /// What is wrong with it.
        source: SignatureError,
    },
    /// A signature is missing.
    #[error("the {side} has not signed")]
    Unsigned {
        /// `gateway` or `provider`.
        side: &'static str,
    },
    /// A text does not have the hash that the receipt holds.
    #[error("the {field} beside the receipt does not hash to {expected}")]
    Detail {
        /// Which text.
        field: &'static str,
        /// The hash in the receipt.
        expected: B256,
    },
}

/// The texts behind a receipt's hashes, for people; checked against the hashes, never trusted alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct ReceiptDetails {
    /// The model's name as the gateway asked for it.
    pub model: String,
    /// The engine build.
    pub engine: String,
    /// The sampling parameters.
    pub parameters: Parameters,
    /// The error text; empty for none.
    pub error: String,
}

/// Who must have signed: both are fixed in the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiptParties {
    /// The channel's voucher signer, for the gateway.
    pub gateway_signer: Address,
    /// The channel's payee account, for the provider.
    pub provider_payee: Address,
}

/// A receipt with what both sides added to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// The texts behind its hashes.
    pub details: ReceiptDetails,
    /// `r ‖ s ‖ v` by the channel's voucher signer; empty until the gateway has countersigned.
    pub gateway_signature: Bytes,
    /// `r ‖ s ‖ v` by the channel's payee account; empty until the provider has signed.
    pub provider_signature: Bytes,
    /// [`crate::PqProof`] bytes; empty until the pair root is signed.
    pub pq_proof: Bytes,
}

impl SignedReceipt {
    /// A receipt that nobody has signed.
    #[must_use]
    pub fn unsigned(receipt: Receipt, details: ReceiptDetails) -> Self {
        Self {
            receipt,
            details,
            gateway_signature: Bytes::new(),
            provider_signature: Bytes::new(),
            pq_proof: Bytes::new(),
        }
    }

    /// Signs for the provider with the channel's payee account.
    pub fn sign_as_provider(&mut self, settlement: &Domain, payee: &AccountKey) {
        let digest = self.receipt.digest(settlement);
        self.provider_signature = Bytes::copy_from_slice(&payee.sign_hash(digest));
    }

    /// Signs for the gateway with the channel's voucher signer.
    pub fn sign_as_gateway(&mut self, settlement: &Domain, signer: &AccountKey) {
        let digest = self.receipt.digest(settlement);
        self.gateway_signature = Bytes::copy_from_slice(&signer.sign_hash(digest));
    }

    /// True when both sides have signed (not checked).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.gateway_signature.is_empty() && !self.provider_signature.is_empty()
    }

    /// `gateway signature ‖ provider signature`, 130 bytes; `None` while one is missing.
    #[must_use]
    pub fn signatures(&self) -> Option<[u8; 130]> {
        let mut both = [0u8; 130];
        let (gateway, provider) = both.split_at_mut(ACCOUNT_SIGNATURE_BYTES);
        if self.gateway_signature.len() != gateway.len() || self.provider_signature.len() != provider.len() {
            return None;
        }
        gateway.copy_from_slice(&self.gateway_signature);
        provider.copy_from_slice(&self.provider_signature);
        Some(both)
    }

    /// Checks the texts and the provider's signature: what a gateway does before it countersigns.
    ///
    /// # Errors
    /// [`VerifyError`] names what does not fit.
    pub fn verify_provider(&self, settlement: &Domain, payee: Address) -> Result<(), VerifyError> {
        self.verify_details()?;
        verify_side("provider", self.receipt.digest(settlement), &self.provider_signature, payee)
    }

    /// Checks the gateway's signature: what a provider does with a countersignature.
    ///
    /// # Errors
    /// [`VerifyError`] names what does not fit.
    pub fn verify_gateway(&self, settlement: &Domain, signer: Address) -> Result<(), VerifyError> {
        verify_side("gateway", self.receipt.digest(settlement), &self.gateway_signature, signer)
    }

    /// Checks everything that needs no chain: chain, contract, texts and both signatures.
    ///
    /// # Errors
    /// [`VerifyError`] names the first thing that does not fit.
    pub fn verify(&self, settlement: &Domain, channels: Address, parties: &ReceiptParties) -> Result<(), VerifyError> {
        if self.receipt.chain_id != settlement.chain_id {
            return Err(VerifyError::Chain { expected: settlement.chain_id, actual: self.receipt.chain_id });
        }
        if self.receipt.channels != channels {
            return Err(VerifyError::Channels { expected: channels, actual: self.receipt.channels });
        }
        self.verify_provider(settlement, parties.provider_payee)?;
        self.verify_gateway(settlement, parties.gateway_signer)
    }

    /// Checks that every text beside the receipt hashes to the receipt's field.
    ///
    /// # Errors
    /// [`VerifyError::Detail`] names the text.
    pub fn verify_details(&self) -> Result<(), VerifyError> {
        let receipt = &self.receipt;
        let expectations = [
            ("engine build", engine_build_digest(&self.details.engine), receipt.engine_build),
            ("parameters", self.details.parameters.hash(), receipt.parameters_hash),
            ("error text", error_digest(&self.details.error), receipt.error_hash),
        ];
        for (field, actual, expected) in expectations {
            if actual != expected {
                return Err(VerifyError::Detail { field, expected });
            }
        }
        Ok(())
    }

    /// The channel's two nodes, as a key for pair roots.
    #[must_use]
    pub const fn pair(&self) -> (NodeId, NodeId) {
        (self.receipt.gateway, self.receipt.provider)
    }

    /// A short name for lists: the hash of the struct hash and both signatures.
    #[must_use]
    pub fn id(&self) -> B256 {
        let mut bytes = self.receipt.struct_hash().to_vec();
        bytes.extend_from_slice(&self.gateway_signature);
        bytes.extend_from_slice(&self.provider_signature);
        keccak256(bytes)
    }
}

fn verify_side(side: &'static str, digest: B256, signature: &[u8], expected: Address) -> Result<(), VerifyError> {
    if signature.is_empty() {
        return Err(VerifyError::Unsigned { side });
    }
    let actual = recover(digest, signature).map_err(|source| VerifyError::Signature { side, source })?;
    if actual != expected {
        return Err(VerifyError::Signer { side, expected, actual });
    }
    Ok(())
}
