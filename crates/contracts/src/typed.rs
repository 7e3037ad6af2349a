//! The EIP-712 structs that the contracts check, with their domains, digests and signatures' forms.
//!
//! Source: `contracts/README.md`, "Exact bytes". A signature is 65 bytes r ‖ s ‖ v with v = 27 or 28 and a low s.

use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain};

pub use crate::payment_channels::PaymentChannels::Terms;
pub use crate::settlement::IncludeBy;
pub use crate::settlement::Receipt;

/// `name` of every EIP-712 domain of ours.
pub const DOMAIN_NAME: &str = "Trellis";
/// `version` of every EIP-712 domain of ours.
pub const DOMAIN_VERSION: &str = "1";
/// Length of a signature: r, s, v.
pub const SIGNATURE_BYTES: usize = 65;
/// `Receipt.version` of the receipts that Settlement takes.
pub const RECEIPT_VERSION: u16 = 1;

#[allow(missing_docs)]
mod structs {
    alloy_sol_types::sol! {
        /// A promise to pay `cumulativeAmount` wei (gross, since the channel opened); signed by the channel's signer.
        #[derive(Debug, PartialEq, Eq)]
        struct Voucher {
            bytes32 channelId;
            uint128 cumulativeAmount;
        }

        /// Both sides' consent to close at once at `cumulativeAmount` wei; signed by the channel's signer and its payee.
        #[derive(Debug, PartialEq, Eq)]
        struct CloseAgreement {
            bytes32 channelId;
            uint128 cumulativeAmount;
        }
    }
}
pub use structs::{CloseAgreement, Voucher};

/// The domain of `Voucher` and `CloseAgreement` (`contract` is PaymentChannels), or of `Receipt` and `IncludeBy`
/// (`contract` is Settlement).
#[must_use]
pub fn domain(chain_id: u64, contract: Address) -> Eip712Domain {
    eip712_domain! {
        name: DOMAIN_NAME,
        version: DOMAIN_VERSION,
        chain_id: chain_id,
        verifying_contract: contract,
    }
}

/// What is signed for `value`: `keccak256(0x1901 ‖ domain separator ‖ hashStruct(value))`.
#[must_use]
pub fn digest<T: SolStruct>(value: &T, chain_id: u64, contract: Address) -> B256 {
    value.eip712_signing_hash(&domain(chain_id, contract))
}

/// `hashStruct(receipt)`, without a domain: what a leaf of the receipts tree and an `IncludeBy` name a receipt by.
#[must_use]
pub fn receipt_hash(receipt: &Receipt) -> B256 {
    receipt.eip712_hash_struct()
}

/// The id of the channel that `payer` opens with `terms` in the PaymentChannels contract `channels` of a chain.
#[must_use]
pub fn channel_id(payer: Address, terms: &Terms, chain_id: u64, channels: Address) -> B256 {
    let chain = alloy_primitives::U256::from(chain_id);
    keccak256((payer, terms.clone(), chain, channels).abi_encode())
}

/// A 65-byte signature in the EIP-2098 form (r, vs) that `settle` takes; `None` if v is neither 27 nor 28 or s is high.
#[must_use]
pub fn compact_signature(signature: &[u8; SIGNATURE_BYTES]) -> Option<(B256, B256)> {
    let r = B256::from_slice(signature.get(..32)?);
    let mut vs = B256::from_slice(signature.get(32..64)?);
    // A low s is below 2^255, so its top bit is free for v.
    if vs.0[0] & 0x80 != 0 {
        return None;
    }
    match signature[64] {
        27 => {}
        28 => vs.0[0] |= 0x80,
        _ => return None,
    }
    Some((r, vs))
}
