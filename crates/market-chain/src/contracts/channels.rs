//! PaymentChannels: open, pay through either door, close.

use alloy_sol_types::{SolCall, SolEvent};
use trellis_contracts::payment_channels::PaymentChannels as sol;
use trellis_primitives::{Address, B256, Bytes, ChannelId, Wei};

use super::tokens::WtrlContract;
use super::view;
use crate::client::{ChainClient, Log, LogFilter, LogPlace, TxIntent, TxReceipt};
use crate::error::ChainError;
use crate::wallet::Wallet;

pub use trellis_contracts::settlement::Settlement::SignedVoucher;
/// What is fixed when a channel opens.
pub use trellis_contracts::typed::Terms as ChannelTerms;

/// What a channel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelStatus {
    /// There is no such channel.
    None,
    /// Usable.
    Open,
    /// The payer asked to close; a higher voucher still wins.
    Closing,
    /// Paid out.
    Closed,
}

/// A channel as the contract shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelView {
    /// What it does.
    pub status: ChannelStatus,
    /// Who deposited.
    pub payer: Address,
    /// Who may close at once, and signs receipts for the provider.
    pub payee: Address,
    /// Where payments go.
    pub payout: Address,
    /// Who signs vouchers.
    pub signer: Address,
    /// The token.
    pub token: Address,
    /// How long the payer's own close takes, in seconds.
    pub challenge_period_s: u32,
    /// From when the payer may take the rest, in Unix seconds.
    pub expires_s: u64,
    /// From when a begun close may be finished, in Unix seconds; 0 where none was begun.
    pub closing_at_s: u64,
    /// What was deposited.
    pub deposit: Wei,
    /// What was paid out, fee included.
    pub paid: Wei,
}

/// Something that happened to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelEvent {
    /// It came into being.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// Who deposited.
        payer: Address,
        /// Who is paid.
        payee: Address,
        /// How much.
        deposit: Wei,
    },
    /// Its deposit grew.
    ToppedUp {
        /// The channel.
        channel: ChannelId,
        /// The deposit now.
        deposit: Wei,
    },
    /// A voucher was paid.
    Paid {
        /// The channel.
        channel: ChannelId,
        /// Everything paid so far.
        paid: Wei,
        /// What this payment moved, fee included.
        gross: Wei,
        /// The fee in it.
        fee: Wei,
    },
    /// A voucher in a batch was not paid.
    Skipped {
        /// The channel.
        channel: ChannelId,
        /// The voucher's amount.
        cumulative: Wei,
        /// The contract's reason: 0 unknown channel, 1 closed, 2 bad signature, 3 nothing due, 4 payout failed.
        reason: u8,
    },
    /// The payer began to close.
    Closing {
        /// The channel.
        channel: ChannelId,
        /// From when it may be finished, in Unix seconds.
        closing_at_s: u64,
    },
    /// It is closed.
    Closed {
        /// The channel.
        channel: ChannelId,
        /// Everything it paid.
        paid: Wei,
        /// What went back to the payer.
        returned: Wei,
    },
}

impl ChannelEvent {
    /// The channel that it is about.
    #[must_use]
    pub fn channel(&self) -> ChannelId {
        match self {
            Self::Opened { channel, .. }
            | Self::ToppedUp { channel, .. }
            | Self::Paid { channel, .. }
            | Self::Skipped { channel, .. }
            | Self::Closing { channel, .. }
            | Self::Closed { channel, .. } => *channel,
        }
    }

    /// Reads a log; `None` for logs of another kind.
    #[must_use]
    pub fn from_log(log: &Log) -> Option<Self> {
        let (topics, data) = (log.data.topics(), &log.data.data);
        let of = |id: B256| ChannelId(id);
        Some(match *topics.first()? {
            sol::ChannelOpened::SIGNATURE_HASH => {
                let e = sol::ChannelOpened::decode_raw_log(topics, data).ok()?;
                Self::Opened { channel: of(e.channelId), payer: e.payer, payee: e.payee, deposit: Wei(e.deposit) }
            }
            sol::ChannelToppedUp::SIGNATURE_HASH => {
                let e = sol::ChannelToppedUp::decode_raw_log(topics, data).ok()?;
                Self::ToppedUp { channel: of(e.channelId), deposit: Wei(e.deposit) }
            }
            sol::VoucherPaid::SIGNATURE_HASH => {
                let e = sol::VoucherPaid::decode_raw_log(topics, data).ok()?;
                Self::Paid { channel: of(e.channelId), paid: Wei(e.paid), gross: Wei(e.gross), fee: Wei(e.fee) }
            }
            sol::VoucherSkipped::SIGNATURE_HASH => {
                let e = sol::VoucherSkipped::decode_raw_log(topics, data).ok()?;
                Self::Skipped { channel: of(e.channelId), cumulative: Wei(e.cumulativeAmount), reason: e.reason }
            }
            sol::ChannelClosing::SIGNATURE_HASH => {
                let e = sol::ChannelClosing::decode_raw_log(topics, data).ok()?;
                Self::Closing { channel: of(e.channelId), closing_at_s: e.closingAt }
            }
            sol::ChannelClosed::SIGNATURE_HASH => {
                let e = sol::ChannelClosed::decode_raw_log(topics, data).ok()?;
                Self::Closed { channel: of(e.channelId), paid: Wei(e.paid), returned: Wei(e.returned) }
            }
            _ => return None,
        })
    }
}

/// The contract at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelsContract {
    /// Where it is.
    pub address: Address,
}

