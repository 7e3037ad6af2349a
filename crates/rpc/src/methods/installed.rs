//! Filters that a client installs and asks again.

use super::logs::{self, LogBlocks, query};
use crate::block_ref::BlockRef;
use crate::config::{FILTER_LOOK_MS_MAX, FILTER_PENDING_HASHES_MAX, FILTER_TOLD_MS_MAX, QUESTION_MS_MAX};
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::filters::FilterKind;
use crate::params::{Args, LogMatch, quantity_u64};
use crate::shape::{Answer, json};
use alloy_primitives::B256;
use alloy_rpc_types::Log;
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use trellis_primitives::UnixMs;

fn install(context: &RpcContext, kind: FilterKind) -> Result<Answer, RpcError> {
    let id = context.filters.install(kind, context.clock.now()).ok_or(RpcError::Busy)?;
    json(&id)
}

pub(super) fn new_filter(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let query = args.required(0, query)?;
    if matches!(query.blocks, LogBlocks::One(_)) {
        let reason = ArgumentError::Object("a filter of one block has nothing to wait for".to_owned());
        return Err(RpcError::InvalidArgument { index: 0, reason });
    }
    install(context, FilterKind::Logs { query, next: context.store.height().saturating_add(1) })
}

pub(super) fn new_block_filter(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    install(context, FilterKind::Blocks { next: context.store.height().saturating_add(1) })
}

pub(super) fn new_pending_filter(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    install(context, FilterKind::Pending(context.mempool.subscribe_pending()))
}

/// What is to be told, worked out under the filters' lock and answered after it.
enum Due {
    Logs { matching: LogMatch, from: u64, to: u64 },
    Blocks { from: u64, to: u64 },
    Hashes(Vec<B256>),
}

pub(super) fn changes(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let id = args.required(0, quantity_u64)?;
    let head = context.store.height();
    let max = context.config.log_range_blocks_max;
    let started = context.clock.now();
    let due = context.filters.with(id, started, |kind| due(kind, head, max)).ok_or(RpcError::FilterNotFound)?;
    let (answer, from, told) = match due {
        Due::Logs { from, to, .. } | Due::Blocks { from, to } if from > to => return json::<[B256; 0]>(&[]),
        Due::Hashes(hashes) => return json(&hashes),
        Due::Logs { matching, from, to } => {
            let (found, told) = fitting(context, (from, to), &matching, started)?;
            (found.and_then(|found| json(&found)), from, told)
        }
        Due::Blocks { from, to } => {
            let hashes = (from..=to).map(|height| context.store.hash_at(height)).collect::<Result<Vec<_>, _>>()?;
            (json(&hashes.into_iter().flatten().collect::<Vec<B256>>()), from, to)
        }
    };
    let now = context.clock.now();
    if now.ms_since(started) > FILTER_TOLD_MS_MAX {
        // Whoever asked has been told that it took too long, and asks again.
        return Err(RpcError::TimedOut(QUESTION_MS_MAX));
    }
    let _ = context.filters.with(id, now, |kind| match kind {
        // Where two ask at once, the first moves the filter on.
        FilterKind::Logs { next, .. } | FilterKind::Blocks { next } if *next == from => *next = told.saturating_add(1),
        _ => {}
    });
    answer
}

fn due(kind: &mut FilterKind, head: u64, blocks_max: u64) -> Due {
    // One answer covers at most a log range; what is left is told the next time.
    let up_to = |from: u64| head.min(from.saturating_add(blocks_max).saturating_sub(1));
    match kind {
        FilterKind::Logs { query, next } => {
            Due::Logs { matching: query.matching.clone(), from: *next, to: up_to(*next) }
        }
        FilterKind::Blocks { next } => Due::Blocks { from: *next, to: up_to(*next) },
        FilterKind::Pending(receiver) => Due::Hashes(drain(receiver)),
    }
}

/// The logs of as many of the blocks as fit into one answer and its time, and the last block that is done with.
///
/// # Errors
/// Where nothing is done with, so that the same is to be asked again.
fn fitting(
    context: &RpcContext,
    (from, to): (u64, u64),
    matching: &LogMatch,
    started: UnixMs,
) -> Result<(Result<Vec<Log>, RpcError>, u64), RpcError> {
    let looked = logs::look(context, (from, to), matching, (started, FILTER_LOOK_MS_MAX));
    match (looked.last, looked.stopped) {
        (Some(last), _) => Ok((Ok(looked.found), last)),
        // One block has more than an answer may have, and would have the next time.
        (None, Some(error @ RpcError::Limit { .. })) => Ok((Err(error), from)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok((Ok(looked.found), to)),
    }
}

fn drain(receiver: &mut Receiver<B256>) -> Vec<B256> {
    let mut hashes = Vec::new();
    while hashes.len() < FILTER_PENDING_HASHES_MAX {
        match receiver.try_recv() {
            Ok(hash) => hashes.push(hash),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    hashes
}

/// Everything a log filter matches, from its own first block on.
pub(super) fn all_logs(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let id = args.required(0, quantity_u64)?;
    let found = context.filters.with(id, context.clock.now(), |kind| match kind {
        FilterKind::Logs { query, .. } => Some(query.clone()),
        FilterKind::Blocks { .. } | FilterKind::Pending(_) => None,
    });
    let mut query = found.flatten().ok_or(RpcError::FilterNotFound)?;
    if let LogBlocks::Range { from: BlockRef::Number(from), .. } = query.blocks
        && from > context.store.height()
    {
        return json::<[B256; 0]>(&[]);
    }
    if let LogBlocks::Range { to: to @ BlockRef::Number(_), .. } = &mut query.blocks
        && context.height(*to)?.is_none()
    {
        *to = BlockRef::Latest;
    }
    json(&logs::run(context, &query)?)
}

pub(super) fn uninstall(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    json(&context.filters.remove(args.required(0, quantity_u64)?))
}
