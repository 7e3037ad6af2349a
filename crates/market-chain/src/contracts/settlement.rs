//! Settlement: bond, batches, one-step proofs, demands.

use alloy_sol_types::{SolCall, SolEvent};
use trellis_contracts::fee_pool::FeePool;
use trellis_contracts::settlement::Settlement as sol;
use trellis_contracts::settlement::Settlement::{IncludeBy, LeafProof, NodeProof, PathStep};
use trellis_primitives::{Address, B256, BatchRoot, Bytes, Wei};

use super::channels::SignedVoucher;
use super::tokens::WtrlContract;
use super::view;
use crate::client::{ChainClient, Log, LogFilter, LogPlace, TxIntent, TxReceipt};
use crate::error::ChainError;
use crate::wallet::Wallet;

/// What an aggregator states about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTotals {
    /// Root of the receipts tree.
    pub root: BatchRoot,
    /// The aggregator's own number, from 1 without gaps.
    pub number: u64,
    /// The fee pool's epoch.
    pub epoch: u64,
    /// Number of receipts.
    pub count: u32,
    /// Sum of the costs.
    pub sum: Wei,
}

/// A figure of the contract, of whatever width.
fn wide<T>(figure: T) -> u64
where
    u64: TryFrom<T>,
{
    u64::try_from(figure).unwrap_or(u64::MAX)
}

/// A figure for the contract.
fn narrow<T: TryFrom<u64>>(what: &'static str, figure: u64) -> Result<T, ChainError> {
    T::try_from(figure).map_err(|_| ChainError::Decode { what, reason: format!("{figure} does not fit the contract") })
}

/// How a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchStatus {
    /// There is none.
    None,
    /// It can be challenged.
    Pending,
    /// It outlived its window.
    Final,
    /// It fell.
    Toppled,
}

/// Why a batch fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A receipt was not what its signatures say.
    BadReceipt,
    /// Neighbours did not rise.
    Disorder,
    /// The same receipt was in an earlier batch.
    Duplicate,
    /// A sum was wrong.
    WrongSum,
    /// The padding was wrong.
    WrongPadding,
    /// A promised receipt was missing.
    Omission,
    /// A demand was not answered.
    Withheld,
}

impl Fault {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::BadReceipt,
            1 => Self::Disorder,
            2 => Self::Duplicate,
            3 => Self::WrongSum,
            4 => Self::WrongPadding,
            5 => Self::Omission,
            _ => Self::Withheld,
        }
    }
}

/// A batch as the contract shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchView {
    /// The contract's number, from 1.
    pub id: u64,
    /// Root of the receipts tree.
    pub root: BatchRoot,
    /// Stated sum of the costs.
    pub sum: Wei,
    /// The aggregator's own number.
    pub number: u64,
    /// The fee pool's epoch.
    pub epoch: u64,
    /// Who bonded for it.
    pub aggregator: Address,
    /// When it came, in Unix seconds.
    pub submitted_at_s: u64,
    /// From when it can be finalised, in Unix seconds.
    pub finalisable_at_s: u64,
    /// Stated number of receipts.
    pub count: u32,
    /// Demands without an answer.
    pub open_demands: u64,
    /// How it stands.
    pub status: BatchStatus,
}

/// An aggregator as the contract shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregatorView {
    /// Its bond.
    pub bond: Wei,
    /// From when the bond can be withdrawn, in Unix seconds; 0 while active.
    pub exit_at_s: u64,
    /// Batches it ever submitted; the next has this number plus one.
    pub batches: u64,
    /// Batches that can still be challenged.
    pub pending: u64,
}

/// How a demand stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemandStatus {
    /// There is none.
    None,
    /// It waits for an answer.
    Open,
    /// The leaf was shown.
    Revealed,
    /// The bond went back to the one who asked.
    Refunded,
}

/// A demand as the contract shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemandView {
    /// Who asked.
    pub by: Address,
    /// Until when an answer counts, in Unix seconds.
    pub deadline_s: u64,
    /// How it stands.
    pub status: DemandStatus,
}

