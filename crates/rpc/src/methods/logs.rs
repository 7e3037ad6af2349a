//! `eth_getLogs`.

use crate::block_ref::{BlockRef, block_number};
use crate::config::QUESTION_MS_MAX;
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::params::{Args, LogMatch, hash};
use crate::shape::{Answer, block_logs, json};
use alloy_primitives::{B256, Bloom, BloomInput, Log};
use serde_json::{Map, Value};
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::UnixMs;

/// Which blocks a filter looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogBlocks {
    /// From one to another, both included.
    Range { from: BlockRef, to: BlockRef },
    /// One.
    One(B256),
}

/// A filter object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogQuery {
    pub(crate) blocks: LogBlocks,
    pub(crate) matching: LogMatch,
}

pub(crate) fn query(value: &Value) -> Result<LogQuery, ArgumentError> {
    let object = value.as_object().ok_or(ArgumentError::Want("object"))?;
    let named = |name: &str| present(object, name).map(block_number).transpose();
    let (from, to) = (named("fromBlock")?, named("toBlock")?);
    let blocks = match present(object, "blockHash") {
        Some(_) if from.is_some() || to.is_some() => {
            return Err(ArgumentError::Object(
                "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other".to_owned(),
            ));
        }
        Some(digest) => LogBlocks::One(hash(digest)?),
        None => LogBlocks::Range { from: from.unwrap_or(BlockRef::Latest), to: to.unwrap_or(BlockRef::Latest) },
    };
    Ok(LogQuery { blocks, matching: LogMatch::read(object)? })
}

fn present<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// Whether a log is wanted.
pub(crate) fn wanted(matching: &LogMatch, log: &Log) -> bool {
    let address = matching.addresses.is_empty() || matching.addresses.contains(&log.address);
    let topics = log.topics();
    address
        && matching.topics.len() <= topics.len()
        && matching.topics.iter().zip(topics).all(|(any, topic)| any.is_empty() || any.contains(topic))
}

/// The values of a filter as blooms have them: hashed once, however many blocks are looked at.
pub(crate) struct LogBlooms {
    /// By position, the addresses first; any of these, empty for all.
    positions: Vec<Vec<Bloom>>,
}

impl LogBlooms {
    /// Of a filter.
    pub(crate) fn of(matching: &LogMatch) -> Self {
        let hashed = |bytes: &[u8]| Bloom::from(BloomInput::Raw(bytes));
        let addresses = matching.addresses.iter().map(|address| hashed(address.as_slice())).collect();
        let topics = matching.topics.iter().map(|any| any.iter().map(|topic| hashed(topic.as_slice())).collect());
        Self { positions: std::iter::once(addresses).chain(topics).collect() }
    }

    /// Whether a block with this bloom may have a wanted log.
    pub(crate) fn may_be_in(&self, bloom: &Bloom) -> bool {
        !bloom.is_zero() && self.positions.iter().all(|any| any.is_empty() || any.iter().any(|one| bloom.contains(one)))
    }
}

pub(super) fn get_logs(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    json(&run(context, &args.required(0, query)?)?)
}

/// Answers a filter.
pub(super) fn run(context: &RpcContext, query: &LogQuery) -> Result<Vec<alloy_rpc_types::Log>, RpcError> {
    match query.blocks {
        LogBlocks::One(digest) => {
            let block = context.block(BlockRef::Hash(digest))?.ok_or(RpcError::UnknownBlock)?;
            let mut found = Vec::new();
            collect(context, &block, &query.matching, &mut found)?;
            Ok(found)
        }
        LogBlocks::Range { from, to } => {
            let beyond = RpcError::InvalidParams("block range extends beyond current head block");
            let (Some(from), Some(to)) = (context.height(from)?, context.height(to)?) else { return Err(beyond) };
            if from > to {
                return Err(RpcError::InvalidParams("invalid block range params"));
            }
            range(context, from, to, &query.matching)
        }
    }
}

/// The wanted logs from one height to another, both included.
pub(super) fn range(
    context: &RpcContext,
    from: u64,
    to: u64,
    matching: &LogMatch,
) -> Result<Vec<alloy_rpc_types::Log>, RpcError> {
    let asked = to.saturating_sub(from).saturating_add(1);
    let max = context.config.log_range_blocks_max;
    if asked > max {
        return Err(RpcError::Limit { what: "blocks of a log range", asked, max });
    }
    let looked = look(context, (from, to), matching, (context.clock.now(), QUESTION_MS_MAX));
    looked.stopped.map_or(Ok(looked.found), Err)
}

