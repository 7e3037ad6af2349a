//! What a provider, a gateway or an aggregator may send, and what their disks may hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use trellis_fuzz::fuzz;
use trellis_market_inference::Fingerprint;
use trellis_market_journal::{Marker, Record};
use trellis_market_receipt::wire::{Accept, GatewayFrame, ProviderFrame};
use trellis_market_receipt::{JobKind, JobRequest, PqProof, Receipt, SignedPairRoot, SignedReceipt};
use trellis_primitives::{B256, Bytes, UnixMs};

/// The pinned frames of the job protocol.
const FRAMES: &str = include_str!("../../crates/market-receipt/tests/wire_fixtures.txt");

fn frames() -> Vec<Vec<u8>> {
    FRAMES.lines().filter_map(|line| hex::decode(line.split_whitespace().nth(2)?).ok()).collect()
}

// row: NET-56
#[test]
fn frames_of_a_gateway_encode_to_what_they_were_read_from() {
    fuzz!(frames(), |bytes: &[u8]| {
        if let Ok(frame) = GatewayFrame::decode(bytes) {
            let again = GatewayFrame::decode(&frame.encode());
            assert_eq!(again.as_ref(), Ok(&frame));
        }
    });
}

// row: NET-56
#[test]
fn frames_of_a_provider_encode_to_what_they_were_read_from() {
    fuzz!(frames(), |bytes: &[u8]| {
        if let Ok(frame) = ProviderFrame::decode(bytes) {
            let again = ProviderFrame::decode(&frame.encode());
            assert_eq!(again.as_ref(), Ok(&frame));
        }
    });
}

// row: MKT-20
#[test]
fn receipts_pair_roots_and_their_proofs_are_read_or_refused() {
    fuzz!(frames(), |bytes: &[u8]| {
        let _ = Accept::from_bytes(bytes);
        let _ = SignedReceipt::from_bytes(bytes);
        let _ = SignedPairRoot::from_bytes(bytes);
        let _ = PqProof::from_bytes(bytes);
        if let Ok(receipt) = Receipt::from_abi_bytes(bytes) {
            assert_eq!(receipt.to_abi_bytes(), bytes, "one receipt has one encoding");
        }
    });
}

#[test]
fn requests_of_a_client_are_parsed_or_refused() {
    let chat = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":3,"temperature":0.5,"stream":true,"stop":["x"]}"#;
    let completion = br#"{"model":"m","prompt":"hi","max_tokens":3,"top_p":0.9,"seed":7}"#;
    fuzz!(vec![chat.to_vec(), completion.to_vec()], |bytes: &[u8]| {
        for kind in [JobKind::Chat, JobKind::Completion] {
            let _ = JobRequest::parse(kind, Bytes::copy_from_slice(bytes));
        }
    });
}

#[test]
fn a_journal_record_has_one_encoding() {
    let record = Record::Marker(Marker { key: B256::repeat_byte(3), payload: Bytes::from_static(b"value") });
    fuzz!(vec![record.encode_body(UnixMs(7)).to_vec()], |bytes: &[u8]| {
        if let Ok((at, record)) = Record::decode_body(bytes) {
            let again = record.encode_body(at);
            assert_eq!(Record::decode_body(&again).unwrap(), (at, record));
        }
    });
}

#[test]
fn a_fingerprint_that_decodes_encodes_to_the_same_bytes() {
    fuzz!(vec![vec![0; 64], vec![1; 200]], |bytes: &[u8]| {
        if let Ok(fingerprint) = Fingerprint::from_bytes(bytes) {
            assert_eq!(fingerprint.to_bytes(), bytes);
        }
    });
}
