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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trellis_primitives::{Address, B256, CommitSignature};

    fn run() -> Run {
        let signature = CommitSignature { validator: Address::repeat_byte(1), signature: vec![9; 64].into() };
        Run {
            headers: vec![alloy_rlp::encode(Header { number: 7, ..Header::default() }).into()],
            certificate: Some(CommitCertificate {
                height: 7,
                round: 1,
                block_hash: B256::repeat_byte(7),
                signatures: vec![signature],
            }),
            section: Some(alloy_rlp::encode(ConsensusSection { time_ms: 5, ..ConsensusSection::default() }).into()),
        }
    }

    // Pinned: a change of these bytes is another version of the protocol.
    #[test]
    fn the_bytes_of_every_message_are_pinned() {
        let request = |request: Request| hex::encode(request.to_bytes());
        assert_eq!(request(Request::Status { above: 300, wait_ms: 10_000 }), "0a0608ac0210904e");
        assert_eq!(request(Request::Headers { first: 1, last: 256 }), "12050801108002");
        assert_eq!(request(Request::Bodies { first: 5, last: 6 }), "1a0408051006");
        let bodies = Bodies { first: 5, bodies: vec![vec![0xc2, 0xc0, 0xc0].into()] };
        assert_eq!(hex::encode(bodies.to_bytes()), "08051203c2c0c0");
        let status = PeerStatus { first_height: 3, height: 7, tip: run() };
        let digest = |bytes: &[u8]| trellis_primitives::keccak256(bytes).to_string();
        assert_eq!(digest(&run().to_bytes()), "0x1b40c5fd84558cd634dcf64d78b9c4c5bba67de109b142a48e35250c81c60a09");
        assert_eq!(digest(&status.to_bytes()), "0xe28b20c2f6941c93ae0b7ef30cc9f65af31dd900bb0ed44eed9005f7f80978e2");
    }

    #[test]
    fn every_message_survives_its_own_bytes() {
        for request in [
            Request::Status { above: 0, wait_ms: 0 },
            Request::Headers { first: 1, last: 1 },
            Request::Bodies { first: u64::MAX, last: u64::MAX },
        ] {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        }
        let genesis = Run { certificate: None, section: None, ..run() };
        for run in [run(), genesis] {
            assert_eq!(Run::from_bytes(run.to_bytes().into()), Ok(run.clone()));
            let status = PeerStatus { first_height: 0, height: 7, tip: run };
            assert_eq!(PeerStatus::from_bytes(status.to_bytes().into()), Ok(status));
        }
        let bodies = Bodies { first: 1, bodies: vec![Bytes::from_static(b"x"); 256] };
        assert_eq!(Bodies::from_bytes(bodies.to_bytes().into()), Ok(bodies));
    }

    // row: NET-60
    #[test]
    fn what_is_empty_or_too_long_is_refused() {
        let headers = |first, last| Request::from_bytes(&Request::Headers { first, last }.to_bytes());
        for (first, last) in [(0, 5), (5, 4), (1, 257), (1, u64::MAX)] {
            assert!(matches!(headers(first, last), Err(WireError::Bound { .. })), "{first} to {last}");
        }
        let many = |count: usize| Run { headers: vec![Bytes::from_static(b"x"); count], ..run() }.to_bytes();
        assert!(Run::from_bytes(many(256).into()).is_ok());
        for count in [0, 257] {
            assert!(matches!(Run::from_bytes(many(count).into()), Err(WireError::Bound { .. })), "{count}");
        }
        let long = Run { headers: vec![vec![0; HEADER_BYTES_MAX + 1].into()], ..run() };
        assert!(matches!(Run::from_bytes(long.to_bytes().into()), Err(WireError::Bound { .. })));
        let bodies = |count: usize| Bodies { first: 1, bodies: vec![Bytes::new(); count] }.to_bytes();
        assert!(Bodies::from_bytes(bodies(0).into()).is_err() && Bodies::from_bytes(bodies(257).into()).is_err());
        let two =
            PeerStatus { first_height: 0, height: 7, tip: Run { headers: vec![run().headers[0].clone(); 2], ..run() } };
        assert!(matches!(PeerStatus::from_bytes(two.to_bytes().into()), Err(WireError::Bound { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::from_bytes(&bytes);
            let _ = Run::from_bytes(bytes.clone().into());
            let _ = PeerStatus::from_bytes(bytes.clone().into());
            let _ = Bodies::from_bytes(bytes.clone().into());
            let _ = Body::from_rlp(&bytes);
        }
    }
}
