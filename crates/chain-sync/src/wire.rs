//! The messages: prost, field numbers never reused. Headers, certificates, sections and bodies inside are RLP.

use crate::config::{BODIES_PER_REQUEST_MAX, HEADER_BYTES_MAX, HEADERS_PER_RUN_MAX, STATUS_WAIT_MS_MAX};
use crate::error::WireError;
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use bytes::Bytes;
use prost::Message;
use trellis_primitives::{Block, COMMIT_SIGNATURES_MAX, CommitCertificate, ConsensusSection, Header, TxEnvelope};

/// What one stream asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The newest block, as soon as it is higher than `above` or the time is over.
    Status {
        /// What the asker has.
        above: u64,
        /// How long to wait, in milliseconds.
        wait_ms: u64,
    },
    /// Headers of these heights, and the certificate of the last that is sent.
    Headers {
        /// The first height.
        first: u64,
        /// The last height.
        last: u64,
    },
    /// Bodies of these heights.
    Bodies {
        /// The first height.
        first: u64,
        /// The last height.
        last: u64,
    },
}

#[derive(Clone, PartialEq, Message)]
struct RequestFrame {
    #[prost(oneof = "Ask", tags = "1, 2, 3")]
    ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Ask {
    #[prost(message, tag = "1")]
    Status(AskStatus),
    #[prost(message, tag = "2")]
    Headers(AskRange),
    #[prost(message, tag = "3")]
    Bodies(AskRange),
}

#[derive(Clone, PartialEq, Message)]
struct AskStatus {
    #[prost(uint64, tag = "1")]
    above: u64,
    #[prost(uint64, tag = "2")]
    wait_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct AskRange {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    last: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RunFrame {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    headers: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "2")]
    certificate: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    section: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StatusFrame {
    #[prost(uint64, tag = "1")]
    first_height: u64,
    #[prost(message, optional, tag = "2")]
    tip: Option<RunFrame>,
}

#[derive(Clone, PartialEq, Message)]
struct BodiesFrame {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    bodies: Vec<Bytes>,
}

fn bound(field: &'static str, actual: u64, max: u64) -> Result<(), WireError> {
    if actual == 0 || actual > max { Err(WireError::Bound { field, max, actual }) } else { Ok(()) }
}

fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn range(asked: AskRange, max: u64) -> Result<(u64, u64), WireError> {
    let AskRange { first, last } = asked;
    bound("first", first, u64::MAX)?;
    bound("range", last.checked_sub(first).map_or(0, |more| more.saturating_add(1)), max)?;
    Ok((first, last))
}

impl Request {
    /// The bytes of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let ask = match *self {
            Self::Status { above, wait_ms } => Ask::Status(AskStatus { above, wait_ms }),
            Self::Headers { first, last } => Ask::Headers(AskRange { first, last }),
            Self::Bodies { first, last } => Ask::Bodies(AskRange { first, last }),
        };
        RequestFrame { ask: Some(ask) }.encode_to_vec()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`WireError`]: not a request, an empty range or one that is too long.
    pub fn from_bytes(frame: &[u8]) -> Result<Self, WireError> {
        match RequestFrame::decode(frame)?.ask.ok_or(WireError::Missing("ask"))? {
            Ask::Status(AskStatus { above, wait_ms }) => {
                Ok(Self::Status { above, wait_ms: wait_ms.min(STATUS_WAIT_MS_MAX) })
            }
            Ask::Headers(asked) => {
                let (first, last) = range(asked, HEADERS_PER_RUN_MAX)?;
                Ok(Self::Headers { first, last })
            }
            Ask::Bodies(asked) => {
                let (first, last) = range(asked, BODIES_PER_REQUEST_MAX)?;
                Ok(Self::Bodies { first, last })
            }
        }
    }
}

/// Headers in a row and what proves the last of them, and with it all of them, to be final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// RLP of the headers as received: they are hashed, never re-encoded.
    pub headers: Vec<Bytes>,
    /// The certificate of the last; none for the genesis.
    pub certificate: Option<CommitCertificate>,
    /// RLP of the last one's section where that names a committee.
    pub section: Option<Bytes>,
}

