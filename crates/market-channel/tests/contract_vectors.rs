//! Channel ids, vouchers and closing agreements, byte for byte as the contracts have them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use trellis_crypto::AccountKey;
use trellis_market_channel::{
    ChannelTerms, CloseAgreement, close_digest, sign_voucher, verify_voucher, voucher_digest,
};
use trellis_market_receipt::eip712::Domain;
use trellis_primitives::{Address, Bytes, ChannelId, Wei};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../contracts/fixtures/vectors.json")).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn address(value: &Value) -> Address {
    text(value).parse().unwrap()
}

fn channels(vectors: &Value) -> Domain {
    Domain { chain_id: vectors["chainId"].as_u64().unwrap(), contract: address(&vectors["paymentChannels"]) }
}

fn key(vectors: &Value, name: &str) -> AccountKey {
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(text(&vectors["keys"][name]).trim_start_matches("0x"), &mut bytes).unwrap();
    AccountKey::from_bytes(&bytes).unwrap()
}

// row: MKT-30
#[test]
fn channel_ids_are_those_of_the_contract() {
    let vectors = vectors();
    let all = vectors["channels"].as_array().unwrap();
    assert!(!all.is_empty());
    for channel in all {
        let terms = &channel["terms"];
        let terms = ChannelTerms {
            payer: address(&channel["payer"]),
            payee: address(&terms["payee"]),
            payout: address(&terms["payout"]),
            signer: address(&terms["signer"]),
            token: address(&terms["token"]),
            challenge_seconds: text(&terms["challengePeriodSeconds"]).parse().unwrap(),
            expiry_seconds: text(&terms["expiry"]).parse().unwrap(),
            salt: text(&terms["salt"]).parse().unwrap(),
        };
        assert_eq!(terms.id(&channels(&vectors)).to_string(), text(&channel["id"]));
    }
}

// row: MKT-30
#[test]
fn vouchers_are_those_of_the_contract() {
    let vectors = vectors();
    let (domain, voucher) = (channels(&vectors), &vectors["voucher"]);
    assert_eq!(domain.separator().to_string(), text(&vectors["domainSeparators"]["paymentChannels"]));
    let channel: ChannelId = text(&voucher["value"]["channelId"]).parse().unwrap();
    let amount: Wei = text(&voucher["value"]["cumulativeAmount"]).parse().unwrap();
    assert_eq!(voucher_digest(&domain, channel, amount).to_string(), text(&voucher["digest"]));
    let signer = key(&vectors, "signer");
    let held = sign_voucher(&domain, channel, amount, &signer);
    assert_eq!(format!("0x{}", hex::encode(held.signature)), text(&voucher["signatures"]["signer"]));
    verify_voucher(&domain, &held, address(&vectors["accounts"]["signer"])).unwrap();
    assert!(verify_voucher(&domain, &held, address(&vectors["accounts"]["payee"])).is_err());
}

#[test]
fn closing_agreements_are_those_of_the_contract() {
    let vectors = vectors();
    let (domain, agreement) = (channels(&vectors), &vectors["closeAgreement"]);
    let channel: ChannelId = text(&agreement["value"]["channelId"]).parse().unwrap();
    let cumulative: Wei = text(&agreement["value"]["cumulativeAmount"]).parse().unwrap();
    assert_eq!(close_digest(&domain, channel, cumulative).to_string(), text(&agreement["digest"]));
    let signature = |name: &str| -> Bytes { text(&agreement["signatures"][name]).parse().unwrap() };
    let (signer, payee) = (address(&vectors["accounts"]["signer"]), address(&vectors["accounts"]["payee"]));
    let both = CloseAgreement {
        channel,
        cumulative,
        signer_signature: signature("signer"),
        payee_signature: signature("payee"),
    };
    both.verify(&domain, signer, payee).unwrap();
    let changed = CloseAgreement { cumulative: Wei(1), ..both };
    assert!(changed.verify(&domain, signer, payee).is_err());
}
