//! What every answer is made from: the store, the pool, the machine, and the views that the node plugs in.

use crate::block_ref::BlockRef;
use crate::config::{HEAVY_QUESTIONS_MAX, READS_MAX, RpcConfig};
use crate::error::RpcError;
use crate::filters::Filters;
use crate::metrics::RpcMetrics;
use crate::views::{CommitteeView, MarketView, NetView};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Semaphore;
use trellis_chain_execution::Executor;
use trellis_chain_mempool::Mempool;
use trellis_chain_storage::{CommittedBlock, StateView, Store};
use trellis_primitives::{Header, SharedClock};

/// What the node hands over.
#[derive(Clone)]
pub struct RpcParts {
    /// Blocks and state.
    pub store: Store,
    /// Transactions that wait.
    pub mempool: Mempool,
    /// The chain's rules.
    pub executor: Executor,
    /// Who decides which height.
    pub committee: Arc<dyn CommitteeView>,
    /// The network.
    pub net: Arc<dyn NetView>,
    /// The market.
    pub market: Arc<dyn MarketView>,
    /// The time.
    pub clock: SharedClock,
    /// What `web3_clientVersion` says, as `Trellis/v0.1.0/linux-x86_64/rustc1.95`.
    pub client_version: String,
}

/// What every answer is made from.
pub(crate) struct RpcContext {
    pub(crate) store: Store,
    pub(crate) mempool: Mempool,
    pub(crate) executor: Executor,
    pub(crate) committee: Arc<dyn CommitteeView>,
    pub(crate) net: Arc<dyn NetView>,
    pub(crate) market: Arc<dyn MarketView>,
    pub(crate) clock: SharedClock,
    pub(crate) client_version: String,
    pub(crate) config: RpcConfig,
    pub(crate) filters: Filters,
    pub(crate) heavy: Arc<Semaphore>,
    pub(crate) reads: Arc<Semaphore>,
    pub(crate) metrics: RpcMetrics,
    /// The tip suggested at a height, wei.
    pub(crate) tip: Mutex<Option<(u64, u128)>>,
}

impl RpcContext {
    pub(crate) fn new(parts: RpcParts, config: RpcConfig) -> Self {
        let RpcParts { store, mempool, executor, committee, net, market, clock, client_version } = parts;
        Self {
            store,
            mempool,
            executor,
            committee,
            net,
            market,
            clock,
            client_version,
            config,
            filters: Filters::default(),
            heavy: Arc::new(Semaphore::new(HEAVY_QUESTIONS_MAX)),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            metrics: RpcMetrics::default(),
            tip: Mutex::default(),
        }
    }

    pub(crate) fn chain_id(&self) -> u64 {
        self.executor.config().chain_id
    }

    /// Base fee of the block after the head, wei.
    pub(crate) fn next_base_fee(&self) -> u64 {
        self.executor.next_base_fee(self.store.head().header()).unwrap_or_default()
    }

    /// The height of a named block, `None` where there is none; the pending block counts as the head.
    pub(crate) fn height(&self, named: BlockRef) -> Result<Option<u64>, RpcError> {
        let head = self.store.height();
        Ok(match named {
            BlockRef::Latest | BlockRef::Pending => Some(head),
            BlockRef::Safe => Some(self.config.safe_height.map_or(head, |safe| safe.min(head))),
            BlockRef::Finalized => Some(self.config.finalized_height.map_or(head, |finalized| finalized.min(head))),
            BlockRef::Number(number) => (number <= head).then_some(number),
            BlockRef::Hash(hash) => self.store.height_of(hash)?,
        })
    }

    /// The state after a named block.
    pub(crate) fn view(&self, named: BlockRef) -> Result<StateView, RpcError> {
        match named {
            BlockRef::Latest | BlockRef::Pending => Ok(self.store.head()),
            named => {
                let height = self.height(named)?.ok_or(RpcError::HeaderNotFound)?;
                Ok(self.store.state_at(height)?)
            }
        }
    }

    /// A named block, `None` where there is none.
    pub(crate) fn block(&self, named: BlockRef) -> Result<Option<Arc<CommittedBlock>>, RpcError> {
        match self.height(named)? {
            Some(height) => Ok(self.store.block(height)?),
            None => Ok(None),
        }
    }

    /// The header that a block on this one would have, as far as it is known before its transactions.
    pub(crate) fn pending_header(&self, parent: &StateView) -> Header {
        self.executor.pending_header(parent, self.clock.now().0)
    }

    /// The state and the header that a call at a named block sees.
    pub(crate) fn call_site(&self, named: BlockRef) -> Result<(StateView, Header), RpcError> {
        let view = self.view(named)?;
        let header = match named {
            BlockRef::Pending => self.pending_header(&view),
            _ => view.header().clone(),
        };
        Ok((view, header))
    }
}
