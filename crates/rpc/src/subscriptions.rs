//! `eth_subscribe`: new heads, logs, and transactions that wait.

use crate::context::RpcContext;
use crate::error::RpcError;
use crate::methods::{LogBlooms, query, wanted};
use crate::metrics::KindLabel;
use crate::params::{Args, LogMatch, boolean, text};
use crate::shape::{HeadJson, block_logs, json, pending_transaction};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::traits::IdProvider;
use jsonrpsee::types::{ErrorObjectOwned, SubscriptionId};
use jsonrpsee::{PendingSubscriptionSink, RpcModule, SubscriptionSink};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::{B256, keccak256};

pub(crate) const SUBSCRIBE: &str = "eth_subscribe";
pub(crate) const UNSUBSCRIBE: &str = "eth_unsubscribe";

/// Milliseconds that a subscriber's full buffer is waited for, before the subscription is closed.
const SLOW_SUBSCRIBER_MS_MAX: u64 = 5_000;

/// Subscription ids as geth's: hex text, not guessable from another's.
#[derive(Debug)]
pub(crate) struct HexIds {
    seed: B256,
    next: AtomicU64,
}

impl HexIds {
    pub(crate) fn new(seed: B256) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }
}

impl IdProvider for HexIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut bytes = self.seed.to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        let digest = keccak256(bytes);
        let (id, _) = digest.split_at(16);
        SubscriptionId::Str(format!("0x{}", alloy_primitives::hex::encode(id)).into())
    }
}

/// What a client subscribes to.
enum Kind {
    Heads,
    Logs(LogMatch),
    Pending { full: bool },
}

impl Kind {
    fn read(params: Option<&str>) -> Result<Self, RpcError> {
        let args = Args::parse(params)?;
        args.at_most(2)?;
        match args.required(0, text)?.as_str() {
            "newHeads" => Ok(Self::Heads),
            "logs" => Ok(Self::Logs(args.optional(1, query)?.map(|query| query.matching).unwrap_or_default())),
            "newPendingTransactions" => Ok(Self::Pending { full: args.optional(1, boolean)?.unwrap_or(false) }),
            _ => Err(RpcError::InvalidParams("no such subscription: newHeads, logs, newPendingTransactions")),
        }
    }

    const fn label(&self) -> KindLabel {
        KindLabel {
            kind: match self {
                Self::Heads => "newHeads",
                Self::Logs(_) => "logs",
                Self::Pending { .. } => "newPendingTransactions",
            },
        }
    }
}

/// Registers `eth_subscribe` and `eth_unsubscribe`.
pub(crate) fn register(module: &mut RpcModule<RpcContext>) -> Result<(), RegisterMethodError> {
    module.register_subscription(
        SUBSCRIBE,
        "eth_subscription",
        UNSUBSCRIBE,
        |params, pending, context, _| async move { run(params.as_str(), pending, context).await },
    )?;
    Ok(())
}

async fn run(params: Option<&str>, pending: PendingSubscriptionSink, context: Arc<RpcContext>) {
    let kind = match Kind::read(params) {
        Ok(kind) => kind,
        Err(error) => return pending.reject(ErrorObjectOwned::from(error)).await,
    };
    // Before the client is told that it is subscribed, so that it misses nothing after.
    let (blocks, waiting) = (context.store.subscribe(), context.mempool.subscribe_pending());
    let Ok(sink) = pending.accept().await else { return };
    let open = context.metrics.subscriptions.get_or_create_owned(&kind.label());
    open.inc();
    match kind {
        Kind::Heads => tell_blocks(&context, &sink, blocks, None).await,
        Kind::Logs(matching) => tell_blocks(&context, &sink, blocks, Some(&matching)).await,
        Kind::Pending { full } => tell_pending(&context, &sink, waiting, full).await,
    }
    open.dec();
}

async fn tell_head(context: &RpcContext, sink: &SubscriptionSink, block: &CommittedBlock) -> bool {
    match written(&HeadJson { header: &block.block.header, hash: block.hash }) {
        Some(message) => send(context, sink, message).await,
        None => true,
    }
}

/// One log after another: all of a block's, written out for every subscriber, would not fit into memory.
async fn tell_logs(context: &RpcContext, sink: &SubscriptionSink, block: &CommittedBlock, matching: &LogMatch) -> bool {
    for log in block_logs(block, |log| wanted(matching, log)) {
        if let Some(message) = written(&log)
            && !send(context, sink, message).await
        {
            return false;
        }
    }
    true
}

fn written<T: Serialize>(value: &T) -> Option<Box<serde_json::value::RawValue>> {
    json(value).ok()
}

/// Sends one message; false when the subscription is over.
async fn send(context: &RpcContext, sink: &SubscriptionSink, message: Box<serde_json::value::RawValue>) -> bool {
    let sent = sink.send_timeout(message, Duration::from_millis(SLOW_SUBSCRIBER_MS_MAX)).await;
    if sent.is_err() && !sink.is_closed() {
        context.metrics.slow_subscribers.inc();
        tracing::debug!("subscription closed, its client is too slow");
    }
    sent.is_ok()
}

/// Tells heads, or the logs that match.
async fn tell_blocks(
    context: &RpcContext,
    sink: &SubscriptionSink,
    mut blocks: Receiver<Arc<CommittedBlock>>,
    matching: Option<&LogMatch>,
) {
    let blooms = matching.map(LogBlooms::of);
    loop {
        let next = tokio::select! {
            () = sink.closed() => return,
            next = blocks.recv() => next,
        };
        let block = match next {
            Ok(block) => block,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "subscriber missed blocks");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        if blooms.as_ref().is_some_and(|blooms| !blooms.may_be_in(&block.block.header.logs_bloom)) {
            continue;
        }
        let open = match matching {
            None => tell_head(context, sink, &block).await,
            Some(matching) => tell_logs(context, sink, &block, matching).await,
        };
        if !open {
            return;
        }
    }
}

async fn tell_pending(context: &RpcContext, sink: &SubscriptionSink, mut waiting: Receiver<B256>, full: bool) {
    loop {
        let next = tokio::select! {
            () = sink.closed() => return,
            next = waiting.recv() => next,
        };
        let message = match next {
            Ok(hash) if full => context.mempool.get(&hash).and_then(|tx| written(&pending_transaction(&tx))),
            Ok(hash) => written(&hash),
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "subscriber missed pending transactions");
                None
            }
            Err(RecvError::Closed) => return,
        };
        if let Some(message) = message
            && !send(context, sink, message).await
        {
            return;
        }
    }
}
