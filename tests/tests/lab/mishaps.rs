//! What befalls lines, machines and relays in the middle of a job, and how soon there is service again (NET-42, NET-45).

use super::{connected, retried, until};
use serde_json::{Value, json};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{Answer, completion, watched_job};
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::public::{OPENAI, Public, RPC, Relay, Validator, finds_a_provider, flags_at};
use trellis_scenarios::network::Node;
use trellis_scenarios::proof;

/// How often each mishap happens; the proof sets more.
const ROUNDS_VARIABLE: &str = "TRELLIS_PROOF_MISHAPS";
/// What the proof allows from the end of a mishap to the end of the next job. The gate, on a machine that does much else, has
/// [`super::RECOVERY_SECONDS_MAX`].
const PROVEN_SECONDS_MAX: f64 = 10.0;
/// How long a line is cut.
const CUT: Duration = Duration::from_secs(30);
/// How long a machine sleeps.
const SLEEP: Duration = Duration::from_secs(60);
/// Tokens of a job that is still running when its line is cut.
const LONG_JOB_TOKENS: u64 = 400;
/// Jobs begun until one is still running when its provider stands still: the model may end an answer early.
const JOBS_TRIED_MAX: usize = 10;

/// How the jobs fared that something happened to.
#[derive(Default)]
struct Tally(Vec<Value>);

impl Tally {
    fn add(&mut self, name: &str, job: &Answer, back: Duration) {
        let cause = job.error["message"].as_str().map_or_else(|| "the job went on".to_owned(), str::to_owned);
        println!("{name}: {cause}; another job was done after {:.1} s", back.as_secs_f64());
        self.0.push(json!({ "mishap": name, "job_survived": job.is_paid_answer(), "cause": job.error["code"], "service_after_s": back.as_secs_f64() }));
    }

    /// Leaves what was measured where a proof asked for it, and holds it to the proof's bar.
    fn end(self, name: &str) {
        if std::env::var_os(ROUNDS_VARIABLE).is_none() {
            return;
        }
        let late = |entry: &&Value| entry["service_after_s"].as_f64().is_none_or(|s| s > PROVEN_SECONDS_MAX);
        let late: Vec<&Value> = self.0.iter().filter(late).collect();
        assert!(late.is_empty(), "later than {PROVEN_SECONDS_MAX} s: {late:?}");
        proof::write(name, &json!({ "bar_s": PROVEN_SECONDS_MAX, "mishaps": self.0 }));
    }
}

fn rounds() -> usize {
    std::env::var(ROUNDS_VARIABLE).map_or(1, |text| text.parse().expect("a number of rounds"))
}

/// What happens to the line or to the machine while a job runs.
type Mishap<'a> = &'a (dyn Fn() + Sync);

/// A job at a home that is running when something happens; gives its end, and the first job after it with how long that took.
fn through(lab: &Lab, provider: &Node, host: &str, mishap: Mishap<'_>) -> (Answer, Duration) {
    (0..JOBS_TRIED_MAX)
        .find_map(|_| while_a_job_runs(lab, provider, host, mishap))
        .expect("a job that runs when something happens to it")
}

/// The same with one job; none where the model had ended it before anything could happen.
fn while_a_job_runs(lab: &Lab, provider: &Node, host: &str, mishap: Mishap<'_>) -> Option<(Answer, Duration)> {
    let (began, first_piece) = mpsc::channel();
    std::thread::scope(|scope| {
        let body = completion("Once upon a time", LONG_JOB_TOKENS, true);
        let job = scope.spawn(move || {
            let mut on_piece = |pieces| {
                if pieces == 1 {
                    let _ = began.send(());
                }
            };
            lab.inside(host, || watched_job(OPENAI, body, &mut on_piece))
        });
        first_piece.recv_timeout(connected()).expect("the stream begins");
        // The provider stands still meanwhile, so that the change is in the middle however fast the model is.
        provider.pause();
        if job.is_finished() {
            provider.resume();
            return None;
        }
        mishap();
        provider.resume();
        let over = Instant::now();
        retried(lab, host, over);
        let back = over.elapsed();
        let answer = job.join().unwrap();
        let named = answer.error["code"].is_string() && answer.error["message"].is_string();
        assert!(answer.is_paid_answer() || named, "neither finished nor failed with a cause: {answer:?}");
        Some((answer, back))
    })
}

