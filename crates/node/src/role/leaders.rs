//! A validator keeps the nodes connected whose turn to propose comes next (NET-57).
//!
//! Who proposes follows from the committee and the height. Which node a member runs is what the node's own record says, which
//! the member's account has signed; the network knows those that it has met. Whoever has missed turns of late is drawn later
//! than foreseen here, and is kept connected all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use trellis_chain_finality::{Demoted, ValidatorSet, proposer};
use trellis_chain_producer::Committees;
use trellis_chain_storage::Store;
use trellis_net_peers::{NetworkHandle, PeerInfo};
use trellis_primitives::{Address, NodeId, Role};

/// Heights that are looked ahead.
const HEIGHTS_AHEAD: u64 = 8;
/// Rounds of a height whose proposers are wanted.
const ROUNDS_AHEAD: u32 = 2;
/// Between two looks, milliseconds.
const LOOK_EVERY_MS: u64 = 1_000;
/// Accounts whose nodes are remembered.
const NODES_MAX: usize = 1_024;

/// Keeps the next proposers connected for as long as the network runs.
pub async fn keep_near(network: NetworkHandle, store: Store, committees: Committees) {
    let mut known = Known::default();
    let mut preferred = Vec::new();
    loop {
        known.meet(&network.peers());
        let accounts = upcoming(store.height(), |height| committees.of(height).ok());
        let next = known.nodes_of(&accounts);
        if next != preferred {
            tracing::debug!(leaders = next.len(), "the next proposers are kept connected");
            network.prefer(&next);
            preferred = next;
        }
        tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
    }
}

/// The accounts that propose next after a height, the soonest first. Heights whose committee is not known yet are left out.
fn upcoming(height: u64, committee: impl Fn(u64) -> Option<ValidatorSet>) -> Vec<Address> {
    let (mut seen, mut next) = (BTreeSet::new(), Vec::new());
    for height in (1..=HEIGHTS_AHEAD).map(|ahead| height.saturating_add(ahead)) {
        let Some(set) = committee(height) else { break };
        let drawn = (0..ROUNDS_AHEAD).filter_map(|round| proposer(&set, &Demoted::default(), height, round));
        next.extend(drawn.map(|member| member.account).filter(|account| seen.insert(*account)));
    }
    next
}

/// Which node runs for which account.
#[derive(Default)]
struct Known {
    nodes: BTreeMap<Address, NodeId>,
}

impl Known {
    fn meet(&mut self, peers: &[PeerInfo]) {
        for peer in peers {
            let (Some(id), Some(record)) = (peer.id, &peer.record) else { continue };
            let is_new = !self.nodes.contains_key(&record.chain_address);
            // Of an account's nodes the one that is connected counts.
            let counts = record.roles.contains(Role::Validator) && (is_new || peer.connected_since.is_some());
            if counts && (self.nodes.len() < NODES_MAX || !is_new) {
                self.nodes.insert(record.chain_address, id);
            }
        }
    }

    fn nodes_of(&self, accounts: &[Address]) -> Vec<NodeId> {
        accounts.iter().filter_map(|account| self.nodes.get(account)).copied().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::chain::Chain;

    // row: NET-57
    #[test]
    fn the_next_proposers_are_those_that_the_chain_draws_the_soonest_first_and_each_once() {
        let set = Chain::load("dev").unwrap().committee;
        let of = |height, round| proposer(&set, &Demoted::default(), height, round).unwrap().account;
        let next = upcoming(100, |_| Some(set.clone()));
        assert_eq!(next.first(), Some(&of(101, 0)));
        let distinct: BTreeSet<_> = next.iter().copied().collect();
        assert_eq!(distinct.len(), next.len());
        let drawn = (101..=100 + HEIGHTS_AHEAD).flat_map(|height| (0..ROUNDS_AHEAD).map(move |round| (height, round)));
        assert_eq!(distinct, drawn.map(|(height, round)| of(height, round)).collect::<BTreeSet<_>>());
        assert!(upcoming(100, |_| None).is_empty(), "a committee that is not known yet");
    }
}
