//! Where the market meets a chain: the traits that provider and gateway own, over the contracts.

use alloy_primitives::{Address, B256, Bytes};
use async_trait::async_trait;
use eyre::Result;
use std::sync::Arc;
use std::time::Duration;
use trellis_crypto::AccountKey;
use trellis_market_chain::{
    ChainClient, ChainError, ChannelStatus, ChannelTerms as ContractTerms, ChannelView as ContractView,
    ChannelsContract, Committee, RpcChainClient, RpcConfig, Wallet, WtrlContract,
};
use trellis_market_channel::{ChannelPhase, ChannelTerms, ChannelView};
use trellis_market_gateway::{ChannelNeed, ChannelOpenError, ChannelOpener};
use trellis_market_provider::{ChannelSource, ChannelSourceError, Payouts, RedeemIntent};
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::wire::HeldVoucher;
use trellis_market_settlement::{AggregatorLink, LatestVoucher, Outcome, Refusal};
use trellis_primitives::{ChannelId, SharedClock, Wei};

use crate::chain::Chain;

/// Seconds within which a transaction of ours must be final.
const TRANSACTION_SECONDS_MAX: u64 = 60;
/// Seconds that a new channel lives beyond what its first job needs: a month.
const CHANNEL_LIFE_SECONDS: u64 = 30 * 86_400;
/// Milliseconds between two looks for a receipt; our blocks come faster than mainnet's.
const POLL_MS: u64 = 50;

/// Connects to the chain that the settings name, with finality proofs checked against its committee.
///
/// # Errors
/// An endpoint that does not answer or is on another chain.
pub async fn connect(chain: &Chain, urls: &[String], clock: SharedClock) -> Result<Arc<RpcChainClient>> {
    Ok(RpcChainClient::connect(rpc_config(chain, urls), clock).await?)
}

/// How a chain is reached: our own, whose finality is proved by its committee.
pub fn rpc_config(chain: &Chain, urls: &[String]) -> RpcConfig {
    let mut config = RpcConfig::new(chain.spec.genesis.chain_id, urls.to_vec());
    config.poll_interval = Duration::from_millis(POLL_MS);
    config.committee = Some(Committee::new(chain.committee.clone(), chain.genesis_hash, chain.epoch_blocks()));
    config
}

/// The channels of one node on one chain.
#[derive(Clone)]
pub struct Channels {
    wallet: Wallet,
    contract: ChannelsContract,
    token: WtrlContract,
    challenge_seconds: u32,
    clock: SharedClock,
}

impl Channels {
    /// Over a connected chain.
    pub fn new(chain: &Chain, client: Arc<dyn ChainClient>, account: &AccountKey, clock: SharedClock) -> Result<Self> {
        Ok(Self {
            wallet: wallet(client, account)?,
            contract: ChannelsContract::new(chain.contracts.payment_channels),
            token: WtrlContract::new(chain.contracts.wtrl),
            challenge_seconds: chain.spec.protocol.channel_challenge_s,
            clock,
        })
    }

    /// The account's wallet.
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// The contract.
    pub const fn contract(&self) -> &ChannelsContract {
        &self.contract
    }

    async fn look(&self, id: ChannelId) -> Result<Option<ChannelView>, ChainError> {
        let view = self.contract.channel(self.wallet.client(), id).await?;
        if view.status == ChannelStatus::None {
            return Ok(None);
        }
        // The salt is known only to who opened the channel, and nobody needs it again.
        Ok(Some(seen(id, &view, B256::ZERO, &self.clock)))
    }
}

/// A wallet whose transactions have a deadline.
///
/// # Errors
/// A key that is none, which no opened keystore holds.
pub fn wallet(client: Arc<dyn ChainClient>, account: &AccountKey) -> Result<Wallet> {
    let key = AccountKey::from_bytes(&account.to_bytes())?;
    Ok(Wallet::new(client, Arc::new(key), Duration::from_secs(TRANSACTION_SECONDS_MAX)))
}

fn seen(id: ChannelId, view: &ContractView, salt: B256, clock: &SharedClock) -> ChannelView {
    let phase = match view.status {
        ChannelStatus::Open => ChannelPhase::Open,
        ChannelStatus::Closing => ChannelPhase::Closing { closing_at_seconds: view.closing_at_s },
        ChannelStatus::None | ChannelStatus::Closed => ChannelPhase::Closed,
    };
    let terms = ChannelTerms {
        payer: view.payer,
        payee: view.payee,
        payout: view.payout,
        signer: view.signer,
        token: view.token,
        challenge_seconds: view.challenge_period_s,
        expiry_seconds: view.expires_s,
        salt,
    };
    ChannelView { id, terms, phase, deposit: view.deposit, paid: view.paid, seen_at: clock.now() }
}

#[async_trait]
impl ChannelSource for Channels {
    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelView>, ChannelSourceError> {
        self.look(id).await.map_err(|error| ChannelSourceError::Unreachable { reason: error.to_string() })
    }
}

