//! How a command fails: what, why, and one hint; with the exit code that scripts read (OPS-01).

use std::fmt;
use std::io::{self, Write as _};
use trellis_market_journal::JournalError;

/// Exit code of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a command that was used wrongly.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a command that lacks a key or funds.
pub const EXIT_NEEDS_KEY_OR_FUNDS: u8 = 4;

/// What to do about a disk that is full.
const HINT_DISK_FULL: &str = "free some space on that disk, then start again: nothing that was acknowledged is lost";
/// What to do about a place that cannot be written.
const HINT_NOT_WRITABLE: &str = "make the folder writable for this user, or choose another one with --datadir DIR";

/// A failure that is shown to a person as it is.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A plain failure.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: EXIT_FAILED, message: message.into(), hint: None }
    }

    /// A wrong use.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, ..Self::new(message) }
    }

    /// A missing key or missing funds.
    pub fn key_or_funds(message: impl Into<String>) -> Self {
        Self { code: EXIT_NEEDS_KEY_OR_FUNDS, ..Self::new(message) }
    }

    /// With the one thing to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// Prints an error to stderr and says with which code to leave.
pub fn report(error: &eyre::Report) -> u8 {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(EXIT_FAILED, |f| f.code);
    let mut text = String::new();
    let mut hints = Vec::new();
    for cause in error.chain() {
        let shown = cause.to_string();
        let mut lines = Vec::new();
        for line in shown.lines() {
            match line.trim().strip_prefix("hint: ") {
                Some(hint) => hints.push(hint.to_owned()),
                None => lines.push(line),
            }
        }
        let message = lines.join("\n");
        if !text.contains(&message) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&message);
        }
    }
    // Standard error may be a file on a disk that is full; the exit code must come out all the same.
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {text}");
    if let Some(hint) = hints.first().map(String::as_str).or_else(|| hint_for_disk(error)) {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    code
}

/// What to do where a disk is the cause, whoever met it.
fn hint_for_disk(error: &eyre::Report) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if matches!(cause.downcast_ref::<JournalError>(), Some(JournalError::DiskFull)) {
            return Some(HINT_DISK_FULL);
        }
        cause.downcast_ref::<io::Error>().and_then(|error| hint_for_io(error.kind()))
    })
}

fn hint_for_io(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(HINT_DISK_FULL),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Some(HINT_NOT_WRITABLE),
        _ => None,
    }
}

/// A failure to write in a place, with what to do about it.
pub fn cannot_write(what: &str, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot write {what}: {error}"));
    match hint_for_io(error.kind()) {
        Some(hint) => failure.hint(hint),
        None => failure.hint(HINT_NOT_WRITABLE),
    }
}
