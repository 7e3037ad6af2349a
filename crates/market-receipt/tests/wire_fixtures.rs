//! The frames of `/trellis/job/1`, pinned byte for byte, and readers that survive any bytes.
//!
//! A changed line in `wire_fixtures.txt` is a changed protocol: give it a new version instead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    missing_docs
)]

use proptest::prelude::*;
use std::fmt::Write as _;
use trellis_crypto::AccountKey;
use trellis_market_receipt::wire::{
    Accept, Accepted, ChannelState, Chunk, Countersign, Due, GatewayFrame, HeldVoucher, JOB_FRAME_BYTES_MAX, JobError,
    JobErrorCode, PairRootOffer, Prompt, ProviderFrame, ProviderReceipt, Quote, QuoteRequest, VOUCHER_INCREMENTS_MAX,
    VoucherFrame, WireError,
};
use trellis_market_receipt::{
    FinishReason, InstructionSet, JobKind, Receipt, ReceiptDetails, SignedAdvert, SignedPairRoot, SignedReceipt,
};
use trellis_primitives::{Address, B256, Bytes, ChannelId, JobId, NodeId, UnixMs, Wei, keccak256};

const FIXTURES: &str = include_str!("wire_fixtures.txt");

fn job() -> JobId {
    JobId(B256::repeat_byte(0x0b))
}

fn channel() -> ChannelId {
    ChannelId(B256::repeat_byte(0xc4))
}

fn voucher() -> VoucherFrame {
    let voucher = HeldVoucher { channel: channel(), cumulative: Wei(1 << 100), signature: [7; 65] };
    VoucherFrame { voucher, increments: vec![(job(), Wei(5)), (JobId(B256::ZERO), Wei(1 << 70))] }
}

fn receipt() -> SignedReceipt {
    let receipt = Receipt {
        version: 1,
        chain_id: 97_001,
        channels: Address::repeat_byte(1),
        aggregator: Address::repeat_byte(2),
        channel: channel(),
        sequence: 3,
        job: job(),
        gateway: NodeId([4; 32]),
        provider: NodeId([5; 32]),
        model_digest: B256::repeat_byte(6),
        tokenizer_digest: B256::repeat_byte(7),
        engine_build: B256::repeat_byte(8),
        instruction_set: InstructionSet::AARCH64_NEON,
        request_digest: B256::repeat_byte(9),
        parameters_hash: B256::repeat_byte(10),
        prompt_commitment: B256::repeat_byte(11),
        output_digest: B256::repeat_byte(12),
        fingerprint_root: B256::repeat_byte(13),
        tokens_in: 14,
        tokens_out: 15,
        finish_reason: FinishReason::Length,
        started_at: UnixMs(16),
        time_to_first_token_ms: 17,
        duration_ms: 18,
        price_in: Wei(19),
        price_out: Wei(20),
        cost: Wei(21),
        written_off: Wei(22),
        error_hash: B256::ZERO,
    };
    let mut signed = SignedReceipt::unsigned(receipt, ReceiptDetails::default());
    signed.provider_signature = Bytes::from(vec![9; 65]);
    signed
}

fn chunk() -> Chunk {
    Chunk { job: job(), text: "Grüße".into(), tokens_in: 3, tokens_out: 4 }
}

fn accept() -> Accept {
    let mut accept = Accept {
        job: job(),
        channel: channel(),
        sequence: 9,
        model: "tiny".into(),
        price_in: Wei(1),
        price_out: Wei(2),
        max_cost: Wei(3),
        aggregator: Address::repeat_byte(4),
        request_digest: B256::repeat_byte(5),
        parameters_hash: B256::repeat_byte(6),
        prompt_commitment: B256::repeat_byte(7),
        signature: [0; 65],
    };
    accept.sign(97_001, NodeId([4; 32]), NodeId([5; 32]), &AccountKey::from_bytes(&[1; 32]).unwrap());
    accept
}

fn pair_root() -> SignedPairRoot {
    SignedPairRoot {
        record_rlp: Bytes::from_static(b"record"),
        gateway_signature: Bytes::from_static(b"gateway"),
        provider_signature: Bytes::new(),
    }
}

fn gateway_frames() -> Vec<(&'static str, GatewayFrame)> {
    vec![
        ("advert_request", GatewayFrame::AdvertRequest),
        (
            "quote_request",
            GatewayFrame::QuoteRequest(QuoteRequest {
                model: "tiny".into(),
                request_bytes: 100,
                max_tokens: 64,
                channel: Some(channel()),
            }),
        ),
        ("accept", GatewayFrame::Accept(accept())),
        ("voucher", GatewayFrame::Voucher(voucher())),
        (
            "prompt",
            GatewayFrame::Prompt(Prompt {
                job: job(),
                kind: JobKind::Chat,
                salt: B256::repeat_byte(3),
                request: Bytes::from_static(b"{}"),
            }),
        ),
        (
            "countersign",
            GatewayFrame::Countersign(Countersign { job: job(), signature: [8; 65], voucher: Some(voucher()) }),
        ),
        ("cancel", GatewayFrame::Cancel(job())),
        ("channel_sync", GatewayFrame::ChannelSync(channel())),
        (
            "pair_root_offer",
            GatewayFrame::PairRootOffer(PairRootOffer { root: pair_root(), digests: vec![B256::repeat_byte(1)] }),
        ),
    ]
}

