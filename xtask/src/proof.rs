//! Proofs: full-size runs that write a dated result with the commit to docs/proof.

use crate::docs::binary;
use crate::lab;
use eyre::{Result, bail, eyre};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use trellis_scenarios::lab::matrix::{all_pairs, measure};
use trellis_scenarios::lab::soak::{self, NODES_MAX, NODES_MIN, Plan};
use trellis_scenarios::lab::theory;

/// What a proof runs.
enum Run {
    /// `trellis` with these arguments prints the result as JSON.
    Trellis(&'static [&'static str]),
    /// The same once for each of these numbers, which follows the arguments; the results stand under the numbers.
    Series(&'static [&'static str], &'static [&'static str]),
    /// `cargo test` with these arguments: the tests of the gate, in full size. Each writes its result into a folder.
    Tests {
        /// Arguments up to the name of the test.
        arguments: &'static [&'static str],
        /// What sets the size.
        size: (&'static str, &'static str),
    },
    /// Many nodes in the laboratory for a long time.
    Soak,
    /// Every kind of home against every other, several times.
    Matrix,
}

/// How large a proof is to be, of those that have a size.
#[derive(Clone, Copy, Default)]
pub struct Size {
    /// How long a soak runs after its last node has started.
    pub minutes: Option<u64>,
    /// Processes of a soak.
    pub nodes: Option<usize>,
}

/// Name, and what it runs.
const PROOFS: [(&str, Run); 16] = [
    ("soak", Run::Soak),
    ("matrix", Run::Matrix),
    ("bench-transport", Run::Trellis(&["bench", "transport", "--json"])),
    ("bench-chain", Run::Trellis(&["bench", "chain", "--json"])),
    (
        "bench-validators",
        Run::Series(&["bench", "chain", "--json", "--seconds", "60", "--validators"], &["1", "4", "20"]),
    ),
    ("bench-market", Run::Trellis(&["bench", "market", "--json"])),
    (
        "main-job",
        Run::Tests {
            arguments: &["--package", "trellis-scenarios", "--test", "main_job", "mixed_jobs"],
            size: ("TRELLIS_PROOF_JOBS", "100"),
        },
    ),
    (
        "attacks",
        Run::Tests {
            arguments: &["--package", "trellis-scenarios", "--test", "attacks", "a_flood_of_connections"],
            size: ("TRELLIS_PROOF_CONNECTIONS", "10000"),
        },
    ),
    (
        "mishaps",
        Run::Tests {
            arguments: &["--package", "trellis-scenarios", "--test", "lab", "mishaps::"],
            size: ("TRELLIS_PROOF_MISHAPS", "3"),
        },
    ),
    (
        "finality",
        Run::Tests {
            arguments: &["--package", "trellis-scenarios", "--test", "lab", "finality::"],
            size: ("TRELLIS_PROOF_TRANSACTIONS", "100"),
        },
    ),
    (
        "differential",
        Run::Tests {
            arguments: &["--package", "trellis-scenarios", "--test", "differential", "random_transactions"],
            size: ("TRELLIS_PROOF_TRANSACTIONS", "100000"),
        },
    ),
    (
        "histories",
        Run::Tests {
            arguments: &["--package", "trellis-chain-consensus", "--lib", "with_evil_validators"],
            size: ("TRELLIS_PROOF_SEEDS", "1000"),
        },
    ),
    (
        "committees",
        Run::Tests {
            arguments: &["--package", "trellis-chain-consensus", "--lib", "a_large_weighted_committee"],
            size: ("TRELLIS_PROOF_VALIDATORS", "1000"),
        },
    ),
    (
        "sync",
        Run::Tests {
            arguments: &["--package", "trellis-chain-producer", "--test", "follow", "with_a_third_of_the_peers"],
            size: ("TRELLIS_PROOF_BLOCKS", "100000"),
        },
    ),
    (
        "snapshot",
        Run::Tests {
            arguments: &["--package", "trellis-chain-storage", "--test", "store", "a_large_state"],
            size: ("TRELLIS_PROOF_ACCOUNTS", "1000000"),
        },
    ),
    (
        "batch-100k",
        Run::Tests {
            arguments: &["--package", "trellis-market-settlement", "--lib", "a_large_batch"],
            size: ("TRELLIS_PROOF_RECEIPTS", "100000"),
        },
    ),
];

/// The folder that tests write their results into.
const OUT_VARIABLE: &str = "TRELLIS_PROOF_OUT";
/// A soak of full length, in minutes.
const SOAK_MINUTES: u64 = 30;
/// Processes of a soak in full size.
const SOAK_NODES: usize = 50;
/// Full matrices in a row; what is a matter of luck fails in one of them.
const MATRIX_RUNS: usize = 3;
/// Seconds in a day.
const DAY_S: u64 = 86_400;

/// Runs one proof and writes `docs/proof/<name>.json`.
pub fn prove(root: &Path, name: &str, size: Size) -> Result<()> {
    let Some((_, run)) = PROOFS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = PROOFS.iter().map(|(known, _)| *known).collect();
        bail!("no proof {name:?}; there are: {}", known.join(", "));
    };
    if !matches!(run, Run::Soak) && (size.minutes.is_some() || size.nodes.is_some()) {
        bail!("--minutes and --nodes are for the proof `soak`");
    }
    let began = SystemTime::now();
    let (command, result) = match run {
        Run::Soak => soak(size)?,
        Run::Matrix => matrix()?,
        Run::Trellis(arguments) => trellis(arguments)?,
        Run::Series(arguments, numbers) => series(arguments, numbers)?,
        Run::Tests { arguments, size } => tests(root, name, arguments, *size)?,
    };
    let proof = json!({
        "proof": name,
        "command": command,
        "commit": commit(root)?,
        "unix_seconds": now(),
        "took_seconds": began.elapsed().map_or(0, |took| took.as_secs()),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "result": result,
    });
    let folder = root.join("docs/proof");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&proof)?))?;
    println!("proof: wrote docs/proof/{name}.json");
    Ok(())
}