impl Run {
    fn frame(&self) -> RunFrame {
        RunFrame {
            headers: self.headers.clone(),
            certificate: self.certificate.as_ref().map(alloy_rlp::encode).unwrap_or_default().into(),
            section: self.section.clone().unwrap_or_default(),
        }
    }

    fn of(frame: RunFrame) -> Result<Self, WireError> {
        bound("headers", long(frame.headers.len()), HEADERS_PER_RUN_MAX)?;
        for header in &frame.headers {
            bound("header", long(header.len()), long(HEADER_BYTES_MAX))?;
        }
        let certificate = (!frame.certificate.is_empty()).then_some(frame.certificate);
        let certificate: Option<CommitCertificate> = certificate
            .map(|bytes| alloy_rlp::decode_exact(&bytes))
            .transpose()
            .map_err(|error| WireError::Rlp { field: "certificate", error })?;
        if let Some(certificate) = &certificate {
            bound("signatures", long(certificate.signatures.len()), long(COMMIT_SIGNATURES_MAX))?;
        }
        let section = (!frame.section.is_empty()).then_some(frame.section);
        Ok(Self { headers: frame.headers, certificate, section })
    }

    /// The bytes of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.frame().encode_to_vec()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`WireError`]: no header, too many, too long ones, a certificate that is none.
    pub fn from_bytes(frame: Bytes) -> Result<Self, WireError> {
        Self::of(RunFrame::decode(frame)?)
    }
}

/// Where a peer stands: its newest block, with what proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The lowest height whose body it has.
    pub first_height: u64,
    /// The height of its newest block, as that one's header says.
    pub height: u64,
    /// That header and its certificate.
    pub tip: Run,
}

impl PeerStatus {
    /// The bytes of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        StatusFrame { first_height: self.first_height, tip: Some(self.tip.frame()) }.encode_to_vec()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`WireError`]: as for a run, and where it is not one header.
    pub fn from_bytes(frame: Bytes) -> Result<Self, WireError> {
        let StatusFrame { first_height, tip } = StatusFrame::decode(frame)?;
        let tip = Run::of(tip.ok_or(WireError::Missing("tip"))?)?;
        bound("headers", long(tip.headers.len()), 1)?;
        let header = tip.headers.first().ok_or(WireError::Missing("headers"))?;
        let header = Header::decode(&mut header.as_ref()).map_err(|error| WireError::Rlp { field: "header", error })?;
        Ok(Self { first_height, height: header.number, tip })
    }
}

/// Bodies in a row, one frame of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bodies {
    /// The height of the first.
    pub first: u64,
    /// RLP of each.
    pub bodies: Vec<Bytes>,
}

impl Bodies {
    /// The bytes of the frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        BodiesFrame { first: self.first, bodies: self.bodies.clone() }.encode_to_vec()
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`WireError`]: none or too many.
    pub fn from_bytes(frame: Bytes) -> Result<Self, WireError> {
        let BodiesFrame { first, bodies } = BodiesFrame::decode(frame)?;
        bound("bodies", long(bodies.len()), BODIES_PER_REQUEST_MAX)?;
        Ok(Self { first, bodies })
    }
}

/// What a block has beside its header.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Body {
    /// The transactions in order.
    pub transactions: Vec<TxEnvelope>,
    /// What consensus needs.
    pub section: ConsensusSection,
}

#[derive(RlpEncodable)]
struct BodyOf<'a> {
    transactions: &'a Vec<TxEnvelope>,
    section: &'a ConsensusSection,
}

impl Body {
    /// RLP of a block's body.
    #[must_use]
    pub fn rlp_of(block: &Block) -> Bytes {
        alloy_rlp::encode(BodyOf { transactions: &block.transactions, section: &block.section }).into()
    }

    /// Reads RLP, all of it.
    ///
    /// # Errors
    /// [`WireError::Rlp`].
    pub fn from_rlp(bytes: &[u8]) -> Result<Self, WireError> {
        alloy_rlp::decode_exact(bytes).map_err(|error| WireError::Rlp { field: "body", error })
    }
}
