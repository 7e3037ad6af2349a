//! Receipts, the sum tree and promises of inclusion, byte for byte as Settlement has them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use trellis_crypto::AccountKey;
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{
    FinishReason, IncludeBy, InstructionSet, Receipt, ReceiptDetails, ReceiptTree, SignedReceipt, receipt_leaf,
};
use trellis_primitives::{Address, B256, Bytes, ChannelId, JobId, NodeId, UnixMs, Wei};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../contracts/fixtures/vectors.json")).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(value: &Value) -> T {
    text(value).parse().unwrap()
}

fn word(value: &Value) -> B256 {
    text(value).parse().unwrap()
}

fn address(value: &Value) -> Address {
    text(value).parse().unwrap()
}

fn wei(value: &Value) -> Wei {
    text(value).parse().unwrap()
}

fn settlement(vectors: &Value) -> Domain {
    Domain { chain_id: number(&vectors["chainId"]), contract: address(&vectors["settlement"]) }
}

fn key(vectors: &Value, name: &str) -> AccountKey {
    let bytes = word(&vectors["keys"][name]);
    AccountKey::from_bytes(&bytes.0).unwrap()
}

fn receipt(value: &Value) -> Receipt {
    Receipt {
        version: number(&value["version"]),
        chain_id: number(&value["chainId"]),
        channels: address(&value["channels"]),
        aggregator: address(&value["aggregator"]),
        channel: ChannelId(word(&value["channelId"])),
        sequence: number(&value["sequence"]),
        job: JobId(word(&value["jobId"])),
        gateway: NodeId::from(word(&value["gatewayNode"])),
        provider: NodeId::from(word(&value["providerNode"])),
        model_digest: word(&value["modelDigest"]),
        tokenizer_digest: word(&value["tokenizerDigest"]),
        engine_build: word(&value["engineBuild"]),
        instruction_set: InstructionSet(number(&value["instructionSet"])),
        request_digest: word(&value["requestDigest"]),
        parameters_hash: word(&value["parametersHash"]),
        prompt_commitment: word(&value["promptCommitment"]),
        output_digest: word(&value["outputDigest"]),
        fingerprint_root: word(&value["fingerprintRoot"]),
        tokens_in: number(&value["tokensIn"]),
        tokens_out: number(&value["tokensOut"]),
        finish_reason: FinishReason::from_number(number(&value["finishReason"])).unwrap(),
        started_at: UnixMs(number(&value["startedAtMs"])),
        time_to_first_token_ms: number(&value["timeToFirstTokenMs"]),
        duration_ms: number(&value["durationMs"]),
        price_in: wei(&value["priceIn"]),
        price_out: wei(&value["priceOut"]),
        cost: wei(&value["cost"]),
        written_off: wei(&value["writtenOff"]),
        error_hash: word(&value["errorHash"]),
    }
}

fn signed(vectors: &Value, entry: &Value) -> SignedReceipt {
    let domain = settlement(vectors);
    let mut signed = SignedReceipt::unsigned(receipt(&entry["value"]), ReceiptDetails::default());
    signed.sign_as_gateway(&domain, &key(vectors, "signer"));
    signed.sign_as_provider(&domain, &key(vectors, "payee"));
    signed.pq_proof = text(&entry["pqProof"]).parse::<Bytes>().unwrap();
    signed
}

// row: MKT-20
#[test]
fn receipts_hash_and_sign_as_the_contract_expects() {
    let vectors = vectors();
    let domain = settlement(&vectors);
    assert_eq!(domain.separator().to_string(), text(&vectors["domainSeparators"]["settlement"]));
    for entry in vectors["receipts"].as_array().unwrap() {
        let signed = signed(&vectors, entry);
        assert_eq!(signed.receipt.struct_hash().to_string(), text(&entry["structHash"]));
        assert_eq!(signed.receipt.digest(&domain).to_string(), text(&entry["digest"]));
        assert_eq!(signed.gateway_signature.to_string(), text(&entry["signatures"]["signer"]));
        assert_eq!(signed.provider_signature.to_string(), text(&entry["signatures"]["payee"]));
        assert_eq!(receipt_leaf(&signed).unwrap().to_string(), text(&entry["leaf"]));
        assert_eq!(Receipt::from_abi_bytes(&signed.receipt.to_abi_bytes()).unwrap(), signed.receipt);
    }
}

// row: MKT-41
#[test]
fn trees_have_the_contracts_roots_sums_and_depths() {
    let vectors = vectors();
    let mut all: Vec<SignedReceipt> =
        vectors["receipts"].as_array().unwrap().iter().map(|entry| signed(&vectors, entry)).collect();
    all.sort_by_key(|signed| (signed.receipt.channel, signed.receipt.sequence));
    let given: Vec<SignedReceipt> =
        vectors["receipts"].as_array().unwrap().iter().map(|entry| signed(&vectors, entry)).collect();
    assert_eq!(all, given, "the vectors are sorted");
    for (name, count) in [("tree", all.len()), ("treeOfFirst", 1), ("treeOfThree", 3)] {
        let tree = ReceiptTree::new(&all[..count]).unwrap();
        let expected = &vectors[name];
        assert_eq!(tree.root().to_string(), text(&expected["root"]), "{name}");
        assert_eq!(tree.sum().to_string(), text(&expected["sum"]), "{name}");
        assert_eq!(tree.depth(), number::<usize>(&expected["depth"]), "{name}");
        assert_eq!(tree.count(), number::<u32>(&expected["count"]), "{name}");
        for index in 0..tree.count() {
            let proof = tree.prove(index).unwrap();
            let signed = &all[usize::try_from(index).unwrap()];
            let leaf = receipt_leaf(signed).unwrap();
            assert_eq!(proof.root_of(leaf, signed.receipt.cost.0), Some((tree.root(), tree.sum())));
        }
    }
}

#[test]
fn an_unsorted_list_or_a_half_signed_receipt_makes_no_tree() {
    let vectors = vectors();
    let mut all: Vec<SignedReceipt> =
        vectors["receipts"].as_array().unwrap().iter().map(|entry| signed(&vectors, entry)).collect();
    let twice = vec![all[0].clone(), all[0].clone()];
    assert!(ReceiptTree::new(&twice).is_err());
    all[1].gateway_signature = Bytes::new();
    assert!(ReceiptTree::new(&all).is_err());
}

#[test]
fn promises_of_inclusion_are_those_of_the_contract() {
    let vectors = vectors();
    let (domain, expected) = (settlement(&vectors), &vectors["includeBy"]);
    let aggregator = key(&vectors, "aggregator");
    let promised = vectors["receipts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["structHash"] == expected["value"]["receipt"]);
    let signed = signed(&vectors, promised.expect("the promise is for one of the receipts"));
    let promise = IncludeBy::sign(&domain, &signed, number(&expected["value"]["batch"]), &aggregator);
    assert_eq!(promise.digest(&domain).to_string(), text(&expected["digest"]));
    assert_eq!(promise.signature.to_string(), text(&expected["signatures"]["aggregator"]));
    promise.verify(&domain, aggregator.address()).unwrap();
    let mut changed = promise;
    changed.batch += 1;
    assert!(changed.verify(&domain, aggregator.address()).is_err());
}
