//! `trellis snapshot …` (CHN-23)

use crate::chain::Chain;
use crate::cli::{ListArgs, SnapshotCommand};
use crate::command::place;
use crate::datadir::DataDir;
use crate::failure::Failure;
use crate::role::following::rules;
use crate::table::print_json;
use eyre::Result;
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use trellis_chain_execution::Executor;
use trellis_chain_storage::{CommittedBlock, Importer, StateCheck, StatePart, Store, StoreConfig};
use trellis_chain_sync::snapshot::{self, SnapshotError, SnapshotSink, SnapshotSummary};

/// Bytes read or written at once.
const BUFFER_BYTES: usize = 1024 * 1024;
/// The chain's folder in a node's.
const CHAIN_DIR: &str = "chain";

/// Runs a snapshot command; all work offline.
///
/// # Errors
/// A file or folder that cannot be used, a snapshot that is not proved.
pub fn run(command: SnapshotCommand, datadir: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    let (summary, list) = match command {
        SnapshotCommand::Export { file, list } => (export(&file, datadir)?, list),
        SnapshotCommand::Verify { file, chain, list } => (verify(&file, &Chain::load(&chain)?)?, list),
        SnapshotCommand::Import { file, chain, list } => (import(&file, &chain, datadir)?, list),
    };
    show(&summary, list, began);
    Ok(())
}

fn show(summary: &SnapshotSummary, list: ListArgs, began: Instant) {
    let SnapshotSummary { head, state_root, accounts, blocks, bytes } = *summary;
    let seconds = began.elapsed().as_secs_f64();
    if list.wants_json() {
        let hash = head.hash;
        return print_json(&json!({
            "height": head.height, "hash": hash, "state_root": state_root, "accounts": accounts, "blocks": blocks,
            "bytes": bytes, "seconds": seconds,
        }));
    }
    println!("block {} {}", head.height, head.hash);
    println!("state {state_root}, {accounts} accounts, {blocks} blocks, {bytes} bytes, {seconds:.1} s");
}

fn cannot(what: &str, file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", file.display()))
}

fn noted_chain(folder: &Path) -> Result<Chain> {
    let noted = std::fs::read_to_string(folder.join("chain-spec")).map_err(|_| {
        Failure::usage(format!("{} is not the folder of a node with a chain", folder.display()))
            .hint("name the folder of one node, as DIR/validator of `trellis dev`")
    })?;
    Chain::load(noted.trim())
}

/// The name of a snapshot that is being written, beside the one that it will have.
fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(".partial");
    name.into()
}

fn export(file: &Path, datadir: Option<&Path>) -> Result<SnapshotSummary> {
    let folder = place(datadir)?;
    let chain = noted_chain(&folder)?;
    let held = DataDir::open(&folder)?;
    let store = Store::open(&held.join(CHAIN_DIR), &chain.genesis, StoreConfig::default())
        .map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    let partial = partial(file);
    // One that an export was killed over is no snapshot, and nobody else writes this name: the node's folder is locked.
    let out = File::create(&partial).map_err(|error| cannot("write", &partial, &error))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let written = snapshot::export(&store, &rules(&chain), &mut out).map_err(eyre::Report::new).and_then(|summary| {
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&partial, file)?;
        Ok(summary)
    });
    if written.is_err() {
        // What is half written is no snapshot.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn reader(file: &Path) -> Result<BufReader<File>> {
    let file = File::open(file).map_err(|error| cannot("read", file, &error))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, file))
}

struct Checking(StateCheck);

impl SnapshotSink for Checking {
    fn block(&mut self, _block: CommittedBlock) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn state(&mut self, part: StatePart) -> Result<(), SnapshotError> {
        self.0.take(&part);
        Ok(())
    }
}

fn verify(file: &Path, chain: &Chain) -> Result<SnapshotSummary> {
    let mut checking = Checking(StateCheck::default());
    let summary = snapshot::read(&mut reader(file)?, &rules(chain), &mut checking)?;
    checking.0.check(summary.head.height, summary.state_root)?;
    Ok(summary)
}

struct Importing {
    importer: Importer,
    executor: Executor,
}

impl SnapshotSink for Importing {
    fn block(&mut self, block: CommittedBlock) -> Result<(), SnapshotError> {
        let height = block.height();
        let senders = self.executor.recover_senders(&block.block, &|_| None);
        let what = "a signature of one of its transactions is not valid";
        let senders = senders.map_err(|_| SnapshotError::Block { height, what })?;
        Ok(self.importer.block(&CommittedBlock { senders, ..block })?)
    }

    fn state(&mut self, part: StatePart) -> Result<(), SnapshotError> {
        Ok(self.importer.take(&part)?)
    }
}

fn import(file: &Path, name: &str, datadir: Option<&Path>) -> Result<SnapshotSummary> {
    let folder = place(datadir)?;
    let mut input = reader(file)?;
    let chain = Chain::load(name)?;
    let held = DataDir::open(&folder)?;
    let spec = std::fs::canonicalize(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string());
    let importer = Importer::begin(&held.join(CHAIN_DIR), &chain.genesis, &StoreConfig::default())
        .map_err(|error| Failure::new(error.to_string()).hint("a chain is never replaced: name another folder"))?;
    let mut importing = Importing { importer, executor: Executor::new(chain.execution()) };
    let summary = snapshot::read(&mut input, &rules(&chain), &mut importing)?;
    importing.importer.finish()?;
    held.keep("chain-spec", &spec)?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-23
    #[test]
    fn every_snapshot_has_a_name_of_its_own_while_it_is_written() {
        assert_eq!(partial(Path::new("DIR/chain.1")), Path::new("DIR/chain.1.partial"));
        assert_ne!(partial(Path::new("chain.1")), partial(Path::new("chain.2")));
        assert_ne!(partial(Path::new("chain.partial")), Path::new("chain.partial"));
    }
}
