//! One large batch, from receipts on the wire to a batch on the chain that a stranger fetched and checked.
//!
//! The size is that of several pages; `cargo xtask prove batch-100k` runs the same test in full size and keeps its figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trellis_net_peers::sim::SimNet;
use trellis_primitives::{B256, ChannelId, NodeId, Wei};

use super::world::{World, aggregator, challenger, payout};
use crate::{Challenger, NetworkSource, Outcome, Verdict, submit};

/// How many receipts the batch has.
const RECEIPTS_VARIABLE: &str = "TRELLIS_PROOF_RECEIPTS";
/// Where the variable says nothing: more than one page of leaves, and not a round number of them.
const RECEIPTS_DEFAULT: u64 = 1_300;
/// Receipts of one channel: 100,000 are over 400 channels, four to a payout account, as in the table of gas.
const RECEIPTS_PER_CHANNEL: u64 = 250;
const CHANNELS_PER_PAYOUT: u64 = 4;
/// Ticks of a processor's time in a second, as Linux has it on our targets.
const TICKS_PER_S: f64 = 100.0;
/// How long settling may take.
const SETTLE_SECONDS_MAX: u64 = 1_200;

/// Wall and processor time of the steps.
struct Steps {
    began: Instant,
    cpu_s: f64,
    done: Vec<(&'static str, Value)>,
}

impl Steps {
    fn begin() -> Self {
        Self { began: Instant::now(), cpu_s: cpu_s(), done: Vec::new() }
    }

    fn done(&mut self, step: &'static str) {
        let (seconds, cpu) = (self.began.elapsed().as_secs_f64(), cpu_s() - self.cpu_s);
        self.done.push((step, json!({"seconds": rounded(seconds), "cpu_seconds": rounded(cpu)})));
        (self.began, self.cpu_s) = (Instant::now(), cpu_s());
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_S
}

async fn channels(world: &World, count: u64) -> Vec<ChannelId> {
    let mut opened = Vec::new();
    for n in 0..count {
        let owner = trellis_primitives::keccak256((n / CHANNELS_PER_PAYOUT).to_be_bytes());
        let to = if n < CHANNELS_PER_PAYOUT { payout(1) } else { trellis_primitives::Address::from_word(owner) };
        opened.push(world.open(to, B256::left_padding_from(&n.to_be_bytes()), Wei(1_000_000)).await);
    }
    opened
}

/// Waits until so many vouchers are paid and the batch is on the chain; gives the gas and the transactions that took.
async fn settled(world: &World, settling: &crate::Aggregator, vouchers: usize, before: (u64, u64)) -> (u64, u64) {
    let deadline = Instant::now() + Duration::from_secs(SETTLE_SECONDS_MAX);
    let metrics = settling.metrics();
    while metrics.batches_submitted.get() == 0 || metrics.vouchers_paid.get() < vouchers as u64 {
        assert!(Instant::now() < deadline, "not settled within {SETTLE_SECONDS_MAX} s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (world.chain.gas_used() - before.0, world.chain.transactions() - before.1)
}

/// What one more voucher of each channel costs: the first one of a channel writes its figure for the first time and is the
/// dearest, every later one is as these.
async fn later_vouchers(world: &World, settling: &crate::Aggregator, channels: &[ChannelId], cumulative: u128) -> u64 {
    let before = (world.chain.gas_used(), world.chain.transactions());
    let vouchers: Vec<_> = channels.iter().map(|channel| world.voucher(*channel, cumulative)).collect();
    let (_, refused) = settling.submit(&[], &vouchers).await;
    assert!(refused.iter().all(Option::is_none));
    world.advance_s(3);
    settled(world, settling, 2 * channels.len(), before).await.0
}

// row: MKT-40, MKT-42, MKT-43
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_is_taken_settled_fetched_and_found_clean() {
    let wanted = std::env::var(RECEIPTS_VARIABLE).map_or(RECEIPTS_DEFAULT, |text| text.parse().unwrap());
    let world = World::new();
    let channels = channels(&world, wanted.div_ceil(RECEIPTS_PER_CHANNEL)).await;
    let (settling, _journal) = world.aggregator(|config| config.batch_receipts_max = 1 << 24).await;
    let net = SimNet::new(7, world.clock.clone());
    let (theirs, ours) = (net.node(NodeId([4; 32])), net.node(NodeId([2; 32])));
    let mut steps = Steps::begin();
    let of = |n: u64| channels[(n / RECEIPTS_PER_CHANNEL) as usize];
    let receipts: Vec<_> = (0..wanted).map(|n| world.receipt(of(n), n % RECEIPTS_PER_CHANNEL, 1)).collect();
    let shares = receipts.chunks(RECEIPTS_PER_CHANNEL as usize).map(|share| share.len() as u128);
    let vouchers: Vec<_> = channels.iter().zip(shares).map(|(channel, sum)| world.voucher(*channel, sum)).collect();
    steps.done("signed_by_both");
    let before = (world.chain.gas_used(), world.chain.transactions());
    let running = settling.run(&theirs).unwrap();
    let node = ours.dial(&theirs.listen_addresses()[0]).await.unwrap();
    let told = submit(&*ours, node, &receipts, &vouchers).await.unwrap();
    let promised = told.receipts.iter().filter(|outcome| matches!(outcome, Outcome::Promised(_))).count();
    assert_eq!(promised as u64, wanted);
    assert!(told.vouchers.iter().all(Option::is_none));
    steps.done("checked_stored_and_promised");
    world.advance_s(3);
    let (gas, transactions) = settled(&world, &settling, channels.len(), before).await;
    let batch = world.settlement.batch(world.client(), 1).await.unwrap();
    assert_eq!((u64::from(batch.count), batch.sum), (wanted, Wei(u128::from(wanted))));
    let first = u128::from(wanted.min(RECEIPTS_PER_CHANNEL * CHANNELS_PER_PAYOUT));
    assert_eq!(world.tokens_of(payout(1)).await, Wei(first), "the vouchers of the first account's channels are paid");
    steps.done("settled");
    let later_gas = later_vouchers(&world, &settling, &channels, u128::from(RECEIPTS_PER_CHANNEL) + 1).await;
    steps.done("settled_again");
    let source = NetworkSource::new(ours);
    source.know(aggregator().address(), node);
    let (promises, _) = world.journal("challenger");
    let stranger = Challenger::new(world.wallet(challenger()), &world.contracts, Arc::new(source), promises);
    let stranger = stranger.await.unwrap();
    assert_eq!(stranger.tick().await.unwrap(), [Verdict::Clean { id: 1 }]);
    steps.done("fetched_and_checked_again");
    drop(running);
    let result = json!({
        "receipts": wanted,
        "channels": channels.len(),
        "transactions": transactions,
        "gas": gas,
        "gas_per_receipt": rounded(gas as f64 / wanted as f64),
        "gas_of_later_vouchers": later_gas,
        "gas_of_later_vouchers_per_receipt": rounded(later_gas as f64 / wanted as f64),
        "steps": steps.done.into_iter().map(|(step, times)| (step.to_owned(), times)).collect::<serde_json::Map<_, _>>(),
    });
    println!("{result}");
    trellis_scenarios::proof::write("batch", &result);
}
