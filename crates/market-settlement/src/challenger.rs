//! The challenger: looks at every batch on the chain, and shows what is wrong with it. Anyone can run one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alloy_sol_types::SolCall;
use async_trait::async_trait;
use parking_lot::Mutex;
use trellis_contracts::settlement::Settlement::revealCall;
use trellis_market_chain::{
    BatchStatus, BatchView, ChainError, ChannelStatus, ChannelsContract, DemandStatus, SettlementContract,
    SettlementEvent, SettlementTerms, Wallet,
};
use trellis_market_journal::Journal;
use trellis_market_receipt::IncludeBy;
use trellis_market_receipt::eip712::Domain;
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{Address, B256, BatchRoot, ChannelId, NodeId};

use crate::client::{fetch_leaves, fetch_path, node_of_account};
use crate::config::Contracts;
use crate::error::{AskError, SettleError};
use crate::examine::{Charge, Descent, Fetched, Knowledge, Search, examine, omission, wrong_sum_on};
use crate::leaf::{ChannelKeys, LeafData, Rules};
use crate::promises::Promises;
use crate::service::Running;
use crate::tree::StatedTree;
use crate::wire::LeafPath;

/// Earlier batches of one aggregator that are kept to find duplicates.
const EARLIER_BATCHES_MAX: usize = 256;
/// Answers to demands that are kept until somebody asks for the same leaf; each cost somebody a bond.
const ANSWERS_MAX: usize = 65_536;
/// Paths that are asked for in one search: one for each level, and the first.
const PATHS_ASKED_MAX: usize = 25;

/// Where a batch's data comes from.
#[async_trait]
pub trait BatchSource: Send + Sync + 'static {
    /// Every leaf of a batch.
    async fn leaves(&self, batch: &BatchView) -> Result<Vec<LeafData>, AskError>;
    /// The path of one leaf.
    async fn path(&self, batch: &BatchView, index: u32) -> Result<LeafPath, AskError>;
}

/// Asks the aggregators' own nodes.
pub struct NetworkSource {
    network: NetworkHandle,
    nodes: Mutex<HashMap<Address, NodeId>>,
}

impl NetworkSource {
    /// A source over a network, with the nodes of aggregators as far as they are known.
    #[must_use]
    pub fn new(network: NetworkHandle) -> Self {
        Self { network, nodes: Mutex::default() }
    }

    /// Learns which node an aggregator's account has.
    pub fn know(&self, aggregator: Address, node: NodeId) {
        self.nodes.lock().insert(aggregator, node);
    }

    fn node(&self, batch: &BatchView) -> Result<NodeId, AskError> {
        let told = self.nodes.lock().get(&batch.aggregator).copied();
        let found = told.or_else(|| node_of_account(&*self.network, batch.aggregator));
        found.ok_or(AskError::NotServed { root: batch.root })
    }
}

#[async_trait]
impl BatchSource for NetworkSource {
    async fn leaves(&self, batch: &BatchView) -> Result<Vec<LeafData>, AskError> {
        fetch_leaves(&*self.network, self.node(batch)?, batch.root, batch.count).await
    }
    async fn path(&self, batch: &BatchView, index: u32) -> Result<LeafPath, AskError> {
        fetch_path(&*self.network, self.node(batch)?, batch.root, index).await
    }
}

/// What a look at one batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be proved against it.
    Clean {
        /// The contract's number.
        id: u64,
    },
    /// It fell, by our proof.
    Toppled {
        /// The contract's number.
        id: u64,
        /// The charge's name.
        charge: &'static str,
    },
    /// Its data is missing or false at a leaf, which was demanded.
    Demanded {
        /// The contract's number.
        id: u64,
        /// The leaf.
        index: u32,
    },
    /// It fell because a demand was not answered.
    Expired {
        /// The contract's number.
        id: u64,
        /// The leaf.
        index: u32,
    },
}

/// A challenger.
pub struct Challenger {
    wallet: Wallet,
    channels: ChannelsContract,
    settlement: SettlementContract,
    terms: SettlementTerms,
    source: Arc<dyn BatchSource>,
    state: tokio::sync::Mutex<Watch>,
    promises: Promises,
}

#[derive(Default)]
struct Watch {
    /// The first block whose events have not been looked at.
    cursor: u64,
    /// Batches that wait to be looked at.
    waiting: Vec<u64>,
    /// The highest batch that was ever put there.
    highest: u64,
    /// Demands of ours without an answer.
    demands: Vec<(u64, u32)>,
    /// The transactions that answered other demands: of strangers, and of ours from before a restart.
    answers: BTreeMap<(u64, u32), B256>,
    /// Batches that were found clean, by aggregator, newest last.
    earlier: HashMap<Address, Vec<Fetched>>,
}