fn open_error(error: ChainError) -> ChannelOpenError {
    match error {
        ChainError::Unreachable { .. } | ChainError::Timeout { .. } | ChainError::NoUrl => {
            ChannelOpenError::Unreachable { reason: error.to_string() }
        }
        other => ChannelOpenError::Transaction { reason: other.to_string() },
    }
}

impl Channels {
    /// Wraps as many coins as a deposit lacks.
    async fn fund(&self, deposit: Wei) -> Result<(), ChannelOpenError> {
        let client = self.wallet.client();
        let tokens = self.token.balance_of(client, self.wallet.address()).await.map_err(open_error)?;
        let coins = client.balance(self.wallet.address()).await.map_err(open_error)?;
        if tokens.saturating_add(coins) < deposit {
            return Err(ChannelOpenError::Funds { available: tokens.saturating_add(coins), needed: deposit });
        }
        self.token.ensure_balance(&self.wallet, deposit).await.map_err(open_error)
    }
}

#[async_trait]
impl ChannelOpener for Channels {
    async fn open(&self, need: &ChannelNeed) -> Result<ChannelView, ChannelOpenError> {
        let challenge = self.challenge_seconds.max(need.challenge_seconds_min);
        let margin = u64::from(challenge).saturating_mul(4);
        let expiry = need.alive_until_seconds.saturating_add(margin).saturating_add(CHANNEL_LIFE_SECONDS);
        let salt = B256::from(rand::random::<[u8; 32]>());
        let terms = ContractTerms {
            payee: need.payee,
            payout: need.payout,
            signer: need.signer,
            token: need.token,
            challengePeriodSeconds: challenge,
            expiry,
            salt,
        };
        self.fund(need.deposit).await?;
        let (id, _) = self.contract.open(&self.wallet, &terms, need.deposit).await.map_err(open_error)?;
        let view = self.contract.channel(self.wallet.client(), id).await.map_err(open_error)?;
        Ok(seen(id, &view, salt, &self.clock))
    }

    async fn top_up(&self, channel: ChannelId, amount: Wei) -> Result<ChannelView, ChannelOpenError> {
        self.fund(amount).await?;
        self.contract.top_up(&self.wallet, self.token.address, channel, amount).await.map_err(open_error)?;
        self.view(channel)
            .await?
            .ok_or_else(|| ChannelOpenError::Transaction { reason: "the channel is not on the chain".into() })
    }

    async fn view(&self, channel: ChannelId) -> Result<Option<ChannelView>, ChannelOpenError> {
        self.look(channel).await.map_err(open_error)
    }
}

/// Where a provider's vouchers and receipts go.
pub struct ProviderPayouts {
    channels: Channels,
    aggregator: Option<AggregatorLink>,
}

impl ProviderPayouts {
    /// To the contract and, where one is named, to an aggregator.
    pub const fn new(channels: Channels, aggregator: Option<AggregatorLink>) -> Self {
        Self { channels, aggregator }
    }
}

#[async_trait]
impl Payouts for ProviderPayouts {
    async fn redeem(&self, intent: RedeemIntent) {
        let channels = self.channels.clone();
        tokio::spawn(async move {
            let voucher = intent.voucher;
            let signature = Bytes::copy_from_slice(&voucher.signature);
            let done = channels.contract.redeem(&channels.wallet, voucher.channel, voucher.cumulative, signature).await;
            match done {
                Ok(receipt) => tracing::info!(channel = %voucher.channel, tx = %receipt.tx, "voucher redeemed"),
                Err(error) => {
                    tracing::warn!(channel = %voucher.channel, %error, "voucher not redeemed, trying again later")
                }
            }
        });
    }

    async fn receipts(&self, receipts: &[SignedReceipt], vouchers: &[HeldVoucher]) -> Vec<bool> {
        let Some(link) = &self.aggregator else { return vec![true; receipts.len()] };
        let latest: Vec<LatestVoucher> = vouchers
            .iter()
            .map(|held| LatestVoucher {
                channel: held.channel,
                cumulative: held.cumulative,
                signature: Bytes::copy_from_slice(&held.signature),
            })
            .collect();
        match link.hand_in(receipts, &latest).await {
            Ok(submitted) => {
                let mut taken: Vec<bool> = submitted.receipts.iter().map(is_settled).collect();
                taken.resize(receipts.len(), false);
                taken
            }
            Err(error) => {
                tracing::debug!(%error, "the aggregator did not answer");
                vec![false; receipts.len()]
            }
        }
    }
}

/// True where handing the receipt in again would change nothing.
fn is_settled(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Promised(_) | Outcome::Refused(Refusal::Old) => true,
        Outcome::Refused(refusal) => {
            tracing::warn!(?refusal, "the aggregator refused a receipt");
            // What it cannot take now it may take later; the rest will never become good.
            !matches!(refusal, Refusal::Busy | Refusal::UnknownChannel)
        }
    }
}

/// The address of an account in a setting.
///
/// # Errors
/// A usage failure.
pub fn address(setting: &str, text: &str) -> Result<Address> {
    text.parse().map_err(|_| {
        crate::failure::Failure::usage(format!("{setting} is an address like 0xf39F…2266, got {text:?}")).into()
    })
}