impl ChannelsContract {
    /// The contract at an address.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    fn intent<C: SolCall>(&self, call: &C) -> TxIntent {
        TxIntent::call(self.address, call.abi_encode())
    }

    /// The id of the channel that a payer opens with these terms.
    #[must_use]
    pub fn id_of(&self, chain_id: u64, payer: Address, terms: &ChannelTerms) -> ChannelId {
        ChannelId(trellis_contracts::typed::channel_id(payer, terms, chain_id, self.address))
    }

    /// Opens a channel from the wallet's account, approving the token first where the allowance is too small.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn open(
        &self,
        wallet: &Wallet,
        terms: &ChannelTerms,
        deposit: Wei,
    ) -> Result<(ChannelId, TxReceipt), ChainError> {
        let channel = self.id_of(wallet.client().chain_id(), wallet.address(), terms);
        WtrlContract::new(terms.token).ensure_allowance(wallet, self.address, deposit).await?;
        let receipt = wallet.execute(self.intent(&sol::openCall { terms: terms.clone(), deposit: deposit.0 })).await?;
        Ok((channel, receipt))
    }

    /// Adds to a channel's deposit.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn top_up(
        &self,
        wallet: &Wallet,
        token: Address,
        channel: ChannelId,
        amount: Wei,
    ) -> Result<TxReceipt, ChainError> {
        WtrlContract::new(token).ensure_allowance(wallet, self.address, amount).await?;
        wallet.execute(self.intent(&sol::topUpCall { channelId: channel.0, amount: amount.0 })).await
    }

    /// Door one: pays what a voucher adds.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn redeem(
        &self,
        wallet: &Wallet,
        channel: ChannelId,
        cumulative: Wei,
        signature: Bytes,
    ) -> Result<TxReceipt, ChainError> {
        let call = sol::redeemCall { channelId: channel.0, cumulativeAmount: cumulative.0, signature };
        wallet.execute(self.intent(&call)).await
    }

    /// Closes at once at an amount that both sides signed.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn close_cooperative(
        &self,
        wallet: &Wallet,
        channel: ChannelId,
        cumulative: Wei,
        signer_signature: Bytes,
        payee_signature: Bytes,
    ) -> Result<TxReceipt, ChainError> {
        let call = sol::closeCooperativeCall {
            channelId: channel.0,
            cumulativeAmount: cumulative.0,
            signerSignature: signer_signature,
            payeeSignature: payee_signature,
        };
        wallet.execute(self.intent(&call)).await
    }

    /// The payee closes at once with its last voucher; with zero and no signature at what was paid.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn close_by_payee(
        &self,
        wallet: &Wallet,
        channel: ChannelId,
        cumulative: Wei,
        signature: Bytes,
    ) -> Result<TxReceipt, ChainError> {
        let call = sol::closeByPayeeCall { channelId: channel.0, cumulativeAmount: cumulative.0, signature };
        wallet.execute(self.intent(&call)).await
    }

    /// The payer begins to close.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn start_close(&self, wallet: &Wallet, channel: ChannelId) -> Result<TxReceipt, ChainError> {
        wallet.execute(self.intent(&sol::startCloseCall { channelId: channel.0 })).await
    }

    /// Ends a begun close after the challenge period.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn finish_close(&self, wallet: &Wallet, channel: ChannelId) -> Result<TxReceipt, ChainError> {
        wallet.execute(self.intent(&sol::finishCloseCall { channelId: channel.0 })).await
    }

    /// The payer takes the rest after the expiry.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn reclaim(&self, wallet: &Wallet, channel: ChannelId) -> Result<TxReceipt, ChainError> {
        wallet.execute(self.intent(&sol::reclaimCall { channelId: channel.0 })).await
    }

    /// Everything about a channel.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn channel(&self, client: &dyn ChainClient, channel: ChannelId) -> Result<ChannelView, ChainError> {
        let c = view(client, self.address, "channel", &sol::channelCall { channelId: channel.0 }).await?;
        let status = match c.state {
            0 => ChannelStatus::None,
            1 => ChannelStatus::Open,
            2 => ChannelStatus::Closing,
            _ => ChannelStatus::Closed,
        };
        Ok(ChannelView {
            status,
            payer: c.payer,
            payee: c.payee,
            payout: c.payout,
            signer: c.signer,
            token: c.token,
            challenge_period_s: c.challengePeriodSeconds,
            expires_s: c.expiry,
            closing_at_s: c.closingAt,
            deposit: Wei(c.deposit),
            paid: Wei(c.paid),
        })
    }

    /// Events from blocks, of all channels or of some, in order.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn events(
        &self,
        client: &dyn ChainClient,
        channels: &[ChannelId],
        from_block: u64,
        to_block: u64,
    ) -> Result<Vec<(LogPlace, ChannelEvent)>, ChainError> {
        let topics =
            if channels.is_empty() { Vec::new() } else { vec![Vec::new(), channels.iter().map(|c| c.0).collect()] };
        let filter = LogFilter { addresses: vec![self.address], topics, from_block, to_block };
        let logs = client.logs(filter).await?;
        Ok(logs.iter().filter_map(|log| Some((log.place, ChannelEvent::from_log(log)?))).collect())
    }

    /// The events of this contract in a receipt.
    #[must_use]
    pub fn events_in(&self, receipt: &TxReceipt) -> Vec<ChannelEvent> {
        receipt.logs.iter().filter(|log| log.address == self.address).filter_map(ChannelEvent::from_log).collect()
    }
}