impl Challenger {
    /// A challenger over a source of data, from the chain's first block on, with the promises in a journal: those that an
    /// [`crate::AggregatorLink`] stores there, and its own.
    ///
    /// # Errors
    /// [`SettleError::Chain`].
    pub async fn new(
        wallet: Wallet,
        contracts: &Contracts,
        source: Arc<dyn BatchSource>,
        journal: Journal,
    ) -> Result<Self, SettleError> {
        let settlement = SettlementContract::new(contracts.settlement);
        let terms = settlement.terms(wallet.client()).await?;
        let channels = ChannelsContract::new(terms.channels);
        let state = tokio::sync::Mutex::default();
        Ok(Self { wallet, channels, settlement, terms, source, state, promises: Promises::new(journal) })
    }

    /// Keeps a promise that came on another way than over a link of ours, so that its breach can be shown. False where it is
    /// not by that aggregator.
    ///
    /// # Errors
    /// [`SettleError::Journal`]: it is not kept.
    pub async fn remember(&self, aggregator: Address, promise: &IncludeBy) -> Result<bool, SettleError> {
        let domain = Domain { chain_id: self.wallet.client().chain_id(), contract: self.settlement.address };
        if promise.verify(&domain, aggregator).is_err() {
            return Ok(false);
        }
        self.promises.keep(aggregator, &[promise]).await?;
        Ok(true)
    }

    /// One look at the chain: at every new batch, every answer to a demand of ours, every demand that ran out.
    ///
    /// # Errors
    /// [`SettleError::Chain`]; what was not looked at is looked at next time.
    pub async fn tick(&self) -> Result<Vec<Verdict>, SettleError> {
        let mut watch = self.state.lock().await;
        let head = self.wallet.client().head().await?;
        let mut verdicts = Vec::new();
        if watch.cursor <= head.number {
            verdicts.extend(self.read_events(&mut watch, head.number).await?);
            watch.cursor = head.number + 1;
        }
        while let Some(id) = watch.waiting.first().copied() {
            let verdict = self.look_at(&mut watch, id).await?;
            watch.waiting.remove(0);
            verdicts.extend(verdict);
        }
        verdicts.extend(self.late_promises(&watch).await?);
        verdicts.extend(self.expire(&mut watch, head.time_s).await?);
        Ok(verdicts)
    }

    /// Notes what happened since the last look. After an error the same events are read again.
    async fn read_events(&self, watch: &mut Watch, upto: u64) -> Result<Vec<Verdict>, SettleError> {
        let mut verdicts = Vec::new();
        for (place, event) in self.settlement.events(self.wallet.client(), watch.cursor, upto).await? {
            match event {
                SettlementEvent::Submitted { id, .. } if id > watch.highest => {
                    watch.highest = id;
                    watch.waiting.push(id);
                }
                SettlementEvent::Toppled { id, .. } => {
                    watch.earlier.values_mut().for_each(|batches| batches.retain(|batch| batch.id != id));
                }
                SettlementEvent::Revealed { id, index } if watch.demands.contains(&(id, index)) => {
                    let verdict = self.look_at_answer(id, place.tx).await?;
                    watch.demands.retain(|demand| *demand != (id, index));
                    // Who answers on the chain may serve the rest by now, promised receipts among it.
                    if verdict.is_none() && !watch.waiting.contains(&id) {
                        watch.waiting.push(id);
                    }
                    verdicts.extend(verdict);
                }
                SettlementEvent::Revealed { id, index } if watch.answers.len() < ANSWERS_MAX => {
                    watch.answers.insert((id, index), place.tx);
                }
                _ => {}
            }
        }
        Ok(verdicts)
    }

    /// Looks at the chain at every interval, until the result is dropped. What it finds goes to the log.
    #[must_use]
    pub fn run(self: &Arc<Self>, every: Duration) -> Running {
        let challenger = Arc::clone(self);
        Running::new(vec![tokio::spawn(async move {
            loop {
                match challenger.tick().await {
                    Ok(verdicts) => {
                        verdicts.iter().for_each(|verdict| tracing::info!(?verdict, "batch looked at"));
                    }
                    Err(error) => tracing::warn!(%error, "batches not looked at, trying again"),
                }
                tokio::time::sleep(every).await;
            }
        })])
    }

