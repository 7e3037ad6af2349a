//! Why a chain spec is not good.

use std::path::PathBuf;

/// Why a chain spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read or written.
    #[error("cannot {action} chain spec {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than a chain spec may be.
    #[error("the chain spec has {actual} bytes, at most {max} are read")]
    TooLong {
        /// Its length.
        actual: usize,
        /// The bound.
        max: usize,
    },
    /// The text is not the TOML of a chain spec; the message names line and key.
    #[error("the chain spec is not valid: {reason}\nhint: compare it with `trellis chain inspect --chain dev`")]
    NotToml {
        /// What the parser said.
        reason: String,
    },
    /// A value is out of bounds.
    #[error("the chain spec's {field} is {actual}: {rule}")]
    Value {
        /// Which field, with its section.
        field: &'static str,
        /// What it is.
        actual: String,
        /// What it must be.
        rule: &'static str,
    },
    /// There is no built-in spec of this name and no such file.
    #[error("no chain spec {name:?}: it is neither a built-in name (dev) nor a file")]
    Unknown {
        /// The name that was given.
        name: String,
    },
}
