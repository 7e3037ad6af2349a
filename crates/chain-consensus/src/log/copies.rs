//! The two files of the log, as they are found when the engine starts.
//!
//! Both have the format of the engine's library: version u32 ‖ height u64, then for each entry
//! 0 u8 ‖ length u64 ‖ crc32 u32 ‖ bytes. Of that only the entries have a checksum, so that a height is believed where
//! the entries and the chain agree with it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arc_malachitebft_core_consensus::Input;
use arc_malachitebft_engine::wal::decode_entry;

use crate::codec::EngineCodec;
use crate::context::Trellis;
use crate::error::StartError;

/// Names of the copies in the engine's folder.
const FILES: [&str; 2] = ["votes.wal", "votes-copy.wal"];
/// The version of the format.
const VERSION: u32 = 1;
/// A log larger than this is not one of ours: all votes of some hundred rounds of the largest committee.
const LOG_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// How long the log of an engine that is stopping is waited for, milliseconds.
const LOG_WAIT_MS_MAX: u64 = 3_000;
/// Pause between two looks at it, milliseconds.
const LOG_WAIT_STEP_MS: u64 = 20;

/// Where both copies are.
#[derive(Clone, Debug)]
pub(crate) struct Copies(pub(crate) [PathBuf; 2]);

impl Copies {
    pub(crate) fn in_folder(home: &Path) -> Self {
        Self(FILES.map(|name| home.join(name)))
    }
}

/// What one file holds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing, or no file.
    Nothing,
    /// No head that could be believed.
    Unreadable,
    /// A height, and the entries up to the first that is not whole.
    Log(Entries),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entries {
    height: u64,
    entries: Vec<Vec<u8>>,
}

/// Takes a number of bytes off the front of a slice.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// The height that an entry belongs to; a timeout belongs to any.
fn height_of(entry: &Input<Trellis>) -> Option<u64> {
    match entry {
        Input::Vote(vote) => Some(vote.message.height.0),
        Input::Proposal(proposal) => Some(proposal.message.height.0),
        Input::ProposedValue(value, _) => Some(value.height.0),
        Input::PolkaCertificate(polka) => Some(polka.height.0),
        _ => None,
    }
}

/// The next entry, if it is whole.
fn next_entry(bytes: &mut &[u8]) -> Option<(Vec<u8>, Input<Trellis>)> {
    let [compressed] = take::<1>(bytes)?;
    let length = usize::try_from(u64::from_be_bytes(take(bytes)?)).ok()?;
    let crc = u32::from_be_bytes(take(bytes)?);
    let entry = bytes.get(..length)?;
    if compressed != 0 || crc32fast::hash(entry) != crc {
        return None;
    }
    let decoded = decode_entry(&EngineCodec, entry).ok()?;
    *bytes = bytes.get(length..)?;
    Some((entry.to_vec(), decoded))
}

fn parse(mut bytes: &[u8]) -> Found {
    if bytes.is_empty() {
        return Found::Nothing;
    }
    let head = take::<4>(&mut bytes).map(u32::from_be_bytes).zip(take::<8>(&mut bytes).map(u64::from_be_bytes));
    let Some((VERSION, height)) = head else { return Found::Unreadable };
    let mut entries = Vec::new();
    while let Some((entry, decoded)) = next_entry(&mut bytes) {
        if height_of(&decoded).is_some_and(|of| of != height) {
            // What is wrong is the height: entries have a checksum.
            return Found::Unreadable;
        }
        entries.push(entry);
    }
    Found::Log(Entries { height, entries })
}

fn encode(log: &Entries) -> Vec<u8> {
    let mut out = VERSION.to_be_bytes().to_vec();
    out.extend_from_slice(&log.height.to_be_bytes());
    for entry in &log.entries {
        out.push(0);
        out.extend_from_slice(&u64::try_from(entry.len()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(entry).to_be_bytes());
        out.extend_from_slice(entry);
    }
    out
}

/// What both copies together say: the later height, and of one height the longer log. A height that cannot be yet is not
/// believed where the other copy has one that can. None where there was no log; an error where there was one and neither
/// copy can be read.
fn choose(found: [Found; 2], next_height: u64) -> Result<Option<Entries>, ()> {
    if found.iter().all(|copy| *copy == Found::Nothing) {
        return Ok(None);
    }
    let logs = found.into_iter().filter_map(|copy| match copy {
        Found::Log(log) => Some(log),
        Found::Nothing | Found::Unreadable => None,
    });
    let best = logs.max_by_key(|log| (log.height <= next_height, log.height, log.entries.len()));
    best.map(Some).ok_or(())
}

/// Makes both copies say what either of them knows, before the engine opens them.
///
/// # Errors
/// [`StartError::ChainBehindLog`] where the log is ahead of the chain: a validator whose chain was set back while its log
/// was not might vote a second time where it voted before. [`StartError::LogDamaged`] where neither copy can be read.
/// [`StartError::LogBusy`], and failures of the disk.
pub(crate) async fn mend(copies: &Copies, tip_height: u64) -> Result<(), StartError> {
    for path in &copies.0 {
        wait_until_free(path).await?;
    }
    let copies = copies.clone();
    let mended = tokio::task::spawn_blocking(move || mend_files(&copies, tip_height)).await;
    mended.map_err(|error| StartError::Engine { detail: error.to_string() })?
}

fn mend_files(copies: &Copies, tip_height: u64) -> Result<(), StartError> {
    let [first, second] = &copies.0;
    let bytes = [read(first)?, read(second)?];
    let next_height = tip_height.saturating_add(1);
    let chosen = choose(bytes.each_ref().map(|bytes| parse(bytes)), next_height)
        .map_err(|()| StartError::LogDamaged { path: first.clone() })?;
    let Some(chosen) = chosen else { return Ok(()) };
    if chosen.height > next_height {
        return Err(StartError::ChainBehindLog { log_height: chosen.height, tip_height });
    }
    let whole = encode(&chosen);
    for (path, bytes) in copies.0.iter().zip(&bytes) {
        if *bytes != whole {
            let entries = chosen.entries.len();
            tracing::warn!(path = %path.display(), height = chosen.height, entries, "copy of the log of votes mended");
            write(path, &whole).map_err(|source| files(path, source))?;
        }
    }
    Ok(())
}

fn files(path: &Path, source: io::Error) -> StartError {
    StartError::Files { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    let read = || match fs::metadata(path) {
        Ok(file) if file.len() > LOG_BYTES_MAX => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        Ok(_) => fs::read(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    read().map_err(|source| files(path, source))
}

/// Replaces a copy: at any moment the old or the new one is there, whole.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Waits a moment for an engine that is stopping to let go of a copy.
async fn wait_until_free(path: &Path) -> Result<(), StartError> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files(path, error)),
    };
    for _ in 0..LOG_WAIT_MS_MAX / LOG_WAIT_STEP_MS {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(LOG_WAIT_STEP_MS)).await,
            Err(TryLockError::Error(error)) => return Err(files(path, error)),
        }
    }
    Err(StartError::LogBusy { path: path.to_owned() })
}

#[cfg(test)]
mod tests;