    async fn look_at(&self, watch: &mut Watch, id: u64) -> Result<Option<Verdict>, SettleError> {
        let batch = self.settlement.batch(self.wallet.client(), id).await?;
        if batch.status == BatchStatus::Toppled || batch.status == BatchStatus::None {
            let useless = self.promises.of_batch(batch.aggregator, batch.number).len();
            self.promises.checked(batch.aggregator, batch.number, useless).await?;
            return Ok(None);
        }
        let served = match self.source.leaves(&batch).await {
            Ok(leaves) => Some(leaves),
            Err(error) => {
                tracing::warn!(id, %error, "batch data not served");
                None
            }
        };
        let fetched = served.map(|leaves| {
            let tree = StatedTree::new(leaves.iter().map(LeafData::node).collect());
            Fetched { id, number: batch.number, leaves, tree }
        });
        let whole = |fetched: &Fetched| {
            let stated = (batch.root, batch.sum, batch.count);
            (fetched.tree.root(), fetched.tree.sum(), fetched.tree.count()) == stated
        };
        match fetched {
            Some(fetched) if whole(&fetched) => self.judge(watch, &batch, fetched).await,
            other => self.search(watch, &batch, other.as_ref().map(|fetched| &fetched.tree)).await,
        }
    }

    /// A batch whose data is all there.
    async fn judge(
        &self,
        watch: &mut Watch,
        batch: &BatchView,
        fetched: Fetched,
    ) -> Result<Option<Verdict>, SettleError> {
        let keys = self.keys_of(fetched.leaves.iter().map(|leaf| leaf.key().0)).await?;
        let promises = self.promises.of_batch(batch.aggregator, batch.number);
        let earlier: Vec<&Fetched> = watch.earlier.get(&batch.aggregator).into_iter().flatten().collect();
        let knowledge = Knowledge { rules: self.rules(batch), keys: &keys, promises: &promises, earlier: &earlier };
        let charges = examine(&fetched, &knowledge);
        for charge in charges {
            if self.bring(batch.id, &charge).await? {
                self.promises.checked(batch.aggregator, batch.number, promises.len()).await?;
                return Ok(Some(Verdict::Toppled { id: batch.id, charge: charge.name() }));
            }
        }
        self.promises.checked(batch.aggregator, batch.number, promises.len()).await?;
        let kept = watch.earlier.entry(batch.aggregator).or_default();
        if kept.len() >= EARLIER_BATCHES_MAX {
            kept.remove(0);
        }
        kept.push(fetched);
        Ok(Some(Verdict::Clean { id: batch.id }))
    }

    /// Promises that came after their batch was found clean, as after a lost answer, are held against what was fetched then.
    async fn late_promises(&self, watch: &Watch) -> Result<Vec<Verdict>, SettleError> {
        let mut verdicts = Vec::new();
        for (aggregator, number) in self.promises.batches() {
            let mut known = watch.earlier.get(&aggregator).into_iter().flatten();
            let Some(batch) = known.find(|batch| batch.number == number) else { continue };
            let promises = self.promises.of_batch(aggregator, number);
            for charge in promises.iter().filter_map(|promise| omission(batch, promise)) {
                if self.bring(batch.id, &charge).await? {
                    verdicts.push(Verdict::Toppled { id: batch.id, charge: charge.name() });
                    break;
                }
            }
            self.promises.checked(aggregator, number, promises.len()).await?;
        }
        Ok(verdicts)
    }

    fn rules(&self, batch: &BatchView) -> Rules {
        Rules {
            chain_id: self.wallet.client().chain_id(),
            channels: self.channels.address,
            settlement: self.settlement.address,
            aggregator: batch.aggregator,
        }
    }

    /// A batch whose data does not lead to its root, or is not served: walk down to where it parts, or demand a leaf.
    async fn search(
        &self,
        watch: &mut Watch,
        batch: &BatchView,
        served: Option<&StatedTree>,
    ) -> Result<Option<Verdict>, SettleError> {
        let depth = batch.count.max(1).next_power_of_two().trailing_zeros() as usize;
        let served = served.filter(|tree| tree.depth() == depth);
        let descent = Descent { top: (batch.root.0, batch.sum.0), count: batch.count, depth, served };
        let (mut index, mut below) = (0, depth);
        for _ in 0..PATHS_ASKED_MAX {
            let Ok(path) = self.source.path(batch, index).await else { break };
            match descent.step(index, below, &path) {
                Search::Ask { index: next, below: lower } => (index, below) = (next, lower),
                Search::Demand(at) => {
                    index = at;
                    break;
                }
                Search::Charge(charge) => {
                    if self.bring(batch.id, &charge).await? {
                        return Ok(Some(Verdict::Toppled { id: batch.id, charge: charge.name() }));
                    }
                    break;
                }
            }
        }
        self.demand(watch, batch, index).await
    }

