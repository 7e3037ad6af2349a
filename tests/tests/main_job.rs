//! The main job, end to end: asked, answered, paid, receipted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use trellis_scenarios::api::{cancelled_job, chat, completion, job};
use trellis_scenarios::chain::token_balance;
use trellis_scenarios::http::exchange;
use trellis_scenarios::network::{Network, ROLES};

/// How long the network may take until it is ready, while other builds use the machine.
const READY_SECONDS_MAX: u64 = 20;

// row: OPS-01, OPS-02, OPS-11, MKT-01, MKT-10, MKT-15
#[test]
fn one_command_gives_a_network_that_streams_an_answer_with_its_receipt() {
    let network = Network::start();
    assert!(network.ready_after.as_secs() < READY_SECONDS_MAX, "ready after {:?}", network.ready_after);
    assert!(network.banner.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), "{}", network.banner);
    assert!(network.banner.trim_end().lines().last().unwrap().starts_with("Ready"), "{}", network.banner);

    let (_, models) = exchange("GET", &format!("{}/models", network.openai()), &[], b"");
    assert_eq!(models["data"][0]["id"], "trellis-tiny", "{models}");

    let answer = job(&network.openai(), chat("What is the capital of France?", 12, true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    assert!(answer.pieces > 1 && !answer.text.is_empty(), "{answer:?}");
    assert!(answer.usage["completion_tokens"].as_u64().unwrap() <= 12 && answer.cost() > 0, "{answer:?}");
    let whole = job(&network.openai(), chat("What is the capital of France?", 12, false));
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

/// Jobs of the mixed load: small here; the full size is a proof.
const MIXED_JOBS: u64 = 20;
/// How long batching and settling may take.
const SETTLE_SECONDS_MAX: u64 = 60;

// row: MKT-20, MKT-21, MKT-30, MKT-31, MKT-32, MKT-40, OPS-06
#[test]
fn mixed_jobs_are_receipted_settled_on_the_chain_and_agreed_on_to_the_wei() {
    let network = Network::start();
    let (openai, rpc) = (network.openai(), network.rpc());
    let contracts = network.trellis(&["chain", "inspect", "--chain", "dev", "--json"]).succeeded().json();
    let token = contracts["contracts"]["wtrl"].as_str().unwrap().to_owned();
    let provider = network.status("provider")["account"].as_str().unwrap().to_owned();
    let before = token_balance(&rpc, &token, &provider);

    let mut answered = 0;
    for number in 0..MIXED_JOBS {
        let prompt = format!("Question {number}");
        let tokens = 1 + number * 3;
        if number == MIXED_JOBS / 2 {
            cancelled_job(&openai, &chat(&prompt, 250, true), 1);
            continue;
        }
        let stream = number % 2 == 0;
        let body = if number % 4 < 2 { chat(&prompt, tokens, stream) } else { completion(&prompt, tokens, stream) };
        let answer = job(&openai, body);
        assert!(answer.is_paid_answer(), "job {number}: {answer:?}");
        answered += answer.cost();
    }

    let promised = settled(&network, &rpc, before, || token_balance(&rpc, &token, &provider));
    assert!(promised >= answered, "the provider got {promised} for answers that cost {answered}");
    let audit = network.trellis(&["audit", "ledger", "--rpc", &rpc, "--json"]).succeeded().json();
    assert_eq!(audit["agrees"], true, "{audit}");
    assert!(audit["complete_jobs"].as_u64().unwrap() >= MIXED_JOBS - 1, "{audit}");
    let wallet = network.trellis(&["wallet", "list", "--json"]).succeeded().json();
    assert_eq!(wallet["accounts"].as_array().unwrap().len(), 4, "{wallet}");
    let locks = network.trellis(&["wallet", "where", "--json"]).succeeded().json();
    assert!(locks["locks"].to_string().contains("payment channel"), "{locks}");
    a_changed_receipt_does_not_verify(&network);
}

/// Waits until the provider's tokens grew by exactly what was promised in its channels; gives that sum.
fn settled(network: &Network, rpc: &str, before: u128, balance: impl Fn() -> u128) -> u128 {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(SETTLE_SECONDS_MAX);
    loop {
        let listed = network.trellis(&["channel", "list", "--json"]).succeeded().json();
        let channels = listed["channels"].as_array().unwrap();
        let sum = |side: &str| -> u128 {
            let own = channels.iter().filter(|channel| channel["side"] == side);
            own.map(|channel| channel["cumulative_wei"].as_str().unwrap().parse::<u128>().unwrap()).sum()
        };
        let (gateway, provider, grown) = (sum("gateway"), sum("provider"), balance() - before);
        if gateway > 0 && gateway == provider && provider == grown {
            return grown;
        }
        let state = format!("promised {gateway}, counted {provider}, paid on the chain {grown} ({rpc})");
        assert!(std::time::Instant::now() < deadline, "not settled within {SETTLE_SECONDS_MAX} s: {state}\n{listed}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

fn a_changed_receipt_does_not_verify(network: &Network) {
    let all = network.trellis(&["receipt", "verify", "all", "--json"]).succeeded().json();
    assert_eq!(all["bad"], 0, "{all}");
    assert!(all["verified"].as_u64().unwrap() >= 2 * (MIXED_JOBS - 1), "in both journals: {all}");
    let listed = network.trellis(&["receipt", "list", "--json"]).succeeded().json();
    let complete = listed["receipts"].as_array().unwrap().iter().find(|receipt| receipt["state"] == "complete");
    let id =
        complete.unwrap_or_else(|| panic!("no complete receipt: {listed}"))["receipt"].as_str().unwrap().to_owned();
    let mut receipt = network.trellis(&["receipt", "show", &id, "--json"]).succeeded().json();
    let file = network.folder().join("receipt.json");
    std::fs::write(&file, receipt.to_string()).unwrap();
    let path = file.to_string_lossy().into_owned();
    network.trellis(&["receipt", "verify", &path]).succeeded();
    let tokens = receipt["signed"]["receipt"]["tokens_out"].clone();
    receipt["signed"]["receipt"]["tokens_out"] = serde_json::json!(tokens.as_u64().expect("a count") + 1);
    std::fs::write(&file, receipt.to_string()).unwrap();
    let refused = network.trellis(&["receipt", "verify", &path]);
    assert_eq!(refused.code, 1, "{refused:?}");
}
