//! Many nodes for a while, in the laboratory: nothing grows. Needs root (tests/lab/README.md).
//!
//! The gate runs ten nodes for a minute; `cargo xtask prove soak` runs fifty for half an hour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;
use trellis_scenarios::lab::soak::{Plan, run};

/// Nodes of the gate's soak.
const NODES: usize = 10;
/// How long it runs after the last has started; with the laboratory's making it stays within a hundred seconds.
const WHOLE: Duration = Duration::from_secs(50);

// row: NET-56
#[test]
fn ten_nodes_at_home_and_in_public_keep_their_peers_and_grow_neither_memory_nor_descriptors() {
    let report = run(&Plan::of(NODES, WHOLE));
    println!("{}", report.table());
    assert!(report.steady, "{:?}", report.kinds.iter().flat_map(|kind| &kind.faults).collect::<Vec<_>>());
    assert!(report.visits > 0 && report.jobs_done > 0, "{}", report.table());
    assert_eq!(report.kinds.iter().map(|kind| kind.nodes).sum::<usize>(), NODES);
}
