//! Imports go down only (ARCHITECTURE.md, "Rules of the house").

use eyre::{Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Layer of each crate; a crate that is not here may not exist.
const LAYERS: [(&str, u8); 25] = [
    ("primitives", 0),
    ("crypto", 1),
    ("contracts", 1),
    ("net-transport", 2),
    ("chain-spec", 2),
    ("chain-finality", 2),
    ("market-receipt", 2),
    ("market-inference", 2),
    ("net-reach", 3),
    ("chain-storage", 3),
    ("market-channel", 3),
    ("market-journal", 3),
    ("net-peers", 4),
    ("chain-execution", 4),
    ("market-chain", 4),
    ("chain-mempool", 5),
    ("chain-consensus", 5),
    ("chain-sync", 5),
    ("market-settlement", 5),
    ("market-provider", 5),
    ("market-gateway", 5),
    ("chain-producer", 6),
    ("rpc", 6),
    ("node", 7),
    ("scenarios", 8),
];

/// Chains of imports at most.
const DEPTH_MAX: usize = 8;

/// Checks what every crate is built from; what its tests use beside it is not part of the house's shape.
pub fn run(root: &Path) -> Result<()> {
    let layers: BTreeMap<&str, u8> = LAYERS.into_iter().collect();
    let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))?.parse()?;
        imports.insert(name, own_dependencies(&manifest));
    }
    for (name, below) in &imports {
        let Some(layer) = layers.get(name.as_str()) else {
            findings.push(format!("crates/{name} has no layer: add it to the table in ARCHITECTURE.md and here"));
            continue;
        };
        for other in below {
            findings.extend(complaint(name, *layer, other, layers.get(other.as_str()).copied()));
        }
    }
    let deepest = imports.keys().map(|name| depth(name, &imports)).max().unwrap_or(0);
    if deepest > DEPTH_MAX {
        findings.push(format!("the longest chain of imports has {deepest} crates, at most {DEPTH_MAX}"));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("layers: {} findings", findings.len());
    }
    println!("layers: {} crates, depth {deepest}, every import goes down", imports.len());
    Ok(())
}

fn own_dependencies(manifest: &toml::Table) -> Vec<String> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table
        .into_iter()
        .flat_map(|table| table.keys())
        .filter_map(|key| key.strip_prefix("trellis-").map(str::to_owned))
        .collect()
}

fn complaint(name: &str, layer: u8, other: &str, below: Option<u8>) -> Option<String> {
    let Some(below) = below else { return Some(format!("crates/{name} imports {other}, which has no layer")) };
    if below >= layer {
        return Some(format!("crates/{name} (layer {layer}) imports {other} (layer {below}): imports go down only"));
    }
    let planes = (name.split('-').next(), other.split('-').next());
    let crossing = matches!(planes, (Some("chain"), Some("market")) | (Some("market"), Some("chain")));
    let allowed = name == "market-chain" && other == "chain-finality";
    (crossing && !allowed).then(|| format!("crates/{name} imports {other}: the planes meet nowhere but in node"))
}

fn depth(name: &str, imports: &BTreeMap<String, Vec<String>>) -> usize {
    let below =
        imports.get(name).map_or(0, |others| others.iter().map(|other| depth(other, imports)).max().unwrap_or(0));
    below + 1
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn an_import_that_goes_up_or_across_is_found() {
        assert!(complaint("chain-storage", 3, "rpc", Some(6)).is_some());
        assert!(complaint("market-gateway", 5, "chain-storage", Some(3)).is_some());
        assert!(complaint("market-chain", 4, "chain-finality", Some(2)).is_none());
        assert!(complaint("rpc", 6, "chain-storage", Some(3)).is_none());
    }
}
