//! The watch-tower: follows one's channels on the chain, writes down what happens, and answers a payer who closes with too
//! low a figure. Also door one for whoever wants money without an aggregator.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use trellis_market_chain::{ChannelEvent, ChannelStatus, ChannelsContract, LogFilter, LogPlace, Wallet};
use trellis_market_journal::{ChainSeen, ChannelPhase, ChannelUpdated, Journal, Payout, Record, Side, Voucher};
use trellis_primitives::{Address, B256, ChannelId, Wei};

use crate::config::Contracts;
use crate::error::SettleError;
use crate::service::Running;

/// Blocks without an event of ours after which the place is written down anyway.
const QUIET_BLOCKS_MAX: u64 = 1_000;

/// What one look at the chain found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchReport {
    /// Events of our channels.
    pub events: usize,
    /// Channels that a payer began to close while we held a better voucher, which was redeemed.
    pub defended: Vec<ChannelId>,
}

/// Follows the channels of one journal.
pub struct WatchTower {
    wallet: Wallet,
    channels: ChannelsContract,
    settlement: Address,
    journal: Journal,
    cursor: tokio::sync::Mutex<u64>,
}

impl WatchTower {
    /// Begins where the journal says that it stopped, or at the first block.
    #[must_use]
    pub fn new(wallet: Wallet, contracts: &Contracts, journal: Journal) -> Self {
        let seen = journal.index().chain_seen(contracts.channels);
        let cursor = tokio::sync::Mutex::new(seen.map_or(0, |block| block + 1));
        let channels = ChannelsContract::new(contracts.channels);
        Self { wallet, channels, settlement: contracts.settlement, journal, cursor }
    }

    /// One look at the blocks that are final. A payer's attempt to close is answered as soon as it is in a final block.
    ///
    /// # Errors
    /// [`SettleError`]; the same blocks are looked at again next time.
    pub async fn tick(&self) -> Result<WatchReport, SettleError> {
        let mut cursor = self.cursor.lock().await;
        let head = self.wallet.client().head().await?;
        let mut report = WatchReport::default();
        if *cursor > head.finalized_number {
            return Ok(report);
        }
        let filter = LogFilter {
            addresses: vec![self.channels.address, self.settlement],
            topics: Vec::new(),
            from_block: *cursor,
            to_block: head.finalized_number,
        };
        let logs = self.wallet.client().logs(filter).await?;
        // A transaction in which Settlement speaks came through door two.
        let through_settlement: HashSet<B256> =
            logs.iter().filter(|log| log.address == self.settlement).map(|log| log.place.tx).collect();
        let mut records = Vec::new();
        for log in logs.iter().filter(|log| log.address == self.channels.address) {
            let Some(event) = ChannelEvent::from_log(log) else { continue };
            let known = self.journal.index().channel(event.channel()).is_some_and(|c| c.opened.is_some());
            if known {
                report.events += 1;
                let settled = through_settlement.contains(&log.place.tx);
                self.take(event, log.place, settled, &mut records, &mut report).await?;
            }
        }
        let block = head.finalized_number;
        if !records.is_empty() || block - *cursor >= QUIET_BLOCKS_MAX {
            records.push(Record::ChainSeen(ChainSeen { contract: self.channels.address, block }));
            self.journal.append_all(records).await?;
        }
        *cursor = block + 1;
        Ok(report)
    }

    /// Looks at the chain at every interval, until the result is dropped.
    #[must_use]
    pub fn run(self: &Arc<Self>, every: Duration) -> Running {
        let tower = Arc::clone(self);
        Running::new(vec![tokio::spawn(async move {
            loop {
                if let Err(error) = tower.tick().await {
                    tracing::warn!(%error, "channels not looked at, trying again");
                }
                tokio::time::sleep(every).await;
            }
        })])
    }

