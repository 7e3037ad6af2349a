//! Either side is killed at each message of a job, restarted from its journal, and every wei is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "world/world.rs"]
mod world;

use std::time::Duration;
use world::fuse::{Count, Fuse};
use world::script::Script;
use world::{GatewaySide, MODEL, RISK, World, collect, request, until};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Gateway,
    Provider,
    /// Nobody dies: only the stream breaks.
    Connection,
}

/// More frames than the whole exchange below has in either direction.
const FRAMES_MAX: i64 = 70;

fn script() -> Script {
    // The prompt passes the risk limit, so it is paid in steps; the answer too, so it is paid on the way.
    Script { tokens_per_piece: 10, ..Script::new(150, 25) }
}

fn prompt() -> String {
    "a prompt of some length ".repeat(20)
}

/// Runs one job that breaks at a message; gives back whether it broke before the job ended.
fn break_at(world: &World, victim: Victim, count: Count, frame: i64) -> bool {
    let provider = world.provider(script());
    let (fuse, blown) = Fuse::new(count, frame);
    let gateway = world.gateway_with(Some(fuse));
    gateway.connect(world);
    let order = gateway.order(world, request(MODEL, &prompt(), 1_000));
    let job = gateway.runtime.spawn(collect(gateway.client.clone(), order));
    // Either the fuse blows or the job ends first; then there is nothing left to break at.
    let mut broke = false;
    for _ in 0..30_000 {
        broke = blown.recv_timeout(Duration::from_millis(2)).is_ok();
        if broke || job.is_finished() {
            break;
        }
    }
    match victim {
        Victim::Gateway => {
            gateway.kill(world);
            provider.runtime.block_on(provider.provider.shutdown(Duration::from_secs(3)));
        }
        Victim::Provider => {
            provider.kill(world);
            let _ = gateway.runtime.block_on(job);
            gateway.runtime.block_on(gateway.client.shutdown(Duration::from_secs(3)));
        }
        Victim::Connection => {
            let _ = gateway.runtime.block_on(job);
            gateway.runtime.block_on(gateway.client.shutdown(Duration::from_secs(3)));
            provider.runtime.block_on(provider.provider.shutdown(Duration::from_secs(3)));
        }
    }
    broke
}

fn sync(gateway: &GatewaySide) {
    let client = gateway.client.clone();
    let results = gateway.runtime.block_on(gateway.runtime.spawn(async move { client.sync_all().await })).unwrap();
    for (_, result) in results {
        result.unwrap();
    }
}

/// Restarts both sides, lets them talk, counts every wei, and runs one more job.
fn recover(world: &World, context: &str) {
    let (provider, gateway) = (world.provider(script()), world.gateway());
    gateway.connect(world);
    sync(&gateway);
    let audit = world.audit(true);
    assert!(audit.half_signed <= 1, "{context}: {audit:?}");
    let before = audit.complete;
    gateway.ask(world, &prompt(), 1_000).end.unwrap_or_else(|fault| panic!("{context}: the next job: {fault}"));
    until("the next job's receipt", || world.audit(false).complete == before + 1);
    for summary in provider.provider.channels() {
        assert!(summary.arrears <= RISK, "{context}: {summary:?}");
        let held = summary.held.unwrap();
        world.ledger.redeem(&held);
        assert_eq!(world.ledger.redeem(&held).0, 0, "{context}: the same voucher pays nothing again");
    }
    let paid: u128 = world.ledger.all().iter().map(|view| view.paid.0).sum();
    assert_eq!(paid, world.audit(true).promised.0, "{context}: what was paid is what was promised");
}

fn matrix(victim: Victim, count: Count, stride: usize) {
    let mut broken = 0;
    for frame in (0..FRAMES_MAX).step_by(stride) {
        let world = World::new();
        let broke = break_at(&world, victim, count, frame);
        recover(&world, &format!("{victim:?} at frame {frame} {count:?}"));
        broken += i32::from(broke);
        if !broke {
            break;
        }
    }
    assert!(broken >= 4, "{victim:?}, {count:?}: the matrix hit only {broken} messages");
}

// row: MKT-21, MKT-30, MKT-31
#[test]
fn a_gateway_killed_before_any_message_it_sends_pays_nothing_twice() {
    matrix(Victim::Gateway, Count::Sent, 1);
}

// row: MKT-21, MKT-30, MKT-31
#[test]
fn a_gateway_killed_after_any_message_it_gets_pays_nothing_twice() {
    matrix(Victim::Gateway, Count::Received, 1);
}

// row: MKT-21, MKT-30, MKT-31
#[test]
fn a_provider_killed_before_any_message_reaches_it_loses_at_most_one_risk_limit() {
    matrix(Victim::Provider, Count::Sent, 1);
}

// row: MKT-21, MKT-30, MKT-31
#[test]
fn a_provider_killed_after_any_message_it_sends_loses_at_most_one_risk_limit() {
    matrix(Victim::Provider, Count::Received, 1);
}

// row: MKT-31
#[test]
fn a_connection_that_breaks_at_any_message_costs_nobody_more_than_one_risk_limit() {
    matrix(Victim::Connection, Count::Sent, 1);
}
