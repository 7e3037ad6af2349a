//! What is said of a measured chain, and what follows from it for validators with cores of their own.

use super::super::flow::Outcome;
use super::super::usage::Spent;
use super::super::{rounded, shown};
use crate::table;
use serde_json::{Value, json};

/// Cores of a validator's own that are extrapolated to.
const CORES_EACH: f64 = 2.0;
/// Bytes in a MiB.
const MIB: f64 = 1_048_576.0;
/// Transfers a second that are asked of four validators (CHN-55).
const BAR_TPS: f64 = 10_000.0;

/// The figures of one load.
pub fn figures(outcome: &Outcome, rate: Option<f64>) -> Value {
    let cpu: Vec<f64> = outcome.servers.iter().map(|spent| spent.cpu_seconds).collect();
    let (memory, peak) = (mib(&outcome.memory_bytes), mib(&outcome.memory_peak_bytes));
    let busiest = busiest(outcome);
    json!({
        "offered_tps": rate.map(rounded),
        "tps": rounded(outcome.tps()),
        "transactions": outcome.transactions,
        "seconds": rounded(outcome.seconds),
        "blocks": outcome.blocks,
        "final_ms_p50": rounded(outcome.wait_ms(0.5)),
        "final_ms_p99": rounded(outcome.wait_ms(0.99)),
        "between_blocks_ms_p50": rounded(outcome.between_blocks_ms(0.5)),
        "between_blocks_ms_p99": rounded(outcome.between_blocks_ms(0.99)),
        "cpu_seconds_per_validator": rounded(mean(&cpu)),
        "cpu_seconds_per_validator_max": rounded(max(&cpu)),
        "cpu_us_per_tx_per_validator": rounded(outcome.us_per_tx(mean(&cpu))),
        "cpu_us_per_tx_all_validators": rounded(outcome.us_per_tx(cpu.iter().sum())),
        "busiest_thread": busiest.busiest_thread,
        "busiest_thread_us_per_tx": rounded(outcome.us_per_tx(busiest.busiest_thread_seconds)),
        "memory_mib_per_validator": rounded(mean(&memory)),
        "memory_mib_per_validator_max": rounded(max(&memory)),
        "memory_peak_mib_per_validator_max": rounded(max(&peak)),
        "generator_cpu_seconds": rounded(outcome.generator.cpu_seconds),
        "generator_cpu_us_per_tx": rounded(outcome.us_per_tx(outcome.generator.cpu_seconds)),
    })
}

#[allow(clippy::cast_precision_loss, reason = "counts of bytes")]
fn mib(bytes: &[u64]) -> Vec<f64> {
    bytes.iter().map(|bytes| *bytes as f64 / MIB).collect()
}

/// The busiest thread of all validators.
fn busiest(outcome: &Outcome) -> Spent {
    let by_thread = |one: &&Spent, other: &&Spent| one.busiest_thread_seconds.total_cmp(&other.busiest_thread_seconds);
    outcome.servers.iter().max_by(by_thread).cloned().unwrap_or_default()
}

/// What one validator could do alone on cores of its own, from what it used here: of its cores the part that empty
/// blocks take is gone, the rest is divided by the CPU of a transfer; and no thread can use more than one core. It says
/// nothing of networks and disks, and supposes that the work spreads evenly over both cores.
pub fn extrapolation(outcome: &Outcome, idle_cores: f64) -> Value {
    // The validator that used most is the one that the others would wait for.
    let cpu = max(&outcome.servers.iter().map(|spent| spent.cpu_seconds).collect::<Vec<_>>());
    let for_transfers = (cpu - idle_cores * outcome.seconds).max(0.0);
    let by_cpu = reckoned((CORES_EACH - idle_cores).max(0.0), outcome.us_per_tx(for_transfers));
    let by_thread = reckoned(1.0, outcome.us_per_tx(busiest(outcome).busiest_thread_seconds));
    let tps = by_cpu.min(by_thread);
    json!({
        "note": "extrapolated, not measured: what one validator could execute on cores of its own, from its CPU per transfer here",
        "cores_each": CORES_EACH,
        "tps": rounded(tps),
        "tps_by_cpu": rounded(by_cpu),
        "tps_by_busiest_thread": rounded(by_thread),
        "bar_tps": BAR_TPS,
        "reaches_bar_tps": tps >= BAR_TPS,
    })
}

/// Transfers a second on so many cores.
fn reckoned(cores: f64, us_per_tx: f64) -> f64 {
    if us_per_tx > 0.0 { cores * 1e6 / us_per_tx } else { 0.0 }
}

fn mean(numbers: &[f64]) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "at most a hundred")]
    let count = numbers.len().max(1) as f64;
    numbers.iter().sum::<f64>() / count
}

fn max(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(0.0, f64::max)
}