fn provider_frames() -> Vec<(&'static str, ProviderFrame)> {
    let held = voucher().voucher;
    let advert =
        SignedAdvert { advert_rlp: Bytes::from_static(b"advert"), signature: Bytes::from_static(b"signature") };
    vec![
        ("advert", ProviderFrame::Advert(advert)),
        (
            "quote",
            ProviderFrame::Quote(Quote { price_in: Wei(1), price_out: Wei(2), expires_ms: 3, queued: 4, prepay: true }),
        ),
        ("accepted", ProviderFrame::Accepted(Accepted { job: job(), held: Some(held), prepay: true })),
        ("due", ProviderFrame::Due(Due { job: job(), tokens_in: 1, tokens_out: 2, due: Wei(3) })),
        ("voucher_ack", ProviderFrame::VoucherAck(held)),
        ("chunk", ProviderFrame::Chunk(chunk())),
        (
            "receipt",
            ProviderFrame::Receipt(Box::new(ProviderReceipt {
                last: chunk(),
                receipt: receipt(),
                token_ids: vec![1, 300, 70_000],
            })),
        ),
        ("receipt_ack", ProviderFrame::ReceiptAck(job())),
        (
            "error",
            ProviderFrame::Error(JobError { job: job(), code: JobErrorCode::PaymentLate, message: "late".into() }),
        ),
        (
            "channel_state",
            ProviderFrame::ChannelState(ChannelState {
                channel: channel(),
                held: Some(held),
                half_signed: vec![receipt()],
            }),
        ),
        ("pair_root_answer", ProviderFrame::PairRootAnswer(pair_root())),
    ]
}

/// Every frame as it is encoded now, one `name hex` a line; long ones as their hash.
fn current() -> String {
    let mut out = String::new();
    let mut line = |name: &str, bytes: Vec<u8>| {
        let shown = if bytes.len() <= 400 { hex::encode(&bytes) } else { format!("keccak256 {}", keccak256(&bytes)) };
        writeln!(out, "{name} {} {shown}", bytes.len()).unwrap();
    };
    for (name, frame) in gateway_frames() {
        line(name, frame.encode());
    }
    for (name, frame) in provider_frames() {
        line(name, frame.encode());
    }
    out
}

#[test]
fn every_frame_has_the_bytes_it_had_when_the_protocol_was_fixed() {
    let now = current();
    for (fixed, now) in FIXTURES.lines().zip(now.lines()) {
        assert_eq!(fixed, now);
    }
    assert_eq!(FIXTURES.lines().count(), now.lines().count(), "{now}");
}

#[test]
fn every_frame_survives_its_own_bytes() {
    for (name, frame) in gateway_frames() {
        assert_eq!(GatewayFrame::decode(&frame.encode()).unwrap(), frame, "{name}");
    }
    for (name, frame) in provider_frames() {
        assert_eq!(ProviderFrame::decode(&frame.encode()).unwrap(), frame, "{name}");
    }
}

#[test]
fn an_accept_names_its_signer_and_no_field_of_it_can_change() {
    let (gateway, provider) = (NodeId([4; 32]), NodeId([5; 32]));
    let good = accept();
    let signer = AccountKey::from_bytes(&[1; 32]).unwrap().address();
    assert_eq!(good.signer(97_001, gateway, provider).unwrap(), signer);
    let mut richer = good.clone();
    richer.max_cost = Wei(4);
    assert_ne!(richer.signer(97_001, gateway, provider).ok(), Some(signer));
    assert_ne!(good.signer(97_001, provider, gateway).ok(), Some(signer));
    assert_ne!(good.signer(97_002, gateway, provider).ok(), Some(signer));
}

#[test]
fn bounds_are_kept_and_named() {
    let mut long = voucher();
    long.increments = vec![(job(), Wei(1)); VOUCHER_INCREMENTS_MAX + 1];
    let refused = GatewayFrame::decode(&GatewayFrame::Voucher(long).encode());
    assert!(matches!(refused, Err(WireError::Bound { field: "increments", .. })), "{refused:?}");
    let text = Chunk { text: "x".repeat(70_000), ..chunk() };
    let refused = ProviderFrame::decode(&ProviderFrame::Chunk(text).encode());
    assert!(matches!(refused, Err(WireError::Bound { field: "text", .. })), "{refused:?}");
    let huge = vec![0u8; JOB_FRAME_BYTES_MAX + 1];
    assert!(matches!(GatewayFrame::decode(&huge), Err(WireError::TooLong { .. })));
    assert_eq!(GatewayFrame::decode(&[]), Err(WireError::Unknown));
    let message = "é".repeat(1_000);
    let cut = ProviderFrame::Error(JobError { job: job(), code: JobErrorCode::Busy, message });
    assert!(
        matches!(ProviderFrame::decode(&cut.encode()), Ok(ProviderFrame::Error(error)) if error.message.len() == 1_024)
    );
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = GatewayFrame::decode(&bytes);
        let _ = ProviderFrame::decode(&bytes);
    }

    #[test]
    fn a_damaged_frame_is_an_error_or_another_frame_and_never_a_panic(pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let frames = gateway_frames();
        let mut bytes = pick.get(&frames).1.encode();
        if !bytes.is_empty() {
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        let _ = GatewayFrame::decode(&bytes);
    }
}
