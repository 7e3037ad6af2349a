//! Documents that are generated from the binary's own definitions, and compared in the gate.

use eyre::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each generated file and the hidden subcommand of `trellis` that prints it.
const DOCUMENTS: [(&str, &str); 4] = [
    ("docs/reference/cli.md", "cli"),
    ("docs/reference/config.toml", "config"),
    ("docs/reference/rpc.md", "rpc"),
    ("METRICS.md", "metrics"),
];

/// Writes the documents, or compares them.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let binary = binary()?;
    let mut differing = Vec::new();
    for (file, what) in DOCUMENTS {
        let output = Command::new(&binary).args(["reference", what]).output()?;
        if !output.status.success() {
            bail!("`trellis reference {what}` failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let path = root.join(file);
        if check {
            if fs::read(&path).unwrap_or_default() != output.stdout {
                differing.push(file);
            }
        } else {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, &output.stdout)?;
        }
    }
    if !differing.is_empty() {
        bail!("generated documents differ: {}; run `cargo xtask docs` and commit them", differing.join(", "));
    }
    println!("docs: {} generated documents are up to date", DOCUMENTS.len());
    Ok(())
}

/// The `trellis` binary beside this one.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().map(|folder| folder.join("trellis")).unwrap_or_default();
    if !path.exists() {
        bail!("{} is not built; run `cargo build --workspace` first", path.display());
    }
    Ok(path)
}
