//! What both sides' journals and the chain say of the money.

use crate::chain::token_balance;
use crate::network::Network;
use crate::program::trellis_in;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long batching, settling or redeeming may take on a loaded machine.
const SETTLE_SECONDS_MAX: u64 = 120;
/// Between two looks.
const LOOK_MS: u64 = 300;

/// Every field of receipt version 1, as its JSON names it.
pub const RECEIPT_FIELDS: [&str; 29] = [
    "version",
    "chain_id",
    "channels",
    "aggregator",
    "channel",
    "sequence",
    "job",
    "gateway",
    "provider",
    "model_digest",
    "tokenizer_digest",
    "engine_build",
    "instruction_set",
    "request_digest",
    "parameters_hash",
    "prompt_commitment",
    "output_digest",
    "fingerprint_root",
    "tokens_in",
    "tokens_out",
    "finish_reason",
    "started_at",
    "time_to_first_token_ms",
    "duration_ms",
    "price_in",
    "price_out",
    "cost",
    "written_off",
    "error_hash",
];

/// Wei of a field.
pub fn wei(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount of wei"))
}

/// Every receipt of both journals, oldest first, as `receipt list --json` shows it.
pub fn receipts(network: &Network) -> Vec<Value> {
    let listed = network.trellis(&["receipt", "list", "--limit", "1000000", "--json"]).succeeded().json();
    listed["receipts"].as_array().cloned().unwrap_or_else(|| panic!("no receipts in {listed}"))
}

/// The provider's account and its tokens, watched from a beginning.
pub struct Income {
    rpc: String,
    token: String,
    account: String,
    before: u128,
}

impl Income {
    /// Begins with what the account has now.
    pub fn of_provider(network: &Network) -> Self {
        let chain = network.trellis(&["chain", "inspect", "--chain", "dev", "--json"]).succeeded().json();
        let token = chain["contracts"]["wtrl"].as_str().expect("the token's address").to_owned();
        let account = network.status("provider")["account"].as_str().expect("the provider's account").to_owned();
        let rpc = network.rpc();
        let before = token_balance(&rpc, &token, &account);
        Self { rpc, token, account, before }
    }

    /// Tokens that came since, in wei.
    pub fn grown(&self) -> u128 {
        let now = token_balance(&self.rpc, &self.token, &self.account);
        now.checked_sub(self.before).expect("the provider's balance never shrinks")
    }

