//! The commands that ask, each in a file of its own.

pub mod audit;
pub mod bandwidth;
pub mod bench;
pub mod chain;
pub mod channel;
pub mod config;
pub mod job;
pub mod key;
pub mod netcheck;
pub mod peer;
pub mod ping;
pub mod receipt;
pub mod reference;
pub mod snapshot;
pub mod status;
pub mod validator;
pub mod wallet;

use crate::chain::Chain;
use crate::control::nodes_below;
use crate::failure::Failure;
use eyre::Result;
use std::path::{Path, PathBuf};
use trellis_chain_spec::ChainSpec;

/// The folder that was named, or a failure that says to name one.
pub fn place(datadir: Option<&Path>) -> Result<PathBuf> {
    datadir.map(Path::to_path_buf).ok_or_else(|| {
        Failure::usage("which node? its data folder is not known")
            .hint("give --datadir DIR (for `trellis dev` the folder that its banner shows) or set TRELLIS_DATADIR")
            .into()
    })
}

/// The nodes below the folder that was named.
pub fn nodes(datadir: Option<&Path>) -> Result<Vec<(String, PathBuf)>> {
    let base = place(datadir)?;
    let nodes = nodes_below(&base);
    if nodes.is_empty() {
        return Err(Failure::new(format!("no node has its data in {}", base.display()))
            .hint("name the folder of a node, or the one that `trellis dev` shows in its banner")
            .into());
    }
    Ok(nodes)
}

/// The node of a role below the folder that was named; the first of them, where there are several.
pub fn node_of(datadir: Option<&Path>, role: &str) -> Result<PathBuf> {
    nodes(datadir)?
        .into_iter()
        .find(|(name, _)| name.strip_prefix(role).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
        .map(|(_, folder)| folder)
        .ok_or_else(|| Failure::new(format!("there is no {role} in this folder")).into())
}

/// The spec of the chain that the nodes below the folder are on, as the first of them noted it when it started.
pub fn spec_of(datadir: Option<&Path>) -> Result<ChainSpec> {
    let noted =
        nodes(datadir)?.into_iter().find_map(|(_, folder)| std::fs::read_to_string(folder.join("chain-spec")).ok());
    Ok(ChainSpec::load(noted.as_deref().map_or("dev", str::trim))?)
}

/// That chain with its block zero, for whoever asks it and checks the proofs in the answers.
pub fn chain_of(datadir: Option<&Path>) -> Result<Chain> {
    Chain::of(spec_of(datadir)?)
}