/// Prints the result for people.
pub fn print(result: &Value) {
    let (validators, cores) = (&result["validators"], &result["machine_cores"]);
    println!(
        "{validators} validators, one process each, on {cores} cores that the load generator also uses; a block every {} ms\n",
        result["block_time_ms"]
    );
    let loads = [("burst", &result["burst"]), ("sustained", &result["sustained"])];
    let row = |name: &str, load: &Value, keys: &[&str]| {
        std::iter::once(name.to_owned()).chain(keys.iter().map(|key| shown(&load[*key]))).collect::<Vec<_>>()
    };
    let rows = |keys: &[&str]| loads.iter().map(|(name, load)| row(name, load, keys)).collect::<Vec<_>>();
    table::print(
        &["LOAD", "OFFERED/s", "TRANSFERS/s", "FINAL p50 ms", "p99 ms", "BLOCK AFTER BLOCK p50 ms", "p99 ms"],
        &rows(&[
            "offered_tps",
            "tps",
            "final_ms_p50",
            "final_ms_p99",
            "between_blocks_ms_p50",
            "between_blocks_ms_p99",
        ]),
    );
    println!();
    table::print(
        &[
            "LOAD",
            "CPU s/VALIDATOR",
            "CPU us/TRANSFER AND VALIDATOR",
            "ALL VALIDATORS us",
            "GENERATOR us",
            "MiB/VALIDATOR",
        ],
        &rows(&[
            "cpu_seconds_per_validator",
            "cpu_us_per_tx_per_validator",
            "cpu_us_per_tx_all_validators",
            "generator_cpu_us_per_tx",
            "memory_mib_per_validator",
        ]),
    );
    print_extrapolation(result);
}

fn print_extrapolation(result: &Value) {
    let reckoned = &result["extrapolation"];
    println!(
        "\nIdle, a validator uses {} of a core. Final: from hand-over (when it was due) to the block in a client's hands.",
        shown(&result["idle_cores_per_validator"])
    );
    println!(
        "\nExtrapolated, not measured: with {:.0} cores of its own each validator could do {:.0} transfers a second\n  \
         (by its CPU for a transfer {:.0}, by its busiest thread `{}` {:.0}; networks and disks left out).",
        reckoned["cores_each"].as_f64().unwrap_or_default(),
        reckoned["tps"].as_f64().unwrap_or_default(),
        reckoned["tps_by_cpu"].as_f64().unwrap_or_default(),
        result["sustained"]["busiest_thread"].as_str().unwrap_or("-"),
        reckoned["tps_by_busiest_thread"].as_f64().unwrap_or_default(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cpu_seconds: f64, thread_seconds: f64) -> Outcome {
        let spent = |cpu_seconds| Spent {
            cpu_seconds,
            busiest_thread_seconds: thread_seconds,
            busiest_thread: "producer".into(),
        };
        Outcome {
            transactions: 10_000,
            seconds: 10.0,
            waits_ms: vec![400.0, 500.0, 900.0],
            between_ms: vec![500.0],
            blocks: 2,
            last_block: 7,
            servers: vec![spent(cpu_seconds / 2.0), spent(cpu_seconds)],
            memory_bytes: vec![1 << 20, 3 << 20],
            memory_peak_bytes: vec![2 << 20, 4 << 20],
            generator: Spent::default(),
        }
    }

    #[test]
    fn what_is_extrapolated_is_the_cpu_of_the_busiest_validator_without_its_idling() {
        // 2 s of CPU in 10 s, of which 1 s is idling: 100 us for each of 10,000 transfers, on 1.9 cores.
        let reckoned = extrapolation(&outcome(2.0, 0.5), 0.1);
        assert_eq!(reckoned["tps_by_cpu"], 19_000.0);
        assert_eq!(reckoned["tps_by_busiest_thread"], 20_000.0);
        assert_eq!((&reckoned["tps"], &reckoned["reaches_bar_tps"]), (&json!(19_000.0), &json!(true)));
    }

    #[test]
    fn no_thread_is_thought_to_have_more_than_one_core() {
        let reckoned = extrapolation(&outcome(2.0, 1.25), 0.1);
        assert_eq!((&reckoned["tps"], &reckoned["reaches_bar_tps"]), (&json!(8_000.0), &json!(false)));
    }

    #[test]
    fn figures_are_of_one_validator_and_of_all() {
        let load = figures(&outcome(2.0, 0.5), Some(1_000.0));
        assert_eq!((&load["tps"], &load["offered_tps"]), (&json!(1_000.0), &json!(1_000.0)));
        assert_eq!(load["cpu_us_per_tx_per_validator"], 150.0);
        assert_eq!(load["cpu_us_per_tx_all_validators"], 300.0);
        assert_eq!((&load["final_ms_p50"], &load["final_ms_p99"]), (&json!(500.0), &json!(900.0)));
        assert_eq!(
            (&load["memory_mib_per_validator"], &load["memory_mib_per_validator_max"]),
            (&json!(2.0), &json!(3.0))
        );
    }
}
