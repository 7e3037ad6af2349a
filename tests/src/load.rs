//! A mixed load: every kind of request, some cancelled in the middle, some at once.

use crate::api::{Answer, cancelled_job, chat, completion, job};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How many jobs a mixed load has; a proof sets it to the full size.
pub const JOBS_VARIABLE: &str = "TRELLIS_PROOF_JOBS";
/// Jobs of a mixed load where the variable says nothing: enough for every kind to come twice.
const JOBS_DEFAULT: u64 = 20;
/// The kinds repeat after so many jobs.
const GROUP_JOBS: u64 = 10;
/// From this place in a group on, jobs run at once.
const AT_ONCE_FROM: u64 = 5;
/// Tokens that a cancelled job asks for.
const CANCELLED_TOKENS: u64 = 250;
/// Bytes of its answer after which its client goes away: some tokens have come, and more would.
const CANCELLED_AFTER_BYTES: usize = 600;

/// What a mixed load did.
#[derive(Debug, Default, Clone)]
pub struct Load {
    /// Jobs in all.
    pub jobs: u64,
    /// Jobs whose client went away in the middle.
    pub cancelled: u64,
    /// Jobs that streamed, cancelled ones included.
    pub streamed: u64,
    /// Jobs that ran beside others.
    pub at_once: u64,
    /// What the answered ones cost, in wei.
    pub cost_wei: u128,
    /// Receipts that the answers named.
    pub receipts: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Load {
    /// For a proof.
    pub fn to_json(&self) -> Value {
        json!({
            "jobs": self.jobs,
            "cancelled": self.cancelled,
            "streamed": self.streamed,
            "at_once": self.at_once,
            "answered_cost_wei": self.cost_wei.to_string(),
            "seconds": (self.took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        })
    }

    /// Both loads together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.jobs += other.jobs;
        self.cancelled += other.cancelled;
        self.streamed += other.streamed;
        self.at_once += other.at_once;
        self.cost_wei += other.cost_wei;
        self.receipts.extend(other.receipts);
        self.took += other.took;
        self
    }

    fn count(&mut self, number: u64, answer: Option<&Answer>) {
        self.jobs += 1;
        self.at_once += u64::from(number % GROUP_JOBS >= AT_ONCE_FROM);
        self.streamed += u64::from(is_cancelled(number) || streams(number));
        match answer {
            Some(answer) => {
                self.cost_wei += answer.cost();
                self.receipts.push(answer.trellis["receipt"].as_str().unwrap_or_default().to_owned());
            }
            None => self.cancelled += 1,
        }
    }
}

/// The size of a mixed load: what [`JOBS_VARIABLE`] says, or small.
pub fn jobs_wanted() -> u64 {
    std::env::var(JOBS_VARIABLE).map_or(JOBS_DEFAULT, |text| text.parse().expect("TRELLIS_PROOF_JOBS is a number"))
}

const fn is_cancelled(number: u64) -> bool {
    matches!(number % GROUP_JOBS, 4 | 9)
}

const fn streams(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// Runs so many jobs: chats and completions, whole and streamed, of different lengths; of each ten the second five run
/// at once, and two are cancelled in the middle. Every other one must end with its receipt.
pub fn mixed(openai: &str, jobs: u64) -> Load {
    let began = Instant::now();
    let mut load = Load::default();
    for group in (0..jobs).step_by(GROUP_JOBS as usize) {
        let end = jobs.min(group + GROUP_JOBS);
        let apart = jobs.min(group + AT_ONCE_FROM);
        for number in group..apart {
            load.count(number, one(openai, number).as_ref());
        }
        let answers: Vec<(u64, Option<Answer>)> = std::thread::scope(|scope| {
            let running: Vec<_> =
                (apart..end).map(|number| scope.spawn(move || (number, one(openai, number)))).collect();
            running.into_iter().map(|job| job.join().expect("the client's thread")).collect()
        });
        for (number, answer) in answers {
            load.count(number, answer.as_ref());
        }
    }
    load.took = began.elapsed();
    load
}

/// One job; none where its client went away.
fn one(openai: &str, number: u64) -> Option<Answer> {
    let prompt = format!("Question {number}");
    if is_cancelled(number) {
        cancelled_job(openai, &chat(&prompt, CANCELLED_TOKENS, true), CANCELLED_AFTER_BYTES);
        return None;
    }
    let tokens = 1 + number * 7 % 64;
    let stream = streams(number);
    let body = if number % 4 < 2 { chat(&prompt, tokens, stream) } else { completion(&prompt, tokens, stream) };
    let answer = job(openai, body);
    assert!(answer.is_paid_answer(), "job {number}: {answer:?}");
    Some(answer)
}
