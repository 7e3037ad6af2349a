//! The handshake (NET-20): messages, checks and the exchange over one stream.
//!
//! The encrypted session has bound both identities already (ML-DSA-65 over the TLS exporter, inside the transport), so
//! the handshake carries no further proof; it compares worlds. The dialer opens the stream:
//!
//! ```text
//! dialer   ──Hello──▶   listener      what the dialer is and which chain it lives on
//! dialer   ◀─Answer──   listener      a refusal with its name, or acceptance and the listener's own Hello
//! dialer   ──Verdict─▶  listener      a refusal with its name, or acceptance
//! dialer   ◀──(empty)─  listener      the listener knows the dialer as connected; only now a dial has succeeded
//! ```
//! Either side lets the other's streams in from the moment it accepts.

mod check;
mod exchange;

use prost::Message;

use crate::error::printable;
use crate::reason::RefusalReason;

pub(crate) use check::{Accepted, Checker, Circumstances, NonceCache, Refusal};
pub(crate) use exchange::{HandshakeFailure, as_dialer, as_listener, confirm};

/// Bytes of any one handshake message.
pub const HANDSHAKE_MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the nonce.
pub const NONCE_BYTES: usize = 32;
/// Bytes of a user agent.
pub const USER_AGENT_BYTES_MAX: usize = 128;
/// Bytes of the explanation beside a refusal's name.
pub const REFUSAL_DETAIL_BYTES_MAX: usize = 256;

/// What a node says of itself. Field numbers are never reused.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Hello {
    /// Oldest protocol version spoken.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest protocol version spoken.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// The network's number.
    #[prost(fixed32, tag = "3")]
    pub network_magic: u32,
    /// Hash of block zero, 32 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub genesis_hash: Vec<u8>,
    /// RLP of the signed node record, as it was signed.
    #[prost(bytes = "vec", tag = "5")]
    pub record: Vec<u8>,
    /// Role bits.
    #[prost(uint32, tag = "6")]
    pub roles: u32,
    /// The software's name and version.
    #[prost(string, tag = "7")]
    pub user_agent: String,
    /// The sender's clock, Unix milliseconds.
    #[prost(uint64, tag = "8")]
    pub time_ms: u64,
    /// Fresh random bytes.
    #[prost(bytes = "vec", tag = "9")]
    pub nonce: Vec<u8>,
    /// The sender's chain height.
    #[prost(uint64, tag = "10")]
    pub best_height: u64,
    /// Drawn anew at every start of the sender: tells a restart from a second connection.
    #[prost(fixed64, tag = "11")]
    pub instance: u64,
    /// Where the sender is, in its operator's words; may be empty.
    #[prost(string, tag = "12")]
    pub region: String,
    /// The sender's end of this connection is at a TURN server; both ends have to know, to agree which connection stays.
    #[prost(bool, tag = "13")]
    pub turned: bool,
}

/// A refusal with its name, on the wire.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WireRefusal {
    /// [`RefusalReason::code`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// What was expected and found.
    #[prost(string, tag = "2")]
    pub detail: String,
}

/// The listener's answer: exactly one of both fields.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Answer {
    /// The listener's own hello, if it accepts.
    #[prost(message, optional, tag = "1")]
    pub hello: Option<Hello>,
    /// Why it refuses.
    #[prost(message, optional, tag = "2")]
    pub refusal: Option<WireRefusal>,
}

/// The dialer's last word.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Verdict {
    /// Why it refuses; acceptance if absent.
    #[prost(message, optional, tag = "1")]
    pub refusal: Option<WireRefusal>,
}

/// Says goodbye before a connection is closed (NET-19); answered by an empty frame.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Goodbye {
    /// [`crate::DisconnectReason::code`].
    #[prost(uint32, tag = "1")]
    pub reason: u32,
}

impl WireRefusal {
    fn new(refusal: &Refusal) -> Self {
        let mut detail = refusal.detail.clone();
        detail.truncate(detail.floor_char_boundary(REFUSAL_DETAIL_BYTES_MAX));
        Self { code: refusal.reason.code(), detail }
    }

    /// The peer's refusal; a code this build does not know counts as malformed, with the code in the detail.
    fn into_refusal(self) -> Refusal {
        let mut detail = printable(&self.detail);
        detail.truncate(detail.floor_char_boundary(REFUSAL_DETAIL_BYTES_MAX));
        match RefusalReason::from_code(self.code) {
            Some(reason) => Refusal { reason, detail },
            None => Refusal { reason: RefusalReason::Malformed, detail: format!("unknown code {}", self.code) },
        }
    }
}

#[cfg(test)]
mod tests;