/// How far a range was looked at.
pub(super) struct Looked {
    /// The wanted logs of the blocks that are done with.
    pub(super) found: Vec<alloy_rpc_types::Log>,
    /// The last of these blocks; none where already the first was too much.
    pub(super) last: Option<u64>,
    /// Why the others were not looked at, where there are others.
    pub(super) stopped: Option<RpcError>,
}

/// Looks at whole blocks from one height to another, both included: as many as have room in one answer, and as can be begun
/// within a number of milliseconds after a time. The first is begun however late it is.
pub(super) fn look(
    context: &RpcContext,
    (from, to): (u64, u64),
    matching: &LogMatch,
    (started, ms_max): (UnixMs, u64),
) -> Looked {
    let blooms = LogBlooms::of(matching);
    let mut looked = Looked { found: Vec::new(), last: None, stopped: None };
    for height in from..=to {
        let late = looked.last.is_some() && context.clock.now().ms_since(started) > ms_max;
        let complete = looked.found.len();
        let outcome = if late {
            Err(RpcError::TimedOut(QUESTION_MS_MAX))
        } else {
            look_at(context, height, (matching, &blooms), &mut looked.found)
        };
        if let Err(error) = outcome {
            looked.found.truncate(complete);
            looked.stopped = Some(error);
            break;
        }
        looked.last = Some(height);
    }
    looked
}

fn look_at(
    context: &RpcContext,
    height: u64,
    (matching, blooms): (&LogMatch, &LogBlooms),
    found: &mut Vec<alloy_rpc_types::Log>,
) -> Result<(), RpcError> {
    let Some(header) = context.store.header(height)? else {
        // An answer without its logs would look as if there were none.
        return Err(RpcError::HistoryNotKept { height, oldest: context.store.first_height()? });
    };
    if blooms.may_be_in(&header.logs_bloom)
        && let Some(block) = context.store.block(height)?
    {
        collect(context, &block, matching, found)?;
    }
    Ok(())
}

fn collect(
    context: &RpcContext,
    block: &CommittedBlock,
    matching: &LogMatch,
    found: &mut Vec<alloy_rpc_types::Log>,
) -> Result<(), RpcError> {
    let as_u64 = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let max = context.config.log_results_max;
    for log in block_logs(block, |log| wanted(matching, log)) {
        if found.len() >= max {
            return Err(RpcError::Limit {
                what: "logs of one answer",
                asked: as_u64(found.len()).saturating_add(1),
                max: as_u64(max),
            });
        }
        found.push(log);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, Bytes, logs_bloom};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_hash_and_a_range_exclude_each_other() {
        let digest = format!("0x{}", "ab".repeat(32));
        let both = json!({"blockHash": digest, "fromBlock": "0x3"});
        assert_eq!(
            query(&both).unwrap_err().to_string(),
            "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other"
        );
        assert_eq!(query(&json!({"blockHash": digest})).unwrap().blocks, LogBlocks::One(B256::repeat_byte(0xab)));
        let open = query(&json!({"fromBlock": "earliest"})).unwrap().blocks;
        assert_eq!(open, LogBlocks::Range { from: BlockRef::Number(0), to: BlockRef::Latest });
        assert!(query(&json!([])).is_err());
    }

    fn word() -> impl Strategy<Value = B256> {
        (0u8..4).prop_map(B256::repeat_byte)
    }

    proptest! {
        /// The bloom may say yes too often, but never no to a block with a wanted log.
        #[test]
        fn the_bloom_never_hides_a_wanted_log(
            address in 0u8..4,
            topics in proptest::collection::vec(word(), 0..4),
            addresses in proptest::collection::vec(0u8..4, 0..3),
            positions in proptest::collection::vec(proptest::collection::vec(word(), 0..3), 0..4),
        ) {
            let log = Log::new(Address::repeat_byte(address), topics, Bytes::new()).unwrap();
            let matching = LogMatch {
                addresses: addresses.into_iter().map(Address::repeat_byte).collect(),
                topics: positions,
            };
            if wanted(&matching, &log) {
                prop_assert!(LogBlooms::of(&matching).may_be_in(&logs_bloom([&log])));
            }
        }
    }
}
