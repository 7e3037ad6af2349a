//! What stake is behind a peer (NET-42): asked of the chain through [`StakeView`], remembered for a while, never waited for.
//!
//! This plane knows no chain. Who starts the network plugs one in; a chain that fails, is slow or is not there means "no stake
//! known", which is what every peer begins with.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;
use trellis_primitives::{Address, NodeId, UnixMs, Wei};

/// From this stake on a peer is one with stake: the lowest tier of providers.
pub const STAKE_MIN: Wei = Wei::from_trl(100);
/// Nodes whose stake is remembered; beyond it the one asked for longest ago is forgotten.
pub const STAKES_REMEMBERED_MAX: usize = 4_096;
/// A stake counts for this long after the chain told it.
pub const STAKE_MS: u64 = 10 * 60 * 1_000;
/// A stake that is looked at is asked for again when its answer is this old, while it still counts.
pub const STAKE_REFRESH_MS: u64 = STAKE_MS / 2;
/// After a failure a stake is asked for again no sooner than this.
pub const STAKE_RETRY_MS: u64 = 30_000;
/// A chain that takes longer has failed.
pub const STAKE_ANSWER_MS_MAX: u64 = 5_000;
/// Questions to the chain at once; whoever comes while so many run is asked for the next time it is looked at.
pub const STAKE_QUESTIONS_MAX: usize = 16;

/// The chain does not tell the stake.
#[derive(Debug, Error)]
#[error("the chain does not tell the stake: {reason}")]
pub struct StakeError {
    /// What the chain's client says.
    pub reason: String,
}

/// Where stake is known. A chain implements it; this plane only asks.
#[async_trait]
pub trait StakeView: Send + Sync {
    /// The stake in wei that answers for a node. `account` is the chain address of the node's record, which the account and
    /// the node have both signed; stake that the chain binds to another node of the account does not count.
    ///
    /// # Errors
    /// [`StakeError`] where the chain does not answer.
    async fn stake(&self, account: Address, node: NodeId) -> Result<Wei, StakeError>;
}

/// A [`StakeView`] as a part of the configuration.
#[derive(Clone)]
pub struct StakeSource(pub Arc<dyn StakeView>);

impl fmt::Debug for StakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StakeSource")
    }
}

/// What a look at the memory says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Looked {
    /// Whether enough stake is known to be there.
    pub(crate) staked: bool,
    /// Whether the chain is to be asked now; the memory counts on an answer.
    pub(crate) ask: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    account: Address,
    /// The last answer, and when it came.
    told: Option<(Wei, UnixMs)>,
    /// When the chain was last asked or answered, and whether a question still runs.
    asked: UnixMs,
    running: bool,
    failed: bool,
}

/// The stakes that are remembered. Pure.
#[derive(Debug, Default)]
pub(crate) struct StakeMemory {
    known: HashMap<NodeId, Known>,
    running: usize,
}

impl StakeMemory {
    /// What is known of a node's stake now, and whether to ask.
    pub(crate) fn look(&mut self, node: NodeId, account: Address, now: UnixMs) -> Looked {
        if self.known.get(&node).is_some_and(|known| known.account != account && !known.running) {
            // The node goes by another account now; the former one's stake is not behind it.
            self.known.remove(&node);
        }
        let known = self.known.get(&node).copied();
        let fresh = known.filter(|known| known.account == account).and_then(|known| known.told);
        let staked = fresh.is_some_and(|(wei, at)| wei >= STAKE_MIN && now.ms_since(at) < STAKE_MS);
        let due = known.is_none_or(|known| {
            let wait_ms = if known.failed { STAKE_RETRY_MS } else { STAKE_REFRESH_MS };
            !known.running && now.ms_since(known.asked) >= wait_ms
        });
        let ask = due && self.running < STAKE_QUESTIONS_MAX;
        if ask {
            self.make_room(node);
            let told = known.and_then(|known| known.told);
            self.known.insert(node, Known { account, told, asked: now, running: true, failed: false });
            self.running += 1;
        }
        Looked { staked, ask }
    }

    /// The chain answered a question that [`Self::look`] asked for, or failed to (`None`). Whether there is enough stake.
    pub(crate) fn answered(&mut self, node: NodeId, account: Address, answer: Option<Wei>, now: UnixMs) -> bool {
        self.running = self.running.saturating_sub(1);
        let Some(known) = self.known.get_mut(&node).filter(|known| known.account == account) else { return false };
        (known.running, known.asked) = (false, now);
        known.failed = answer.is_none();
        if let Some(wei) = answer {
            known.told = Some((wei, now));
        }
        answer.is_some_and(|wei| wei >= STAKE_MIN)
    }