/// What the contract was deployed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettlementTerms {
    /// The token of bonds.
    pub token: Address,
    /// The channels contract.
    pub channels: Address,
    /// The fee pool.
    pub fee_pool: Address,
    /// Least bond of an aggregator.
    pub bond: Wei,
    /// Bond of a demand.
    pub demand_bond: Wei,
    /// How long a root can be challenged.
    pub challenge_s: u64,
    /// How long an answer to a demand may take.
    pub reveal_s: u64,
}

/// Something that happened in Settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlementEvent {
    /// A batch came.
    Submitted {
        /// The contract's number.
        id: u64,
        /// Who bonded for it.
        aggregator: Address,
        /// Its root.
        root: BatchRoot,
        /// The aggregator's number.
        number: u64,
    },
    /// A batch outlived its window.
    Final {
        /// The contract's number.
        id: u64,
    },
    /// A batch fell.
    Toppled {
        /// The contract's number.
        id: u64,
        /// Why.
        fault: Fault,
        /// Who showed it.
        reporter: Address,
        /// What the aggregator lost.
        slashed: Wei,
    },
    /// Somebody asks for a leaf.
    Demanded {
        /// The contract's number.
        id: u64,
        /// The leaf.
        index: u32,
        /// Until when an answer counts, in Unix seconds.
        deadline_s: u64,
    },
    /// A leaf was shown, with all its data in the transaction's call.
    Revealed {
        /// The contract's number.
        id: u64,
        /// The leaf.
        index: u32,
    },
}

impl SettlementEvent {
    /// Reads a log; `None` for logs of another kind.
    #[must_use]
    pub fn from_log(log: &Log) -> Option<Self> {
        let (topics, data) = (log.data.topics(), &log.data.data);
        Some(match *topics.first()? {
            sol::BatchSubmitted::SIGNATURE_HASH => {
                let e = sol::BatchSubmitted::decode_raw_log(topics, data).ok()?;
                let (root, number) = (BatchRoot(e.root), e.number);
                Self::Submitted { id: e.batchId, aggregator: e.aggregator, root, number: wide(number) }
            }
            sol::BatchFinal::SIGNATURE_HASH => {
                Self::Final { id: sol::BatchFinal::decode_raw_log(topics, data).ok()?.batchId }
            }
            sol::BatchToppled::SIGNATURE_HASH => {
                let e = sol::BatchToppled::decode_raw_log(topics, data).ok()?;
                let (fault, slashed) = (Fault::from_number(e.fault), Wei(e.slashed));
                Self::Toppled { id: e.batchId, fault, reporter: e.reporter, slashed }
            }
            sol::Demanded::SIGNATURE_HASH => {
                let e = sol::Demanded::decode_raw_log(topics, data).ok()?;
                Self::Demanded { id: e.batchId, index: e.index, deadline_s: wide(e.deadline) }
            }
            sol::Revealed::SIGNATURE_HASH => {
                let e = sol::Revealed::decode_raw_log(topics, data).ok()?;
                Self::Revealed { id: e.batchId, index: e.index }
            }
            _ => return None,
        })
    }
}

/// The contract at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettlementContract {
    /// Where it is.
    pub address: Address,
}