// row: NET-45
#[test]
fn a_new_public_address_or_a_restarted_router_in_the_middle_of_a_stream_does_not_end_the_job() {
    let lab = Lab::up(&["port-restricted", "symmetric"]);
    let public = Public::start(&lab);
    let mut tally = Tally::default();
    for (number, host, home) in [(0, "h1", "port-restricted"), (1, "h2", "symmetric")] {
        let _gateway = public.gateway(&lab, host, number);
        assert!(finds_a_provider(&lab, host, connected()), "no provider");
        for _ in 0..rounds() {
            for change in ["renumber", "reset-nat"] {
                let (answer, back) = through(&lab, &public.provider, host, &|| drop(lab.natlab(&[change, host])));
                tally.add(&format!("{change}, {home}"), &answer, back);
                assert!(answer.is_paid_answer(), "{host} {change}: {answer:?}");
            }
        }
    }
    tally.end("new-address");
}

// row: NET-45
#[test]
fn a_cut_line_and_a_machine_that_sleeps_cost_at_most_the_job_and_say_why() {
    let lab = Lab::up(&["port-restricted"]);
    let public = Public::start(&lab);
    let gateway = public.gateway(&lab, "h1", 0);
    assert!(finds_a_provider(&lab, "h1", connected()), "no provider");
    let cut = || {
        lab.natlab(&["partition", "h1"]);
        std::thread::sleep(CUT);
        lab.natlab(&["heal"]);
    };
    let sleep = || {
        gateway.pause();
        std::thread::sleep(SLEEP);
        gateway.resume();
    };
    let mut tally = Tally::default();
    for _ in 0..rounds() {
        for (name, mishap) in [("line cut for 30 s", &cut as Mishap<'_>), ("machine asleep for 60 s", &sleep)] {
            let (answer, back) = through(&lab, &public.provider, "h1", mishap);
            tally.add(name, &answer, back);
        }
    }
    tally.end("cut-and-sleep");
}

/// The address at which a node has another connected.
fn address_of(node: &Node, peer: &Value) -> String {
    let listed = node.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let peers = listed["peers"].as_array().unwrap();
    let entry = peers.iter().find(|entry| entry["id"] == *peer).unwrap_or_else(|| panic!("{peer} in {listed:#}"));
    entry["address"].as_str().unwrap().to_owned()
}

// row: NET-42
#[test]
fn a_relay_killed_in_the_middle_of_a_stream_costs_at_most_that_job_and_the_next_goes_over_another() {
    let mut tally = Tally::default();
    for _ in 0..rounds() {
        kill_a_relay(&mut tally);
    }
    tally.end("relay-killed");
}

fn kill_a_relay(tally: &mut Tally) {
    let lab = Lab::up(&["symmetric", "symmetric"]);
    let relays = [Relay::start(&lab, "11.202.0.2", 12), Relay::start(&lab, "11.202.0.3", 14)];
    let peers = format!("{},{}", relays[0].peers, relays[1].peers);
    let validator = Validator::start(&lab);
    let flags = |role: &'static str, port, account, more: &[&str]| {
        let all = ["--rpc", RPC, "--peers", &peers, "--outbound-min", "32"];
        flags_at(role, "0.0.0.0", port, account, &[&all[..], more].concat())
    };
    let provider = lab.node("h1", &flags("provider", 9701, 0, &[]).words());
    let gateway = lab.node("h2", &flags("gateway", 9702, 1, &["--http-listen", "127.0.0.1:8080"]).words());
    assert!(finds_a_provider(&lab, "h2", connected()), "no provider over the relays");
    let reserved = |status: &Value| {
        let relays = status["reach"]["relays"].as_array().cloned().unwrap_or_default();
        relays.iter().filter(|relay| relay["stage"] == "reserved").count() == 2
    };
    until(|| provider.status(), reserved);
    assert!(retried(&lab, "h2", Instant::now()).is_paid_answer());
    let way = address_of(&gateway, &provider.status()["node_id"]);
    let used = relays.iter().find(|relay| way.contains(&relay.ip)).unwrap_or_else(|| panic!("no relay in {way}"));
    let (answer, back) = through(&lab, &provider, "h2", &|| used.node.kill());
    tally.add("relay killed", &answer, back);
    drop(validator);
}
