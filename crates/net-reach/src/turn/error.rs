//! Why there is no address at a TURN server, with what to do about it.

use std::net::SocketAddr;

/// What a TURN server, or the way to it, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// No server is set.
    #[error("no TURN server is set")]
    NoServer,
    /// The server's name has no address.
    #[error("the name of the TURN server {host} was not resolved: {detail}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver says.
        detail: String,
    },
    /// No connection to the server.
    #[error("no connection to the TURN server at {address}: {detail}")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What the system says.
        detail: String,
    },
    /// TLS with the server failed.
    #[error("no TLS with the TURN server at {address}: {detail}")]
    Tls {
        /// Where the server is.
        address: SocketAddr,
        /// What went wrong.
        detail: String,
    },
    /// The authorities for TLS cannot be used.
    #[error("the authorities of TURN servers cannot be read from {path}: {detail}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No answer.
    #[error("the TURN server did not answer within {timeout_ms} ms")]
    Silent {
        /// How long was waited, milliseconds.
        timeout_ms: u64,
    },
    /// 401 or 441: the name or the password is wrong.
    #[error("the TURN server refuses the name or the password (code {code})")]
    Credentials {
        /// The code of the answer.
        code: u16,
    },
    /// 437: the server does not know the allocation, or already has one for this connection.
    #[error("the TURN server does not know the allocation (code 437)")]
    Mismatch,
    /// 438, again and again.
    #[error("the TURN server called {replies} nonces in a row stale (code 438)")]
    StaleNonce {
        /// How often.
        replies: u8,
    },
    /// 486: this user has as many allocations as it may have.
    #[error("the TURN server gives this user no more allocations (code 486)")]
    Quota,
    /// 508: the server is full.
    #[error("the TURN server has no address left (code 508)")]
    Capacity,
    /// 403: the server does not let this peer be reached.
    #[error("the TURN server does not reach {peer} for this user (code 403)")]
    Forbidden {
        /// Who was to be reached.
        peer: SocketAddr,
    },
    /// Any other refusal.
    #[error("the TURN server refuses: {reason} (code {code})")]
    Refused {
        /// The code of the answer.
        code: u16,
        /// In the server's words, cut.
        reason: String,
    },
    /// The peer has an address of another family than the allocation.
    #[error("the address at the TURN server is of another family than {peer}")]
    Family {
        /// Who was to be reached.
        peer: SocketAddr,
    },
    /// As many peers as one allocation takes.
    #[error("{peers} peers are reached over one TURN allocation already, the most there may be")]
    Full {
        /// The bound.
        peers: usize,
    },
    /// Bytes that belong to no TURN message.
    #[error("the TURN server sent what is no TURN message: {detail}")]
    Malformed {
        /// What is wrong with them.
        detail: String,
    },
    /// The connection to the server ended, or the allocation did.
    #[error("the allocation at the TURN server is gone: {detail}")]
    Lost {
        /// Why.
        detail: String,
    },
    /// This node needed it no longer.
    #[error("the allocation at the TURN server was given back")]
    GivenBack,
}

impl TurnError {
    /// The refusal that an answer's code stands for.
    pub(crate) fn of_code(code: u16, reason: &str) -> Self {
        match code {
            401 | 441 => Self::Credentials { code },
            437 => Self::Mismatch,
            486 => Self::Quota,
            508 => Self::Capacity,
            _ => Self::Refused { code, reason: reason.chars().take(REASON_CHARS_MAX).collect() },
        }
    }

    /// The name under which it is logged, shown and counted.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NoServer => "no-server",
            Self::Unresolved { .. } => "unresolved",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::Authorities { .. } => "authorities",
            Self::Silent { .. } => "silent",
            Self::Credentials { .. } => "credentials",
            Self::Mismatch => "mismatch",
            Self::StaleNonce { .. } => "stale-nonce",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::Forbidden { .. } => "forbidden",
            Self::Refused { .. } => "refused",
            Self::Family { .. } => "family",
            Self::Full { .. } => "full",
            Self::Malformed { .. } => "malformed",
            Self::Lost { .. } => "lost",
            Self::GivenBack => "given-back",
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoServer => "name one with --turn turns:HOST:443?transport=tcp",
            Self::Unresolved { .. } => "check the server's name in `turn`, or write its address",
            Self::Unreachable { .. } => {
                "check the port in `turn`; networks that let only the web through need turns:HOST:443?transport=tcp"
            }
            Self::Tls { .. } => {
                "the certificate has to name the host in `turn`; a private server's authority goes into --turn-ca FILE"
            }
            Self::Authorities { .. } => "--turn-ca names a PEM file with at least one certificate",
            Self::Silent { .. } => {
                "UDP may be blocked here: try turn:HOST:PORT?transport=tcp or turns:HOST:443?transport=tcp"
            }
            Self::Credentials { .. } => "check --turn-user and the file of --turn-password-file",
            Self::Mismatch | Self::Lost { .. } | Self::GivenBack => "nothing: it is allocated anew with the next dial",
            Self::StaleNonce { .. } | Self::Malformed { .. } => "try another TURN server",
            Self::Quota => "end other nodes of the same user, or ask the server's operator for a larger quota",
            Self::Capacity => "try again later, or name another server",
            Self::Forbidden { .. } => "the server's operator keeps this address out",
            Self::Refused { .. } => "the code is the server's; its operator knows more",
            Self::Family { .. } => "the server would have to allocate an address of the other family",
            Self::Full { .. } => "it ends by itself when the allocation is made anew",
        }
    }
}

/// Of what a server says for a refusal so many characters are kept.
const REASON_CHARS_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-44
    #[test]
    fn each_code_of_a_refusal_has_its_own_name_and_a_hint() {
        let codes = [401, 437, 441, 486, 508, 400];
        let errors: Vec<TurnError> = codes.iter().map(|code| TurnError::of_code(*code, "why")).collect();
        let names: Vec<&str> = errors.iter().map(TurnError::name).collect();
        assert_eq!(names, ["credentials", "mismatch", "credentials", "quota", "capacity", "refused"]);
        assert!(errors.iter().all(|error| !error.hint().is_empty()));
        assert!(errors.iter().zip(codes).all(|(error, code)| error.to_string().contains(&code.to_string())));
        let long = TurnError::of_code(400, &"x".repeat(10_000)).to_string();
        assert!(long.len() < 300, "{long}");
    }
}