    /// Waits until exactly what both sides say was promised has come; gives that sum.
    pub fn wait_for_promised(&self, network: &Network) -> u128 {
        let deadline = Instant::now() + Duration::from_secs(SETTLE_SECONDS_MAX);
        loop {
            let listed = network.trellis(&["channel", "list", "--json"]).succeeded().json();
            let (gateway, provider, grown) =
                (promised(&listed, "gateway"), promised(&listed, "provider"), self.grown());
            if gateway > 0 && gateway == provider && provider == grown {
                return grown;
            }
            let state = format!("promised {gateway}, counted {provider}, paid on the chain {grown}");
            assert!(grown <= gateway, "more was paid than was promised: {state}\n{listed}");
            assert!(Instant::now() < deadline, "not paid within {SETTLE_SECONDS_MAX} s: {state}\n{listed}");
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
    }
}

/// What the channels of one side come to.
fn promised(listed: &Value, side: &str) -> u128 {
    let channels = listed["channels"].as_array().unwrap_or_else(|| panic!("no channels in {listed}"));
    channels.iter().filter(|channel| channel["side"] == side).map(|channel| wei(&channel["cumulative_wei"])).sum()
}

/// Waits until the auditor finds nothing and every one of so many jobs is complete on both sides or half-signed; gives its report.
pub fn audited(network: &Network, jobs: u64) -> Value {
    let deadline = Instant::now() + Duration::from_secs(SETTLE_SECONDS_MAX);
    let rpc = network.rpc();
    loop {
        let audit = network.trellis(&["audit", "ledger", "--rpc", &rpc, "--json"]);
        if audit.code == 0 {
            let report = audit.json();
            let half: BTreeSet<&str> = half_signed(&report).iter().filter_map(|half| half["job"].as_str()).collect();
            if report["complete_jobs"].as_u64().unwrap_or_default() + half.len() as u64 >= jobs {
                assert_eq!(report["agrees"], true, "{report}");
                return report;
            }
        }
        assert!(Instant::now() < deadline, "the ledgers do not agree on {jobs} jobs: {audit:?}");
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

/// The half-signed jobs of an auditor's report.
pub fn half_signed(report: &Value) -> &[Value] {
    report["half_signed"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// How many jobs are half-signed on one side or on both.
pub fn half_signed_jobs(report: &Value) -> usize {
    half_signed(report).iter().filter_map(|half| half["job"].as_str()).collect::<BTreeSet<_>>().len()
}

/// No more than the risk limit is written off for any job, and by no more do the sides differ; gives the limit, in wei.
pub fn within_the_risk_limit(network: &Network, report: &Value) -> u128 {
    let settings = trellis_in(&network.folder().join("provider"), &["config", "show", "--json"]).succeeded().json();
    let limit = wei(&settings["risk_limit_wei"]["value"]);
    for half in half_signed(report) {
        assert!(wei(&half["written_off"]) <= limit, "more than {limit} was written off: {half}");
        assert!(wei(&half["bound"]) <= limit, "the sides may differ by more than {limit}: {half}");
    }
    for receipt in receipts(network) {
        assert!(wei(&receipt["written_off_wei"]) <= limit, "more than {limit} was written off: {receipt}");
    }
    limit
}

/// Verifies every receipt of both journals by the command, then each again with one field changed, which must not verify.
/// Gives how many verified and how many changed ones were refused.
pub fn every_receipt_verifies_and_no_changed_one(network: &Network) -> (u64, u64) {
    let all = network.trellis(&["receipt", "verify", "all", "--json"]).succeeded().json();
    assert_eq!(all["bad"], 0, "{all}");
    let complete: Vec<Value> = receipts(network).into_iter().filter(|receipt| receipt["state"] == "complete").collect();
    assert!(!complete.is_empty(), "no complete receipt");
    assert_eq!(all["verified"], complete.len(), "the command verifies what is complete");
    let unchanged = verdicts(network, &complete);
    assert!(unchanged.iter().all(|verdict| verdict["verifies"] == true), "{unchanged:?}");
    let (mut changed, mut names) = (Vec::new(), Vec::new());
    for receipt in &complete {
        for (field, other) in changes(receipt) {
            names.push(field);
            changed.push(other);
        }
    }
    let refused = verdicts(network, &changed);
    assert_eq!(refused.len(), changed.len());
    for (field, verdict) in names.iter().zip(&refused) {
        assert_eq!(verdict["verifies"], false, "a receipt with another {field} verifies: {verdict}");
        assert!(verdict["fault"].as_str().is_some_and(|fault| !fault.is_empty()), "no reason: {verdict}");
    }
    (complete.len() as u64, changed.len() as u64)
}

/// What the command says of each receipt of a file.
fn verdicts(network: &Network, receipts: &[Value]) -> Vec<Value> {
    let file = network.folder().join("receipts.json");
    std::fs::write(&file, json!({"receipts": receipts}).to_string()).expect("the file is written");
    let ended = network.trellis(&["receipt", "verify", &file.to_string_lossy(), "--json"]);
    let answer = ended.json();
    let bad = answer["bad"].as_u64().unwrap_or_else(|| panic!("{ended:?}"));
    assert_eq!(ended.code, i32::from(bad > 0), "the exit code tells: {bad} do not verify");
    answer["receipts"].as_array().cloned().expect("a verdict each")
}

/// A receipt once for each field and signature, with that one changed.
fn changes(receipt: &Value) -> Vec<(&'static str, Value)> {
    let fields = receipt["signed"]["receipt"].as_object().expect("the receipt's fields");
    let known: BTreeSet<&str> = RECEIPT_FIELDS.into_iter().collect();
    assert_eq!(fields.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "the fields of receipt version 1");
    let mut changes = Vec::new();
    for field in RECEIPT_FIELDS {
        let mut other = receipt.clone();
        other["signed"]["receipt"][field] = another(field, &fields[field]);
        changes.push((field, other));
    }
    for signature in ["gateway_signature", "provider_signature"] {
        let mut other = receipt.clone();
        let text = receipt["signed"][signature].as_str().expect("a signature");
        // A digit in the middle of r: the bytes at the end are the recovery id.
        let (head, tail) = text.split_at(20);
        let digit = if tail.starts_with('0') { "1" } else { "0" };
        other["signed"][signature] = json!(format!("{head}{digit}{}", &tail[1..]));
        changes.push((signature, other));
    }
    changes
}

/// Another value of the same form.
fn another(field: &str, value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_u64().expect("a count") + 1),
        Value::String(text) if field == "finish_reason" => json!(if text == "stop" { "length" } else { "stop" }),
        Value::String(text) if text.parse::<u128>().is_ok() && text.len() < 40 => {
            json!((text.parse::<u128>().expect("wei") + 1).to_string())
        }
        Value::String(text) => {
            let (head, last) = text.split_at(text.len() - 1);
            json!(format!("{head}{}", if last == "0" { "1" } else { "0" }))
        }
        other => panic!("{field} is {other}, which no field of a receipt is"),
    }
}

/// No job is paid twice: no two jobs share a receipt or a place in their channel, both journals hold the same receipt of a
/// job, and the costs add up to what each side's vouchers promised.
pub fn no_job_is_paid_twice(network: &Network, report: &Value) {
    let all = receipts(network);
    for journal in ["gateway", "provider"] {
        let own: Vec<&Value> = all.iter().filter(|receipt| receipt["journal"] == journal).collect();
        let jobs: BTreeSet<&str> = own.iter().filter_map(|receipt| receipt["job"].as_str()).collect();
        let hashes: BTreeSet<&str> = own.iter().filter_map(|receipt| receipt["receipt"].as_str()).collect();
        let places: BTreeSet<String> = own
            .iter()
            .map(|receipt| &receipt["signed"]["receipt"])
            .map(|receipt| format!("{} {}", receipt["channel"], receipt["sequence"]))
            .collect();
        let counts = (jobs.len(), hashes.len(), places.len());
        assert_eq!(counts, (own.len(), own.len(), own.len()), "two receipts of the {journal} are of one job or place");
    }
    for ours in all.iter().filter(|receipt| receipt["journal"] == "gateway" && receipt["state"] == "complete") {
        let same = |other: &&Value| other["journal"] == "provider" && other["job"] == ours["job"];
        if let Some(theirs) = all.iter().find(same) {
            assert_eq!(theirs["receipt"], ours["receipt"], "the sides have different receipts of one job");
        }
    }
    for channel in report["channels"].as_array().expect("channels") {
        for side in channel["sides"].as_array().expect("sides") {
            assert_eq!(side["costs"], side["cumulative"], "costs and promises differ: {channel}");
            assert!(wei(&channel["paid"]) <= wei(&side["cumulative"]), "more was paid than promised: {channel}");
        }
    }
}