    fn make_room(&mut self, node: NodeId) {
        if self.known.len() < STAKES_REMEMBERED_MAX || self.known.contains_key(&node) {
            return;
        }
        let idle = self.known.iter().filter(|(_, known)| !known.running);
        if let Some(oldest) = idle.min_by_key(|(_, known)| known.asked).map(|(node, _)| *node) {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(1_000_000);
    const ENOUGH: Option<Wei> = Some(STAKE_MIN);

    fn node(seed: u8) -> NodeId {
        NodeId([seed; 32])
    }

    fn account(seed: u8) -> Address {
        Address::repeat_byte(seed)
    }

    // row: NET-42
    #[test]
    fn a_stake_counts_once_told_is_asked_for_again_in_time_and_runs_out() {
        let mut memory = StakeMemory::default();
        assert_eq!(memory.look(node(1), account(1), NOW), Looked { staked: false, ask: true });
        assert_eq!(memory.look(node(1), account(1), NOW), Looked { staked: false, ask: false }, "the question runs");
        assert!(memory.answered(node(1), account(1), ENOUGH, NOW));
        assert_eq!(memory.look(node(1), account(1), NOW), Looked { staked: true, ask: false });
        let late = NOW.plus_ms(STAKE_REFRESH_MS);
        assert_eq!(memory.look(node(1), account(1), late), Looked { staked: true, ask: true });
        assert!(!memory.answered(node(1), account(1), None, late), "the chain failed");
        assert!(memory.look(node(1), account(1), NOW.plus_ms(STAKE_MS - 1)).staked, "what was told still counts");
        assert!(!memory.look(node(1), account(1), NOW.plus_ms(STAKE_MS)).staked, "and runs out");
    }

    // row: NET-42
    #[test]
    fn too_little_stake_and_another_accounts_stake_do_not_count() {
        let mut memory = StakeMemory::default();
        memory.look(node(1), account(1), NOW);
        assert!(!memory.answered(node(1), account(1), Some(Wei(STAKE_MIN.0 - 1)), NOW));
        assert!(!memory.look(node(1), account(1), NOW).staked);
        memory.look(node(2), account(2), NOW);
        memory.answered(node(2), account(2), ENOUGH, NOW);
        assert_eq!(
            memory.look(node(2), account(3), NOW),
            Looked { staked: false, ask: true },
            "it changed its account"
        );
        assert!(!memory.answered(node(2), account(2), ENOUGH, NOW), "an answer about the former account");
        assert!(!memory.look(node(2), account(3), NOW).staked);
    }

    // row: NET-42
    #[test]
    fn a_chain_that_fails_is_not_asked_at_once_again_and_nobody_has_stake_meanwhile() {
        let mut memory = StakeMemory::default();
        assert!(memory.look(node(1), account(1), NOW).ask);
        memory.answered(node(1), account(1), None, NOW);
        assert_eq!(memory.look(node(1), account(1), NOW.plus_ms(1)), Looked { staked: false, ask: false });
        assert!(memory.look(node(1), account(1), NOW.plus_ms(STAKE_RETRY_MS)).ask);
    }

    proptest! {
        // row: NET-42, NET-56
        #[test]
        fn questions_and_memory_stay_within_their_bounds_and_every_question_ends(
            steps in prop::collection::vec((any::<u16>(), any::<bool>(), 0u64..20_000), 1..600),
        ) {
            let mut memory = StakeMemory::default();
            let mut running = Vec::new();
            let mut now = NOW;
            for (seed, answers, ms) in steps {
                now = now.plus_ms(ms);
                let mut id = [0; 32];
                id[..2].copy_from_slice(&seed.to_be_bytes());
                if memory.look(NodeId(id), account(1), now).ask {
                    running.push(NodeId(id));
                }
                prop_assert!(running.len() <= STAKE_QUESTIONS_MAX);
                if answers && let Some(node) = running.pop() {
                    memory.answered(node, account(1), ENOUGH, now);
                    prop_assert!(memory.look(node, account(1), now).staked);
                }
                prop_assert_eq!(memory.running, running.len());
                prop_assert!(memory.known.len() <= STAKES_REMEMBERED_MAX);
            }
        }
    }

    #[test]
    fn whoever_was_asked_for_longest_ago_makes_room() {
        let mut memory = StakeMemory::default();
        for seed in 0..u64::try_from(STAKES_REMEMBERED_MAX + 10).unwrap() {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&seed.to_be_bytes());
            let at = NOW.plus_ms(seed);
            assert!(memory.look(NodeId(id), account(1), at).ask);
            memory.answered(NodeId(id), account(1), ENOUGH, at);
        }
        assert_eq!(memory.known.len(), STAKES_REMEMBERED_MAX);
    }
}
