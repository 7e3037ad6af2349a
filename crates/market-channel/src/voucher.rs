//! Vouchers and closing agreements: EIP-712 under the domain of `PaymentChannels`, checked by raw `ecrecover` with the lower s.

use serde::{Deserialize, Serialize};
use trellis_crypto::{AccountKey, SignatureError, recover};
use trellis_market_receipt::eip712::{Domain, Words};
use trellis_market_receipt::wire::HeldVoucher;
use trellis_primitives::{Address, B256, Bytes, ChannelId, Wei};

const VOUCHER_TYPE: &str = "Voucher(bytes32 channelId,uint128 cumulativeAmount)";
const CLOSE_TYPE: &str = "CloseAgreement(bytes32 channelId,uint128 cumulativeAmount)";

/// Why a voucher is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoucherFault {
    /// Of another channel.
    #[error("the voucher is for channel {actual}, expected {expected}")]
    Channel {
        /// The channel at hand.
        expected: ChannelId,
        /// The voucher's.
        actual: ChannelId,
    },
    /// Signed by somebody else, or for another chain or contract.
    #[error("the voucher is signed by {actual}, expected {expected}")]
    Signer {
        /// The channel's signer.
        expected: Address,
        /// Who signed.
        actual: Address,
    },
    /// The signature is malformed.
    #[error("the voucher's signature: {0}")]
    Signature(#[from] SignatureError),
    /// Worth more than the channel holds.
    #[error("the voucher is for {actual}, the deposit is {deposit}")]
    AboveDeposit {
        /// The deposit.
        deposit: Wei,
        /// The voucher's amount.
        actual: Wei,
    },
    /// Its list of increments does not reach back to what the holder has.
    #[error("the increments begin at {base}, the highest voucher held is {held}")]
    Gap {
        /// Where the list begins.
        base: Wei,
        /// What the holder has.
        held: Wei,
    },
    /// Its list adds up to more than its amount, or holds a zero.
    #[error("the increments do not fit the amount {actual}")]
    Increments {
        /// The voucher's amount.
        actual: Wei,
    },
}

fn digest(type_string: &str, channels: &Domain, channel: ChannelId, cumulative: Wei) -> B256 {
    let mut words = Words::with_type(type_string);
    words.word(channel.0);
    words.uint(cumulative.0);
    channels.digest(words.hash())
}

/// What the channel's signer signs to pay.
#[must_use]
pub fn voucher_digest(channels: &Domain, channel: ChannelId, cumulative: Wei) -> B256 {
    digest(VOUCHER_TYPE, channels, channel, cumulative)
}

/// What the channel's signer and its payee sign to close at once.
#[must_use]
pub fn close_digest(channels: &Domain, channel: ChannelId, cumulative: Wei) -> B256 {
    digest(CLOSE_TYPE, channels, channel, cumulative)
}

/// Signs a voucher with the channel's signer.
#[must_use]
pub fn sign_voucher(channels: &Domain, channel: ChannelId, cumulative: Wei, signer: &AccountKey) -> HeldVoucher {
    let signature = signer.sign_hash(voucher_digest(channels, channel, cumulative));
    HeldVoucher { channel, cumulative, signature }
}

/// Checks who signed a voucher.
///
/// # Errors
/// [`VoucherFault::Signature`] or [`VoucherFault::Signer`].
pub fn verify_voucher(channels: &Domain, held: &HeldVoucher, signer: Address) -> Result<(), VoucherFault> {
    let actual = recover(voucher_digest(channels, held.channel, held.cumulative), &held.signature)?;
    if actual != signer {
        return Err(VoucherFault::Signer { expected: signer, actual });
    }
    Ok(())
}

/// Both sides' consent to close at once at an amount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CloseAgreement {
    /// The channel.
    pub channel: ChannelId,
    /// What the payee gets in all, gross.
    pub cumulative: Wei,
    /// By the channel's signer.
    pub signer_signature: Bytes,
    /// By the channel's payee.
    pub payee_signature: Bytes,
}

impl CloseAgreement {
    /// Checks both signatures.
    ///
    /// # Errors
    /// [`VoucherFault::Signature`] or [`VoucherFault::Signer`].
    pub fn verify(&self, channels: &Domain, signer: Address, payee: Address) -> Result<(), VoucherFault> {
        let digest = close_digest(channels, self.channel, self.cumulative);
        for (expected, signature) in [(signer, &self.signer_signature), (payee, &self.payee_signature)] {
            let actual = recover(digest, signature)?;
            if actual != expected {
                return Err(VoucherFault::Signer { expected, actual });
            }
        }
        Ok(())
    }
}