/// Prints the verdict on each kind of node, and fails where one is not steady.
fn soak(size: Size) -> Result<(String, Value)> {
    let (minutes, nodes) = (size.minutes.unwrap_or(SOAK_MINUTES), size.nodes.unwrap_or(SOAK_NODES));
    if minutes == 0 || !(NODES_MIN..=NODES_MAX).contains(&nodes) {
        bail!("a soak is of at least one minute and {NODES_MIN} to {NODES_MAX} nodes");
    }
    let report = soak::run(&Plan::of(nodes, Duration::from_secs(minutes * 60)));
    print!("{}", report.table());
    if !report.steady {
        bail!("not steady: the table says what grew");
    }
    Ok((format!("cargo xtask prove soak --minutes {minutes} --nodes {nodes}"), serde_json::to_value(report)?))
}

/// Runs all pairs [`MATRIX_RUNS`] times, and fails where theory allows more than one of the runs gave.
fn matrix() -> Result<(String, Value)> {
    let mut runs = Vec::new();
    for number in 1..=MATRIX_RUNS {
        let outcomes = measure(&all_pairs());
        println!("run {number} of {MATRIX_RUNS}\n{}", lab::table(&outcomes, &theory::pairs()));
        let missing = lab::missing(&outcomes, &theory::pairs());
        if !missing.is_empty() {
            bail!("not as theory says: {}", missing.join("; "));
        }
        let of = |path: &str| outcomes.iter().filter(|one| one.path.as_deref() == Some(path)).count();
        runs.push(json!({
            "reached": outcomes.iter().filter(|one| one.reached).count(),
            "direct": of("direct"),
            "relay": of("relay"),
            "turn": of("turn"),
            "median_upgrade_ms": lab::median_upgrade_ms(&outcomes),
            "pairs": outcomes,
        }));
    }
    Ok(("cargo xtask prove matrix".into(), json!({ "runs": runs })))
}

fn trellis(arguments: &[&str]) -> Result<(String, Value)> {
    let output = Command::new(binary()?).args(arguments).output()?;
    if !output.status.success() {
        bail!("the proof failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok((format!("trellis {}", arguments.join(" ")), serde_json::from_slice(&output.stdout)?))
}

/// Runs the command with each number, and collects what it prints.
fn series(arguments: &[&str], numbers: &[&str]) -> Result<(String, Value)> {
    let mut results = serde_json::Map::new();
    for number in numbers {
        let (command, result) = trellis(&[arguments, &[*number]].concat())?;
        println!("proof: {command}");
        results.insert((*number).to_owned(), result);
    }
    let command = format!("trellis {} {}", arguments.join(" "), numbers.join(", then "));
    Ok((command, Value::Object(results)))
}

/// Runs the tests one at a time, and collects what they wrote under the names of their files.
fn tests(root: &Path, name: &str, arguments: &[&str], size: (&str, &str)) -> Result<(String, Value)> {
    let out = std::env::temp_dir().join(format!("trellis-proof-{name}-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    let ran = run_tests(root, arguments, size, &out);
    let collected = ran.and_then(|()| collect(&out));
    let _ = fs::remove_dir_all(&out);
    let mut results = collected?;
    let result = match results.len() {
        0 => bail!("the proof wrote no result; is there still a test of that name?"),
        1 => results.remove(0).1,
        _ => Value::Object(results.into_iter().collect()),
    };
    Ok((format!("{}={} cargo test {}", size.0, size.1, arguments.join(" ")), result))
}

fn run_tests(root: &Path, arguments: &[&str], size: (&str, &str), out: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .arg("test")
        .args(arguments)
        .args(["--", "--test-threads=1", "--nocapture"])
        .env(size.0, size.1)
        .env(OUT_VARIABLE, out)
        .env("TRELLIS_BIN", binary()?)
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the proof failed: see the tests' own words above");
    }
    Ok(())
}

fn collect(out: &Path) -> Result<Vec<(String, Value)>> {
    let mut results = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(out)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        results.push((name, serde_json::from_slice(&fs::read(path)?)?));
    }
    Ok(results)
}

/// Every proof that status.toml names exists; prints their ages.
pub fn check(root: &Path) -> Result<()> {
    let states: toml::Table = fs::read_to_string(root.join("docs/spec/status.toml"))?.parse()?;
    for (row, status) in states {
        let Some(file) = status.get("proof").and_then(toml::Value::as_str) else { continue };
        let text = fs::read_to_string(root.join("docs/proof").join(file))
            .map_err(|error| eyre!("{row} names proof {file}: {error}"))?;
        let proof: Value = serde_json::from_str(&text)?;
        let made = proof["unix_seconds"].as_u64().ok_or_else(|| eyre!("{file} has no unix_seconds"))?;
        println!("{row}: {file}, {} days old, commit {}", now().saturating_sub(made) / DAY_S, proof["commit"]);
    }
    Ok(())
}

/// Runs a script of the repository and fails with it.
pub fn command(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(root.join(program)).args(arguments).current_dir(root).status()?;
    if !status.success() {
        bail!("{program} {} failed", arguments.join(" "));
    }
    Ok(())
}

fn commit(root: &Path) -> Result<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
