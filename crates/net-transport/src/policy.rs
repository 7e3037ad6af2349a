//! Whether classical peers are let in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which peers may connect (NET-10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Only peers with the hybrid key exchange and an ML-DSA-65 identity. Nothing classical is even offered.
    #[default]
    Require,
    /// The hybrid is preferred; a classical peer is let in and shown as classical everywhere.
    Prefer,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
        })
    }
}
