//! A chain that is followed over a simulated network, by a node that executes it: from honest peers, and from some that are not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../../chain-sync/tests/support/followed.rs"]
mod followed;
#[path = "support/ground.rs"]
mod support;

use followed::{BLOCKS, Follower, STOPS, Withstood, dropped, goes_on_where_it_stopped, withstands_liars};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use support::{Node, RICH, chain_genesis, committee, node, reopened, transfer};
use trellis_chain_sync::ChainRules;
use trellis_scenarios::proof;

async fn leader() -> Node {
    let leader = node();
    for height in 1..=BLOCKS {
        for n in 1..=(height % 5) as u8 {
            // Each account's transfers come in the order of its nonces.
            let nonce = leader.nonce(n);
            leader.mempool.add(transfer(n, nonce)).unwrap();
        }
        leader.step().await;
    }
    leader
}

fn open(folder: &Path) -> Follower {
    let node = reopened(folder);
    Follower { sink: Arc::new(node.producer.clone()), store: node.producer.store().clone(), rules }
}

// row: CHN-30
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_executes_the_same_chain_and_goes_on_where_it_stopped() {
    let leader = leader().await;
    goes_on_where_it_stopped(leader.producer.store().clone(), async || drop(leader.step().await), open).await;
}

/// A chain as long as is wanted, ten transfers in each block.
async fn long_leader(blocks: u64) -> Node {
    let leader = node();
    for height in 0..blocks {
        for n in RICH {
            leader.mempool.add(transfer(n, height)).unwrap();
        }
        leader.step().await;
    }
    leader
}

// row: CHN-30, CHN-31
#[tokio::test(flavor = "multi_thread")]
async fn with_a_third_of_the_peers_lying_and_three_stops_on_the_way_the_state_is_the_same() {
    let blocks = std::env::var("TRELLIS_PROOF_BLOCKS").map_or(BLOCKS, |text| text.parse().unwrap());
    let began = Instant::now();
    let leader = long_leader(blocks).await;
    let made = began.elapsed();
    let Withstood { took, metrics } = withstands_liars(leader.producer.store(), blocks, open).await;
    let result = serde_json::json!({
        "blocks": blocks,
        "transactions": blocks * 10,
        "peers": 6,
        "lying": 2,
        "stops": STOPS,
        "seconds": took.as_secs_f64(),
        "blocks_per_s": blocks as f64 / took.as_secs_f64(),
        "transactions_per_s": blocks as f64 * 10.0 / took.as_secs_f64(),
        "seconds_to_make_the_chain": made.as_secs_f64(),
        "received_bytes": metrics.received.get(),
        "dropped_wrong_body": dropped(&metrics, "wrong_body"),
        "dropped_slow": dropped(&metrics, "slow") + dropped(&metrics, "withheld"),
    });
    println!("{result}");
    proof::write("sync", &result);
}

fn rules() -> ChainRules {
    ChainRules { genesis_hash: chain_genesis().hash(), genesis: committee(), epoch_blocks: None }
}
