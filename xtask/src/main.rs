//! The chores of the house: tidy, layers, specification, generated documents, proofs.

mod compat;
mod docs;
mod lab;
mod layers;
mod lexer;
mod proof;
mod specification;
mod tidy;

use clap::{Parser, Subcommand};
use eyre::Result;
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the house")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the length of functions and files, module names, TODOs without a row, and each crate's one sentence.
    Tidy,
    /// Check that every crate imports only from lower layers and that the planes meet nowhere but in the binary.
    Layers,
    /// Write SPECIFICATION.md from docs/spec, docs/spec/status.toml and the `// row:` markers above tests.
    Spec {
        /// Fail where the file on disk differs, and write nothing.
        #[arg(long)]
        check: bool,
    },
    /// Write the generated documents (CLI reference, config example) from the binary's own definitions.
    Docs {
        /// Fail where a file on disk differs, and write nothing.
        #[arg(long)]
        check: bool,
    },
    /// Rebuild the contracts' artifacts and fail where they differ from those checked in.
    Artifacts,
    /// Run the full-size proof of a row or a bench and write its dated result to docs/proof.
    Prove {
        /// Which proof; `list` shows them.
        name: String,
        /// How long a soak runs.
        #[arg(long, value_name = "MINUTES")]
        minutes: Option<u64>,
        /// How many nodes a soak has.
        #[arg(long, value_name = "COUNT")]
        nodes: Option<usize>,
    },
    /// Run a provider in every kind of home against a gateway in every kind, and print the matrix (needs root).
    Lab {
        /// Print JSON: {"pairs":[{"a","b","reached","path","first_byte_ms","direct_ms"}]}.
        #[arg(long)]
        json: bool,
        /// Only this pair, as `port-restricted,open`: the provider's home, then the gateway's. May be repeated.
        #[arg(long, value_name = "A,B")]
        pair: Vec<String>,
    },
    /// Play Ethereum's RPC compatibility suite against the binary and print the score, by method and with reasons.
    RpcCompat {
        /// A folder of ethereum/execution-apis' `tests/`; the sample in this repository otherwise.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The share of files that must be right.
        #[arg(long, value_name = "PERCENT", default_value_t = 86)]
        bar: usize,
    },
    /// Check that each proof that SPECIFICATION.md links exists, and print how old it is.
    Proofs,
}

fn main() -> Result<()> {
    let root = root()?;
    match Cli::parse().chore {
        Chore::Tidy => tidy::run(&root),
        Chore::Layers => layers::run(&root),
        Chore::Spec { check } => specification::run(&root, check),
        Chore::Docs { check } => docs::run(&root, check),
        Chore::Artifacts => proof::command(&root, "contracts/check.sh", &["artifacts"]),
        Chore::Prove { name, minutes, nodes } => proof::prove(&root, &name, proof::Size { minutes, nodes }),
        Chore::Lab { json, pair } => lab::run(json, &pair),
        Chore::RpcCompat { dir, bar } => compat::run(&root, dir.as_deref(), bar),
        Chore::Proofs => proof::check(&root),
    }
}

fn root() -> Result<PathBuf> {
    // Not what was compiled in: a build folder can be shared by checkouts, one of them gone.
    let here = std::env::current_dir()?;
    let root = here.ancestors().find(|folder| folder.join("xtask/Cargo.toml").is_file());
    root.map(std::path::Path::to_path_buf).ok_or_else(|| eyre::eyre!("{} is not in the project", here.display()))
}

/// Every file below a folder that passes the filter, sorted, without build output and dependencies.
fn files(folder: &std::path::Path, wanted: &dyn Fn(&std::path::Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !matches!(name, "target" | "node_modules" | ".git" | ".venv" | "out" | "cache") {
                    open.push(path);
                }
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_rust(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn shown(root: &std::path::Path, path: &std::path::Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