    async fn demand(&self, watch: &mut Watch, batch: &BatchView, index: u32) -> Result<Option<Verdict>, SettleError> {
        let known = self.settlement.demand_of(self.wallet.client(), batch.id, index).await?;
        match known.status {
            DemandStatus::None => match self.settlement.demand(&self.wallet, &self.terms, batch.id, index).await {
                Ok(_) => {}
                // The window is over, or somebody was faster.
                Err(ChainError::Reverted { reason, .. }) => {
                    tracing::info!(id = batch.id, index, reason, "demand refused");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            },
            // A stranger's, or ours from before a restart.
            DemandStatus::Open => {}
            DemandStatus::Revealed => {
                return match watch.answers.get(&(batch.id, index)) {
                    Some(tx) => self.look_at_answer(batch.id, *tx).await,
                    None => Ok(None),
                };
            }
            DemandStatus::Refunded => return Ok(None),
        }
        watch.demands.push((batch.id, index));
        Ok(Some(Verdict::Demanded { id: batch.id, index }))
    }

    /// What was shown on the chain is looked at like anything else.
    async fn look_at_answer(&self, id: u64, tx: B256) -> Result<Option<Verdict>, SettleError> {
        let batch = self.settlement.batch(self.wallet.client(), id).await?;
        let data = self.wallet.client().transaction_data(tx).await?;
        let Some(call) = data.and_then(|data| revealCall::abi_decode(&data).ok()) else { return Ok(None) };
        let shown = call.leaf;
        let leaf = LeafData {
            receipt: shown.receipt.clone(),
            signatures: shown.signatures.clone(),
            pq_hash: shown.pqHash,
            sum: shown.sum,
        };
        let keys = self.keys_of([leaf.key().0].into_iter()).await?;
        let good = leaf.is_good(&self.rules(&batch), keys.get(&leaf.key().0).copied());
        let charge = if good {
            wrong_sum_on(shown.index, leaf.node(), &shown.path)
        } else {
            Some(Charge::BadReceipt(Box::new(shown)))
        };
        match charge {
            Some(charge) if self.bring(id, &charge).await? => Ok(Some(Verdict::Toppled { id, charge: charge.name() })),
            _ => Ok(None),
        }
    }

    async fn expire(&self, watch: &mut Watch, now_s: u64) -> Result<Vec<Verdict>, SettleError> {
        let mut verdicts = Vec::new();
        for (id, index) in watch.demands.clone() {
            let demand = self.settlement.demand_of(self.wallet.client(), id, index).await?;
            if demand.status == DemandStatus::Open && now_s >= demand.deadline_s {
                match self.settlement.expire_demand(&self.wallet, id, index).await {
                    Ok(_) => verdicts.push(Verdict::Expired { id, index }),
                    Err(ChainError::Reverted { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            if demand.status != DemandStatus::Open || now_s >= demand.deadline_s {
                watch.demands.retain(|known| *known != (id, index));
            }
        }
        Ok(verdicts)
    }

    /// Brings a proof. False where the contract does not see the fault, or the batch fell already.
    async fn bring(&self, id: u64, charge: &Charge) -> Result<bool, SettleError> {
        let (contract, wallet) = (&self.settlement, &self.wallet);
        let brought = match charge.clone() {
            Charge::BadReceipt(leaf) => contract.prove_bad_receipt(wallet, id, *leaf).await,
            Charge::Disorder(left, right) => contract.prove_disorder(wallet, id, *left, *right).await,
            Charge::Duplicate { leaf, earlier_id, earlier_leaf } => {
                contract.prove_duplicate(wallet, id, *leaf, earlier_id, *earlier_leaf).await
            }
            Charge::WrongSum(node) => contract.prove_wrong_sum(wallet, id, *node).await,
            Charge::WrongPadding { index, leaf, sum, path } => {
                contract.prove_wrong_padding(wallet, id, index, (leaf, sum), path).await
            }
            Charge::Omission { promise, signature, left, right } => {
                contract.prove_omission(wallet, id, (promise, signature), *left, *right).await
            }
        };
        match brought {
            Ok(_) => {
                tracing::info!(id, charge = charge.name(), "batch toppled");
                Ok(true)
            }
            Err(ChainError::Reverted { reason, .. }) => {
                tracing::warn!(id, charge = charge.name(), reason, "proof refused");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn keys_of(
        &self,
        channels: impl Iterator<Item = ChannelId>,
    ) -> Result<HashMap<ChannelId, ChannelKeys>, SettleError> {
        let mut keys = HashMap::new();
        let mut asked = std::collections::HashSet::new();
        for channel in channels {
            if asked.insert(channel) {
                let view = self.channels.channel(self.wallet.client(), channel).await?;
                if view.status != ChannelStatus::None {
                    keys.insert(channel, ChannelKeys { signer: view.signer, payee: view.payee });
                }
            }
        }
        Ok(keys)
    }

    /// The roots that have not been looked at yet, for reports.
    pub async fn waiting(&self) -> usize {
        self.state.lock().await.waiting.len()
    }

    /// The root of a batch, for reports.
    ///
    /// # Errors
    /// [`SettleError::Chain`].
    pub async fn root_of(&self, id: u64) -> Result<BatchRoot, SettleError> {
        Ok(self.settlement.batch(self.wallet.client(), id).await?.root)
    }
}
