//! Proofs: full-size runs that write a dated result with the commit to docs/proof.

use crate::docs::binary;
use eyre::{Result, bail, eyre};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name, and the arguments of `trellis` that print the result as JSON.
const PROOFS: [(&str, &[&str]); 3] = [
    ("bench-transport", &["bench", "transport", "--json"]),
    ("bench-chain", &["bench", "chain", "--json"]),
    ("bench-market", &["bench", "market", "--json"]),
];

/// Seconds in a day.
const DAY_S: u64 = 86_400;

/// Runs one proof and writes `docs/proof/<name>.json`.
pub fn prove(root: &Path, name: &str) -> Result<()> {
    let Some((_, arguments)) = PROOFS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = PROOFS.iter().map(|(known, _)| *known).collect();
        bail!("no proof {name:?}; there are: {}", known.join(", "));
    };
    let output = Command::new(binary()?).args(*arguments).output()?;
    if !output.status.success() {
        bail!("the proof failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let result: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let proof = serde_json::json!({
        "proof": name,
        "command": format!("trellis {}", arguments.join(" ")),
        "commit": commit(root)?,
        "unix_seconds": now(),
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

/// Every proof that status.toml names exists; prints their ages.
pub fn check(root: &Path) -> Result<()> {
    let states: toml::Table = fs::read_to_string(root.join("docs/spec/status.toml"))?.parse()?;
    for (row, status) in states {
        let Some(file) = status.get("proof").and_then(toml::Value::as_str) else { continue };
        let text = fs::read_to_string(root.join("docs/proof").join(file))
            .map_err(|error| eyre!("{row} names proof {file}: {error}"))?;
        let proof: serde_json::Value = serde_json::from_str(&text)?;
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
