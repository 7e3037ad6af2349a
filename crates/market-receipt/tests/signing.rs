//! What both sides sign, and that nothing signed can be changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    missing_docs
)]

use proptest::prelude::*;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use trellis_crypto::{AccountKey, HybridKey};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{
    Advert, AdvertError, Batch, BatchError, FinishReason, InstructionSet, ModelOffer, PairRootBuilder, PairRootError,
    Parameters, PqProof, RECEIPT_ABI_BYTES, Receipt, ReceiptDetails, ReceiptFormatError, ReceiptParties, SignedAdvert,
    SignedReceipt, VerifyError, engine_build_digest, error_digest,
};
use trellis_primitives::{Address, B256, ChannelId, JobId, NodeId, UnixMs, Wei, keccak256};

fn domain() -> Domain {
    Domain { chain_id: 97_001, contract: Address::repeat_byte(0x5e) }
}

fn key(byte: u8) -> AccountKey {
    AccountKey::from_bytes(&[byte; 32]).unwrap()
}

fn details() -> ReceiptDetails {
    let parameters = Parameters { max_tokens: 64, top_p_millionths: 1_000_000, seed: 7, ..Parameters::default() };
    ReceiptDetails { model: "tiny".into(), engine: "engine 1".into(), parameters, error: String::new() }
}

fn receipt(sequence: u64) -> Receipt {
    Receipt {
        version: 1,
        chain_id: 97_001,
        channels: Address::repeat_byte(0xc4),
        aggregator: Address::repeat_byte(0xa9),
        channel: ChannelId(B256::repeat_byte(1)),
        sequence,
        job: JobId(keccak256(sequence.to_be_bytes())),
        gateway: NodeId([2; 32]),
        provider: NodeId([3; 32]),
        model_digest: B256::repeat_byte(4),
        tokenizer_digest: B256::repeat_byte(5),
        engine_build: engine_build_digest("engine 1"),
        instruction_set: InstructionSet::X86_64_V3,
        request_digest: B256::repeat_byte(6),
        parameters_hash: details().parameters.hash(),
        prompt_commitment: B256::repeat_byte(7),
        output_digest: B256::repeat_byte(8),
        fingerprint_root: B256::repeat_byte(9),
        tokens_in: 10,
        tokens_out: 20,
        finish_reason: FinishReason::Stop,
        started_at: UnixMs(1_790_000_000_000),
        time_to_first_token_ms: 30,
        duration_ms: 40,
        price_in: Wei(50),
        price_out: Wei(60),
        cost: Wei(70),
        written_off: Wei(0),
        error_hash: error_digest(""),
    }
}

fn signed(receipt: Receipt) -> SignedReceipt {
    let mut signed = SignedReceipt::unsigned(receipt, details());
    signed.sign_as_gateway(&domain(), &key(1));
    signed.sign_as_provider(&domain(), &key(2));
    signed
}

fn parties() -> ReceiptParties {
    ReceiptParties { gateway_signer: key(1).address(), provider_payee: key(2).address() }
}

fn verify(signed: &SignedReceipt) -> Result<(), VerifyError> {
    signed.verify(&domain(), Address::repeat_byte(0xc4), &parties())
}

// row: MKT-20
#[test]
fn a_receipt_with_any_word_changed_does_not_verify() {
    let good = signed(receipt(1));
    verify(&good).unwrap();
    let words = good.receipt.to_abi_bytes();
    assert_eq!(words.len(), RECEIPT_ABI_BYTES);
    for word in 0..RECEIPT_ABI_BYTES / 32 {
        let mut changed = words.clone();
        changed[word * 32 + 31] ^= 1;
        // Some changes are no receipt at all (version, finish reason); all others must not verify.
        if let Ok(receipt) = Receipt::from_abi_bytes(&changed) {
            let forged = SignedReceipt { receipt, ..good.clone() };
            assert!(verify(&forged).is_err(), "word {word}");
        }
    }
}

#[test]
fn each_missing_or_foreign_signature_and_text_is_named() {
    let good = signed(receipt(1));
    let mut half = good.clone();
    half.gateway_signature = trellis_primitives::Bytes::new();
    assert_eq!(verify(&half), Err(VerifyError::Unsigned { side: "gateway" }));
    let mut swapped = good.clone();
    std::mem::swap(&mut swapped.gateway_signature, &mut swapped.provider_signature);
    assert!(matches!(verify(&swapped), Err(VerifyError::Signer { side: "provider", .. })));
    let mut renamed = good.clone();
    renamed.details.engine = "engine 2".into();
    assert!(matches!(verify(&renamed), Err(VerifyError::Detail { field: "engine build", .. })));
    let elsewhere = Domain { chain_id: 1, ..domain() };
    let other = good.verify(&elsewhere, Address::repeat_byte(0xc4), &parties());
    assert_eq!(other, Err(VerifyError::Chain { expected: 1, actual: 97_001 }));
    assert!(matches!(good.verify(&domain(), Address::ZERO, &parties()), Err(VerifyError::Channels { .. })));
    assert_eq!(SignedReceipt::from_bytes(&good.to_bytes()).unwrap(), good);
}

#[test]
fn wide_words_and_unknown_versions_are_refused_by_name() {
    let words = receipt(1).to_abi_bytes();
    let mut wide = words.clone();
    wide[32] = 1;
    assert_eq!(Receipt::from_abi_bytes(&wide), Err(ReceiptFormatError::Width { field: "chainId", bits: 128 }));
    let mut newer = words.clone();
    newer[31] = 2;
    assert_eq!(Receipt::from_abi_bytes(&newer), Err(ReceiptFormatError::Version { expected: 1, actual: 2 }));
    assert!(matches!(Receipt::from_abi_bytes(&words[1..]), Err(ReceiptFormatError::Length { .. })));
}