impl SettlementContract {
    /// The contract at an address.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    fn intent<C: SolCall>(&self, call: &C) -> TxIntent {
        TxIntent::call(self.address, call.abi_encode())
    }

    async fn execute<C: SolCall>(&self, wallet: &Wallet, call: &C) -> Result<TxReceipt, ChainError> {
        wallet.execute(self.intent(call)).await
    }

    /// What the contract was deployed with.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn terms(&self, client: &dyn ChainClient) -> Result<SettlementTerms, ChainError> {
        let at = self.address;
        Ok(SettlementTerms {
            token: view(client, at, "TOKEN", &sol::TOKENCall {}).await?,
            channels: view(client, at, "CHANNELS", &sol::CHANNELSCall {}).await?,
            fee_pool: view(client, at, "FEE_POOL", &sol::FEE_POOLCall {}).await?,
            bond: Wei(view(client, at, "BOND", &sol::BONDCall {}).await?),
            demand_bond: Wei(view(client, at, "DEMAND_BOND", &sol::DEMAND_BONDCall {}).await?),
            challenge_s: view(client, at, "CHALLENGE_SECONDS", &sol::CHALLENGE_SECONDSCall {}).await?.into(),
            reveal_s: view(client, at, "REVEAL_SECONDS", &sol::REVEAL_SECONDSCall {}).await?.into(),
        })
    }

    /// The fee pool's running epoch.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn current_epoch(&self, client: &dyn ChainClient, fee_pool: Address) -> Result<u64, ChainError> {
        view(client, fee_pool, "currentEpoch", &FeePool::currentEpochCall {}).await
    }

    /// Adds to the wallet's bond, approving the token where needed.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn register(&self, wallet: &Wallet, token: Address, amount: Wei) -> Result<TxReceipt, ChainError> {
        WtrlContract::new(token).ensure_allowance(wallet, self.address, amount).await?;
        self.execute(wallet, &sol::registerCall { amount: amount.0 }).await
    }

    /// An aggregator's bond and counts.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn aggregator(&self, client: &dyn ChainClient, account: Address) -> Result<AggregatorView, ChainError> {
        let a = view(client, self.address, "aggregator", &sol::aggregatorCall { account }).await?;
        Ok(AggregatorView {
            bond: Wei(a.bond),
            exit_at_s: wide(a.exitAt),
            batches: wide(a.batches),
            pending: wide(a.pending),
        })
    }

    /// Posts a root and pays vouchers.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn settle(
        &self,
        wallet: &Wallet,
        totals: BatchTotals,
        vouchers: Vec<SignedVoucher>,
    ) -> Result<TxReceipt, ChainError> {
        let BatchTotals { root, number, epoch, count, sum } = totals;
        let (number, epoch) = (narrow("number", number)?, narrow("epoch", epoch)?);
        let totals = sol::Totals { number, epoch, count, sum: sum.0 };
        self.execute(wallet, &sol::settleCall { receiptsRoot: root.0, totals, vouchers }).await
    }

    /// Pays vouchers that did not fit beside a root.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn settle_vouchers(
        &self,
        wallet: &Wallet,
        vouchers: Vec<SignedVoucher>,
    ) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::settleVouchersCall { vouchers }).await
    }

    /// Marks a batch that outlived its window as final.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn finalise(&self, wallet: &Wallet, id: u64) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::finaliseCall { batchId: id }).await
    }

    /// Shows a receipt that is not what its signatures say, or whose sum is not its cost.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_bad_receipt(&self, wallet: &Wallet, id: u64, leaf: LeafProof) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::proveBadReceiptCall { batchId: id, leaf }).await
    }

    /// Shows two neighbours that do not rise.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_disorder(
        &self,
        wallet: &Wallet,
        id: u64,
        left: LeafProof,
        right: LeafProof,
    ) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::proveDisorderCall { batchId: id, left, right }).await
    }

    /// Shows the same receipt in an earlier batch of the same aggregator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_duplicate(
        &self,
        wallet: &Wallet,
        id: u64,
        leaf: LeafProof,
        earlier_id: u64,
        earlier_leaf: LeafProof,
    ) -> Result<TxReceipt, ChainError> {
        let call = sol::proveDuplicateCall { batchId: id, leaf, earlierId: earlier_id, earlierLeaf: earlier_leaf };
        self.execute(wallet, &call).await
    }

    /// Shows an inner node whose sum is not that of its children.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_wrong_sum(&self, wallet: &Wallet, id: u64, node: NodeProof) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::proveWrongSumCall { batchId: id, node }).await
    }

    /// Shows a leaf that is empty among the receipts, or not empty after them.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_wrong_padding(
        &self,
        wallet: &Wallet,
        id: u64,
        index: u32,
        (leaf, sum): (B256, Wei),
        path: Vec<PathStep>,
    ) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::proveWrongPaddingCall { batchId: id, index, leaf, sum: sum.0, path }).await
    }

    /// Shows that a promised receipt is absent.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn prove_omission(
        &self,
        wallet: &Wallet,
        id: u64,
        (promise, signature): (IncludeBy, Bytes),
        left: LeafProof,
        right: LeafProof,
    ) -> Result<TxReceipt, ChainError> {
        let call = sol::proveOmissionCall { batchId: id, promise_: promise, signature, left, right };
        self.execute(wallet, &call).await
    }

    /// Asks for a leaf to be shown.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn demand(
        &self,
        wallet: &Wallet,
        terms: &SettlementTerms,
        id: u64,
        index: u32,
    ) -> Result<TxReceipt, ChainError> {
        WtrlContract::new(terms.token).ensure_allowance(wallet, self.address, terms.demand_bond).await?;
        self.execute(wallet, &sol::demandCall { batchId: id, index }).await
    }

    /// Shows a demanded leaf.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn reveal(&self, wallet: &Wallet, id: u64, leaf: LeafProof) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::revealCall { batchId: id, leaf }).await
    }

    /// Shows that a demanded leaf is empty.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn reveal_padding(
        &self,
        wallet: &Wallet,
        id: u64,
        index: u32,
        path: Vec<PathStep>,
    ) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::revealPaddingCall { batchId: id, index, path }).await
    }

    /// Topples a batch whose aggregator did not answer in time.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn expire_demand(&self, wallet: &Wallet, id: u64, index: u32) -> Result<TxReceipt, ChainError> {
        self.execute(wallet, &sol::expireDemandCall { batchId: id, index }).await
    }

    /// A batch.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn batch(&self, client: &dyn ChainClient, id: u64) -> Result<BatchView, ChainError> {
        let b = view(client, self.address, "batch", &sol::batchCall { batchId: id }).await?;
        let status = match b.status {
            0 => BatchStatus::None,
            1 => BatchStatus::Pending,
            2 => BatchStatus::Final,
            _ => BatchStatus::Toppled,
        };
        Ok(BatchView {
            id,
            root: BatchRoot(b.root),
            sum: Wei(b.sum),
            number: wide(b.number),
            epoch: wide(b.epoch),
            aggregator: b.aggregator,
            submitted_at_s: wide(b.submittedAt),
            finalisable_at_s: wide(b.finalisableAt),
            count: b.count,
            open_demands: wide(b.openDemands),
            status,
        })
    }

    /// The number of an aggregator's batch with this root; 0 for none.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn batch_id_of_root(
        &self,
        client: &dyn ChainClient,
        aggregator: Address,
        root: BatchRoot,
    ) -> Result<u64, ChainError> {
        view(client, self.address, "batchIdOfRoot", &sol::batchIdOfRootCall { aggregator, root: root.0 }).await
    }

    /// The number of an aggregator's batch with this number of its own; 0 for none.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn batch_id_of(
        &self,
        client: &dyn ChainClient,
        aggregator: Address,
        number: u64,
    ) -> Result<u64, ChainError> {
        view(client, self.address, "batchIdOf", &sol::batchIdOfCall { aggregator, number: narrow("number", number)? })
            .await
    }

    /// A demand.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn demand_of(&self, client: &dyn ChainClient, id: u64, index: u32) -> Result<DemandView, ChainError> {
        let d = view(client, self.address, "demandOf", &sol::demandOfCall { batchId: id, index }).await?;
        let status = match d.state {
            0 => DemandStatus::None,
            1 => DemandStatus::Open,
            2 => DemandStatus::Revealed,
            _ => DemandStatus::Refunded,
        };
        Ok(DemandView { by: d.by, deadline_s: wide(d.deadline), status })
    }

    /// Events from blocks, in order.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn events(
        &self,
        client: &dyn ChainClient,
        from_block: u64,
        to_block: u64,
    ) -> Result<Vec<(LogPlace, SettlementEvent)>, ChainError> {
        let filter = LogFilter { addresses: vec![self.address], topics: Vec::new(), from_block, to_block };
        let logs = client.logs(filter).await?;
        Ok(logs.iter().filter_map(|log| Some((log.place, SettlementEvent::from_log(log)?))).collect())
    }
}
