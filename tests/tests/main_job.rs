//! The main job, end to end: asked, answered, paid, receipted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::http::exchange;
use trellis_scenarios::ledger::{
    Income, RECEIPT_FIELDS, audited, every_receipt_verifies_and_no_changed_one, half_signed, half_signed_jobs,
    no_job_is_paid_twice, receipts, wei, within_the_risk_limit,
};
use trellis_scenarios::load::{Load, jobs_wanted, mixed};
use trellis_scenarios::network::{Network, ROLES};
use trellis_scenarios::proof;

/// How long closing may take: the challenge period of the chain `dev` is 10 s.
const CLOSE_SECONDS_MAX: u64 = 90;
/// How long an aggregator that stood still may take until its next batch is on the chain.
const BATCH_SECONDS_MAX: u64 = 120;

// row: OPS-01, OPS-02, OPS-11, MKT-01, MKT-10, MKT-15
#[test]
fn one_command_gives_a_network_that_streams_an_answer_with_its_receipt() {
    let network = Network::start();
    assert!(network.banner.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), "{}", network.banner);
    assert!(network.banner.trim_end().lines().last().unwrap().starts_with("Ready"), "{}", network.banner);

    let (_, models) = exchange("GET", &format!("{}/models", network.openai()), &[], b"");
    assert_eq!(models["data"][0]["id"], "trellis-tiny", "{models}");

    let greedy = |stream| {
        let mut body = chat("What is the capital of France?", 12, stream);
        body["temperature"] = 0.into();
        body
    };
    let answer = job(&network.openai(), greedy(true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    assert!(answer.pieces > 1 && !answer.text.is_empty(), "{answer:?}");
    assert!(answer.usage["completion_tokens"].as_u64().unwrap() <= 12 && answer.cost() > 0, "{answer:?}");
    let whole = job(&network.openai(), greedy(false));
    assert_eq!(whole.text, answer.text, "greedy decoding gives the same words in both forms");
    network.stop();
}

// row: OPS-02
#[test]
fn the_curl_line_of_the_banner_works_when_it_is_pasted() {
    let network = Network::start();
    let line = network.banner.lines().find(|line| line.trim().starts_with("curl ")).expect("a curl line").trim();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", line]);
    let ended = trellis_scenarios::program::run(shell).succeeded();
    assert!(ended.stdout.contains("\"content\":") && ended.stdout.contains("data: [DONE]"), "{ended:?}");
}

// row: NET-01, NET-10, NET-70
#[test]
fn every_node_knows_its_peers_and_every_link_is_post_quantum() {
    let network = Network::start();
    for role in ROLES {
        let listed =
            network.trellis(&["peer", "list", "--filter", "connected", "--role", role, "--json"]).succeeded().json();
        let peers = listed["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 3, "peers of the {role}: {listed}");
        for peer in peers {
            assert_eq!(peer["key_exchange"], "X25519MLKEM768", "{peer}");
            assert_eq!(peer["mldsa_authenticated"], true, "{peer}");
        }
    }
}

/// Which way money leaves the channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doors {
    /// The aggregator settles batches.
    Settlement,
    /// The payer closes, and the provider redeems its voucher.
    Close,
    /// First the one, then the other.
    Both,
}

/// Runs the mixed load, has it paid through the doors, and checks every sum and every receipt.
fn mixed_jobs_are_paid_through(doors: Doors) {
    let network = Network::start();
    let (openai, jobs) = (network.openai(), jobs_wanted());
    let income = Income::of_provider(&network);
    let mut load = Load::default();
    if doors != Doors::Close {
        let part = if doors == Doors::Both { jobs / 2 } else { jobs };
        load = load.and(mixed(&openai, part));
        income.wait_for_promised(&network);
    }
    let mut closed = 0;
    if doors != Doors::Settlement {
        network.freeze("aggregator");
        let settled = income.grown();
        let rest = jobs - load.jobs;
        load = load.and(mixed(&openai, rest));
        audited(&network, jobs);
        assert_eq!(income.grown(), settled, "nobody settles while the aggregator stands still");
        closed = close_all_channels(&network);
        network.thaw("aggregator");
        after_the_next_batch(&network);
    }
    let paid = income.wait_for_promised(&network);
    let report = audited(&network, jobs);
    checked_to_the_wei(&network, &report, &load, paid);
    let (verified, refused) = every_receipt_verifies_and_no_changed_one(&network);
    let result = json!({
        "load": load.to_json(),
        "ready_seconds": network.ready_after.as_secs_f64(),
        "paid_wei": paid.to_string(),
        "complete_jobs": report["complete_jobs"],
        "half_signed_jobs": half_signed_jobs(&report),
        "receipts_verified_in_both_journals": verified,
        "receipts_with_one_field_changed_refused": refused,
        "fields": RECEIPT_FIELDS.len(),
        "channels_closed": closed,
        "totals": report["totals"],
    });
    proof::write(&format!("{doors:?}").to_lowercase(), &result);
}

/// The payer closes every channel; the provider must have redeemed its voucher before the challenge period is over.
fn close_all_channels(network: &Network) -> usize {
    let listed = network.trellis(&["channel", "list", "--json"]).succeeded().json();
    let own = listed["channels"].as_array().unwrap().iter().filter(|channel| channel["side"] == "gateway");
    let ids: Vec<String> = own.map(|channel| channel["channel"].as_str().unwrap().to_owned()).collect();
    for id in &ids {
        let begun = network.trellis(&["channel", "close", id]).succeeded().json();
        assert_eq!(begun["state"], "closing", "{begun}");
    }
    let deadline = Instant::now() + Duration::from_secs(CLOSE_SECONDS_MAX);
    for id in &ids {
        // The command is refused until the challenge period is over.
        while network.trellis(&["channel", "close", id]).code != 0 {
            assert!(Instant::now() < deadline, "the channel {id} is not closed within {CLOSE_SECONDS_MAX} s");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    ids.len()
}

/// Waits until the aggregator has brought the receipts to the chain: their vouchers are paid already, and must not be again.
fn after_the_next_batch(network: &Network) {
    let batches = || network.metric("aggregator", "trellis_settlement_batches_submitted_total", "");
    let (before, deadline) = (batches(), Instant::now() + Duration::from_secs(BATCH_SECONDS_MAX));
    while batches() <= before {
        assert!(Instant::now() < deadline, "no batch within {BATCH_SECONDS_MAX} s after the aggregator went on");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The sums of money.md over a settled network.
fn checked_to_the_wei(network: &Network, report: &Value, load: &Load, paid: u128) {
    assert_eq!(report["faults"], json!([]), "{report}");
    assert!(report["complete_jobs"].as_u64().unwrap() >= load.jobs - load.cancelled, "{report}");
    assert!(paid >= load.cost_wei, "the provider got {paid} for answers that cost {}", load.cost_wei);
    let all = receipts(network);
    for journal in ["gateway", "provider"] {
        let complete = all.iter().filter(|one| one["journal"] == journal && one["state"] == "complete");
        let costs: u128 = complete.map(|one| wei(&one["cost_wei"])).sum();
        let halves = half_signed(report).iter().filter(|half| half["side"] == journal);
        let signed: u128 = halves.map(|half| wei(&half["signed"])).sum();
        assert_eq!(costs + signed, paid, "what the {journal}'s jobs cost is what the provider got");
    }
    for named in &load.receipts {
        let kept = all.iter().filter(|one| one["receipt"] == *named && one["state"] == "complete").count();
        assert_eq!(kept, 2, "the receipt {named} that a client was told of is complete in both journals");
    }
    let totals = &report["totals"];
    assert_eq!(wei(&totals["paid"]), paid, "{totals}");
    assert_eq!(
        wei(&totals["deposits"]),
        ["paid", "fees", "locked", "returned"].iter().map(|part| wei(&totals[*part])).sum::<u128>(),
        "{totals}"
    );
    no_job_is_paid_twice(network, report);
    within_the_risk_limit(network, report);
}

// row: MKT-20, MKT-21, MKT-30, MKT-31, MKT-40, OPS-06
#[test]
fn mixed_jobs_are_receipted_settled_in_batches_and_agreed_on_to_the_wei() {
    mixed_jobs_are_paid_through(Doors::Settlement);
}

// row: MKT-30, MKT-31, MKT-32, MKT-41
#[test]
fn mixed_jobs_are_paid_to_the_wei_when_the_payer_closes_and_nobody_settles() {
    mixed_jobs_are_paid_through(Doors::Close);
}

// row: MKT-30, MKT-31, MKT-32, MKT-41
#[test]
fn mixed_jobs_are_paid_once_to_the_wei_through_both_doors() {
    mixed_jobs_are_paid_through(Doors::Both);
}

// row: MKT-32
#[test]
fn the_wallet_shows_every_account_and_where_money_is_locked() {
    let network = Network::start();
    assert!(job(&network.openai(), chat("Hello", 4, false)).is_paid_answer());
    let wallet = network.trellis(&["wallet", "list", "--json"]).succeeded().json();
    assert_eq!(wallet["accounts"].as_array().unwrap().len(), 4, "{wallet}");
    let locks = network.trellis(&["wallet", "where", "--json"]).succeeded().json();
    assert!(locks["locks"].to_string().contains("payment channel"), "{locks}");
}