    async fn take(
        &self,
        event: ChannelEvent,
        place: LogPlace,
        settled: bool,
        records: &mut Vec<Record>,
        report: &mut WatchReport,
    ) -> Result<(), SettleError> {
        match event {
            ChannelEvent::Paid { channel, paid, gross, .. } => {
                let payout = Payout { channel, cumulative: paid, paid: gross, tx: place.tx, block: place.block };
                records.push(if settled { Record::Settled(payout) } else { Record::Redeemed(payout) });
            }
            ChannelEvent::Closing { channel, .. } => {
                records.push(self.updated(channel).await?);
                if self.is_payee(channel) && !self.redeem(channel, Wei(1)).await?.is_zero() {
                    report.defended.push(channel);
                }
            }
            ChannelEvent::Opened { channel, .. }
            | ChannelEvent::ToppedUp { channel, .. }
            | ChannelEvent::Closed { channel, .. } => records.push(self.updated(channel).await?),
            ChannelEvent::Skipped { .. } => {}
        }
        Ok(())
    }

    fn is_payee(&self, channel: ChannelId) -> bool {
        let index = self.journal.index();
        let opened = index.channel(channel).and_then(|state| state.opened.as_ref());
        opened.is_some_and(|opened| opened.side == Side::Payee)
    }

    async fn updated(&self, channel: ChannelId) -> Result<Record, SettleError> {
        let view = self.channels.channel(self.wallet.client(), channel).await?;
        let phase = match view.status {
            ChannelStatus::Open | ChannelStatus::None => ChannelPhase::Open,
            ChannelStatus::Closing => ChannelPhase::Closing,
            ChannelStatus::Closed => ChannelPhase::Closed,
        };
        let (deposit, paid, expires_s) = (view.deposit, view.paid, view.expires_s);
        Ok(Record::ChannelUpdated(ChannelUpdated { channel, phase, deposit, paid, expires_s }))
    }

    fn best_voucher(&self, channel: ChannelId) -> Option<Voucher> {
        self.journal.index().channel(channel).and_then(|state| state.voucher.clone())
    }

    /// Door one: brings the best voucher of a channel to the contract if it moves at least so much. Gives what it moved.
    ///
    /// # Errors
    /// [`SettleError`].
    pub async fn redeem(&self, channel: ChannelId, at_least: Wei) -> Result<Wei, SettleError> {
        let Some(voucher) = self.best_voucher(channel) else { return Ok(Wei::ZERO) };
        let view = self.channels.channel(self.wallet.client(), channel).await?;
        let due = voucher.cumulative.min(view.deposit).saturating_sub(view.paid);
        let open = matches!(view.status, ChannelStatus::Open | ChannelStatus::Closing);
        if !open || due < at_least || due.is_zero() {
            return Ok(Wei::ZERO);
        }
        let receipt = self.channels.redeem(&self.wallet, channel, voucher.cumulative, voucher.signature).await?;
        let mut moved = Wei::ZERO;
        for event in self.channels.events_in(&receipt) {
            if let ChannelEvent::Paid { channel, paid, gross, .. } = event {
                moved = moved.saturating_add(gross);
                let payout = Payout { channel, cumulative: paid, paid: gross, tx: receipt.tx, block: receipt.block };
                self.journal.append(Record::Redeemed(payout)).await?;
            }
        }
        Ok(moved)
    }

    /// Door one for every channel in which we are paid and at least so much is due. Gives what all of them moved.
    ///
    /// # Errors
    /// [`SettleError`], at the first channel that fails.
    pub async fn redeem_all(&self, at_least: Wei) -> Result<Wei, SettleError> {
        let ours: Vec<ChannelId> = self.journal.index().channels().map(|(channel, _)| *channel).collect();
        let mut moved = Wei::ZERO;
        for channel in ours {
            if self.is_payee(channel) {
                moved = moved.saturating_add(self.redeem(channel, at_least).await?);
            }
        }
        Ok(moved)
    }
}
