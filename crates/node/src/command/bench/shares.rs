//! What the chain takes of the compute that it pays for (CHN-52): CPU of each role while jobs run, settled to the end.

use super::usage::Usage;
use super::{rounded, shown};
use crate::control::ask;
use crate::failure::Failure;
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the roles are watched while nobody asks for anything.
const IDLE_SECONDS: u64 = 5;
/// How long after the last job the roles are watched on: a batch closes after 2 s on `dev`, then it is settled.
const SETTLE_SECONDS: u64 = 10;
/// What the chain may take of the compute (CHN-52).
const BAR_PCT: f64 = 5.0;

/// The roles of a network, by their processes.
pub struct Roles {
    processes: [(&'static str, u32); 4],
}

/// What each role used, in seconds of CPU.
#[derive(Clone, Copy, Default)]
struct Used {
    validator: f64,
    aggregator: f64,
    provider: f64,
    gateway: f64,
}

impl Roles {
    /// Finds the processes of `trellis dev`.
    pub async fn find(folder: &Path) -> Result<Self> {
        let mut processes = [("validator", 0), ("aggregator", 0), ("provider", 0), ("gateway", 0)];
        for (role, pid) in &mut processes {
            let status = ask(&folder.join(*role), "admin_status", Value::Null).await?;
            *pid = status["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok())
                .ok_or_else(|| Failure::new(format!("the {role} does not say which process it is")))?;
        }
        Ok(Self { processes })
    }

    fn look(&self) -> [Usage; 4] {
        self.processes.map(|(_, pid)| Usage::of(pid))
    }

    fn since(&self, before: &[Usage; 4]) -> Used {
        let after = self.look();
        let spent = |place: usize| match (after.get(place), before.get(place)) {
            (Some(after), Some(before)) => after.since(before).cpu_seconds,
            _ => 0.0,
        };
        Used { validator: spent(0), aggregator: spent(1), provider: spent(2), gateway: spent(3) }
    }

    /// Watches the roles idle, then while jobs run and until these are settled.
    ///
    /// # Errors
    /// The jobs' own.
    pub async fn watch(&self, jobs: impl Future<Output = Result<usize>>) -> Result<Value> {
        eprintln!("watching the network idle for {IDLE_SECONDS} s");
        let (before, began) = (self.look(), Instant::now());
        tokio::time::sleep(Duration::from_secs(IDLE_SECONDS)).await;
        let idle_chain = {
            let used = self.since(&before);
            (used.validator + used.aggregator) / began.elapsed().as_secs_f64()
        };
        eprintln!("watching it at work");
        let (before, began) = (self.look(), Instant::now());
        let count = jobs.await?;
        let busy_seconds = began.elapsed().as_secs_f64();
        let busy = self.since(&before);
        tokio::time::sleep(Duration::from_secs(SETTLE_SECONDS)).await;
        let mut used = self.since(&before);
        // What a role does after the last job but to idle is part of the jobs' price; idling itself is not.
        let idled = idle_chain * (began.elapsed().as_secs_f64() - busy_seconds);
        used.provider = busy.provider;
        Ok(figures(&used, idled, idle_chain, (count, busy_seconds)))
    }
}

/// The chain's part: all that validator and aggregator did while jobs ran, idle blocks too, and their settlement after.
fn figures(used: &Used, idled_after: f64, idle_cores: f64, (jobs, seconds): (usize, f64)) -> Value {
    #[allow(clippy::cast_precision_loss, reason = "a count of thousands")]
    let count = jobs.max(1) as f64;
    let per_job = |cpu_seconds: f64| cpu_seconds * 1e3 / count;
    let chain = (used.validator + used.aggregator - idled_after).max(0.0);
    let for_jobs = (chain - idle_cores * seconds).max(0.0);
    let percent = |part: f64| if used.provider > 0.0 { part / used.provider * 100.0 } else { 0.0 };
    json!({
        "jobs": jobs,
        "seconds": rounded(seconds),
        "provider_cpu_ms_per_job": rounded(per_job(used.provider)),
        "gateway_cpu_ms_per_job": rounded(per_job(used.gateway)),
        "chain_cpu_ms_per_job": rounded(per_job(chain)),
        "chain_cpu_ms_per_job_without_idling": rounded(per_job(for_jobs)),
        "chain_idle_cores": rounded(idle_cores),
        "chain_cpu_pct": rounded(percent(chain)),
        "chain_cpu_pct_without_idling": rounded(percent(for_jobs)),
        "bar_pct": BAR_PCT,
    })
}

/// Prints the figures for people.
pub fn print(shares: &Value) {
    println!(
        "the chain for each job: {} ms of CPU beside {} ms of the provider's ({} %; {} % without the blocks it makes anyway)",
        shown(&shares["chain_cpu_ms_per_job"]),
        shown(&shares["provider_cpu_ms_per_job"]),
        shown(&shares["chain_cpu_pct"]),
        shown(&shares["chain_cpu_pct_without_idling"]),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chains_part_is_of_the_providers_cpu_and_idling_after_the_jobs_is_not_in_it() {
        let used = Used { validator: 3.0, aggregator: 1.0, provider: 50.0, gateway: 5.0 };
        // 10 s after the jobs at 0.1 of a core: 1 s of the 4 is not theirs, 2 s of the other 3 are the 20 s of idling.
        let shares = figures(&used, 1.0, 0.1, (100, 20.0));
        assert_eq!(shares["chain_cpu_ms_per_job"], 30.0);
        assert_eq!(shares["chain_cpu_ms_per_job_without_idling"], 10.0);
        assert_eq!((&shares["chain_cpu_pct"], &shares["chain_cpu_pct_without_idling"]), (&json!(6.0), &json!(2.0)));
        assert_eq!(figures(&Used::default(), 1.0, 0.1, (0, 1.0))["chain_cpu_pct"], 0.0);
    }
}