// row: MKT-20
#[test]
fn both_sides_sign_the_root_of_a_pairs_receipts_with_ml_dsa() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (gateway, provider) = (HybridKey::generate(&mut rng).unwrap(), HybridKey::generate(&mut rng).unwrap());
    let mut receipts: Vec<SignedReceipt> = (0..5).map(receipt).map(signed).collect();
    for signed in &mut receipts {
        signed.receipt.gateway = gateway.node_id();
        signed.receipt.provider = provider.node_id();
    }
    let mut builder = PairRootBuilder::new(97_001, gateway.node_id(), provider.node_id(), 0, B256::ZERO);
    for (at, signed) in (0u64..).zip(&receipts) {
        builder.add(signed.receipt.struct_hash(), 1_000 + at).unwrap();
    }
    assert!(!builder.is_due(1_999));
    assert!(builder.is_due(2_000));
    let (mut root, digests) = builder.make(2_000).unwrap();
    root.sign_as_gateway(&gateway).unwrap();
    root.sign_as_provider(&provider).unwrap();
    root.verify_gateway(gateway.public()).unwrap();
    root.verify_provider(provider.public()).unwrap();
    root.verify_receipts(&digests).unwrap();
    assert!(matches!(root.verify_gateway(provider.public()), Err(PairRootError::Party { .. })));
    let proofs = builder.taken(&root).unwrap();
    assert!(builder.waiting().is_empty());
    for ((_, proof), signed) in proofs.iter().zip(&receipts) {
        let read = PqProof::from_bytes(&proof.to_bytes()).unwrap();
        read.verify(signed, &root).unwrap();
    }
    assert_eq!(proofs[0].1.verify(&receipts[1], &root), Err(PairRootError::NotUnder));
    let mut forged = root.clone();
    forged.record_rlp = builder_record(&root, 6);
    assert!(matches!(forged.verify_gateway(gateway.public()), Err(PairRootError::Signature { .. })));
}

fn builder_record(root: &trellis_market_receipt::SignedPairRoot, count: u16) -> trellis_primitives::Bytes {
    let mut record = root.record().unwrap();
    record.count = count;
    record.to_rlp()
}

#[test]
fn a_batch_sorts_adds_up_and_refuses_duplicates_and_other_aggregators() {
    let aggregator = Address::repeat_byte(0xa9);
    let receipts: Vec<SignedReceipt> = [3, 1, 2].map(receipt).map(signed).to_vec();
    let batch = Batch::new(1, 5, aggregator, receipts.clone()).unwrap();
    assert_eq!((batch.totals.cost, batch.totals.tokens_out, batch.tree.count()), (Wei(210), 60, 3));
    let sequences: Vec<u64> = batch.receipts.iter().map(|signed| signed.receipt.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let twice = vec![receipts[0].clone(), receipts[0].clone()];
    assert!(matches!(Batch::new(1, 5, aggregator, twice), Err(BatchError::Tree(_))));
    assert!(matches!(Batch::new(1, 5, Address::ZERO, receipts), Err(BatchError::Aggregator { .. })));
}

// row: MKT-12
#[test]
fn an_advert_is_signed_short_lived_and_of_the_node_that_was_asked() {
    let provider = NodeId([3; 32]);
    let advert = Advert {
        provider: provider.to_b256(),
        payee: key(2).address(),
        payout: key(2).address(),
        aggregator: Address::ZERO,
        risk_limit: Wei(10),
        deposit_min: Wei(20),
        challenge_seconds_min: 5,
        made_at_ms: 1_000,
        expires_ms: 61_000,
        models: vec![offer("tiny")],
    };
    let signed = SignedAdvert::sign(&advert, 97_001, &key(2));
    let read = signed.verify(97_001, provider, UnixMs(2_000)).unwrap();
    assert_eq!(read.offer("tiny").unwrap().price_out, Wei(2));
    assert!(matches!(signed.verify(97_001, provider, UnixMs(61_000)), Err(AdvertError::Expired { .. })));
    assert!(matches!(signed.verify(97_001, NodeId([4; 32]), UnixMs(2_000)), Err(AdvertError::Provider { .. })));
    assert!(matches!(signed.verify(1, provider, UnixMs(2_000)), Err(AdvertError::Signer { .. })));
    let forged = SignedAdvert::sign(&advert, 97_001, &key(9));
    assert!(matches!(forged.verify(97_001, provider, UnixMs(2_000)), Err(AdvertError::Signer { .. })));
}

fn offer(name: &str) -> ModelOffer {
    ModelOffer {
        name: name.into(),
        model_digest: B256::repeat_byte(4),
        tokenizer_digest: B256::ZERO,
        price_in: Wei(1),
        price_out: Wei(2),
        context_tokens: 512,
        capacity: 4,
        running: 0,
        kinds: 3,
        engine: "engine 1".into(),
        instruction_set: 3,
        region: String::new(),
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1_200)) {
        let _ = Receipt::from_abi_bytes(&bytes);
        let _ = SignedReceipt::from_bytes(&bytes);
        let _ = PqProof::from_bytes(&bytes);
        let _ = trellis_market_receipt::PairRoot::from_rlp(&bytes);
        let _ = SignedAdvert { advert_rlp: bytes.clone().into(), signature: bytes.into() }.verify(1, NodeId([0; 32]), UnixMs(0));
    }
}
