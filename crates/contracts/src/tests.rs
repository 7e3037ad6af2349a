//! The bindings against `contracts/fixtures/vectors.json`, which ethers wrote and forge checks too.

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::{SolCall, SolConstructor, SolEvent, SolStruct};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use serde_json::Value;

use crate::accounts::{ACCOUNTS_DEPLOYER, AccountContracts, Call, Execute, account_steps};
use crate::deployment::{Addresses, Parameters, steps};
use crate::typed::{
    CloseAgreement, IncludeBy, RECEIPT_TYPE, Receipt, Terms, Voucher, channel_id, compact_signature, digest, domain,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../contracts/fixtures/vectors.json")).unwrap()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {path}"))
}

fn word(value: &Value, path: &str) -> B256 {
    text(value, path).parse().unwrap()
}

fn account(value: &Value, path: &str) -> Address {
    text(value, path).parse().unwrap()
}

fn number<T: std::str::FromStr>(value: &Value, path: &str) -> T {
    let found = value.pointer(path).unwrap_or_else(|| panic!("no number at {path}"));
    let digits = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
    digits.parse().ok().unwrap_or_else(|| panic!("no number at {path}"))
}

fn receipt(v: &Value) -> Receipt {
    Receipt {
        version: number(v, "/version"),
        chain_id: number(v, "/chainId"),
        channels: account(v, "/channels"),
        aggregator: account(v, "/aggregator"),
        channel_id: word(v, "/channelId"),
        sequence: number(v, "/sequence"),
        job_id: word(v, "/jobId"),
        gateway_node: word(v, "/gatewayNode"),
        provider_node: word(v, "/providerNode"),
        model_digest: word(v, "/modelDigest"),
        tokenizer_digest: word(v, "/tokenizerDigest"),
        engine_build: word(v, "/engineBuild"),
        instruction_set: number(v, "/instructionSet"),
        request_digest: word(v, "/requestDigest"),
        parameters_hash: word(v, "/parametersHash"),
        prompt_commitment: word(v, "/promptCommitment"),
        output_digest: word(v, "/outputDigest"),
        fingerprint_root: word(v, "/fingerprintRoot"),
        tokens_in: number(v, "/tokensIn"),
        tokens_out: number(v, "/tokensOut"),
        finish_reason: number(v, "/finishReason"),
        started_at_ms: number(v, "/startedAtMs"),
        time_to_first_token_ms: number(v, "/timeToFirstTokenMs"),
        duration_ms: number(v, "/durationMs"),
        price_in: number(v, "/priceIn"),
        price_out: number(v, "/priceOut"),
        cost: number(v, "/cost"),
        written_off: number(v, "/writtenOff"),
        error_hash: word(v, "/errorHash"),
    }
}

/// The 65-byte signature of a key, as the contracts take it.
fn sign(key: B256, digest: B256) -> [u8; 65] {
    let key = SecretKey::from_byte_array(key.0).unwrap();
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &key);
    let (recovery, bytes) = signature.serialize_compact();
    let mut out = [0; 65];
    out[..64].copy_from_slice(&bytes);
    out[64] = if i32::from(recovery) == 0 { 27 } else { 28 };
    out
}

fn address_of(key: B256) -> Address {
    let key = SecretKey::from_byte_array(key.0).unwrap();
    let public = PublicKey::from_secret_key(SECP256K1, &key).serialize_uncompressed();
    Address::from_slice(&keccak256(&public[1..])[12..])
}

// row: MKT-30
#[test]
fn vouchers_and_close_agreements_have_the_digests_and_signatures_of_the_vectors() {
    let v = vectors();
    let (chain, channels) = (number(&v, "/chainId"), account(&v, "/paymentChannels"));
    let id = word(&v, "/voucher/value/channelId");
    let amount: u128 = number(&v, "/voucher/value/cumulativeAmount");
    let voucher = Voucher { channelId: id, cumulativeAmount: amount };
    let close = CloseAgreement { channelId: id, cumulativeAmount: amount };
    assert_eq!(voucher.eip712_type_hash(), word(&v, "/typeHashes/Voucher"));
    assert_eq!(close.eip712_type_hash(), word(&v, "/typeHashes/CloseAgreement"));
    assert_eq!(digest(&voucher, chain, channels), word(&v, "/voucher/digest"));
    assert_eq!(digest(&close, chain, channels), word(&v, "/closeAgreement/digest"));
    assert_eq!(domain(chain, channels).separator(), word(&v, "/domainSeparators/paymentChannels"));

    let key = word(&v, "/keys/signer");
    assert_eq!(address_of(key), account(&v, "/accounts/signer"));
    let signature = sign(key, word(&v, "/voucher/digest"));
    assert_eq!(Bytes::copy_from_slice(&signature), text(&v, "/voucher/signatures/signer").parse::<Bytes>().unwrap());
    let compact = compact_signature(&signature);
    assert_eq!(compact, Some((word(&v, "/voucher/r"), word(&v, "/voucher/vs"))));
}

#[test]
fn channel_ids_are_those_of_the_vectors() {
    let v = vectors();
    let (chain, channels) = (number(&v, "/chainId"), account(&v, "/paymentChannels"));
    for c in v["channels"].as_array().unwrap() {
        let terms = Terms {
            payee: account(c, "/terms/payee"),
            payout: account(c, "/terms/payout"),
            signer: account(c, "/terms/signer"),
            token: account(c, "/terms/token"),
            challengePeriodSeconds: number(c, "/terms/challengePeriodSeconds"),
            expiry: number(c, "/terms/expiry"),
            salt: word(c, "/terms/salt"),
        };
        assert_eq!(channel_id(account(c, "/payer"), &terms, chain, channels), word(c, "/id"));
    }
}

// row: MKT-20
#[test]
fn receipts_have_the_hashes_of_the_vectors() {
    let v = vectors();
    let settlement = account(&v, "/settlement");
    assert_eq!(keccak256(RECEIPT_TYPE), word(&v, "/typeHashes/Receipt"));
    assert_eq!(domain(number(&v, "/chainId"), settlement).separator(), word(&v, "/domainSeparators/settlement"));
    for r in v["receipts"].as_array().unwrap() {
        let made = receipt(&r["value"]);
        assert_eq!(made.hash_struct(), word(r, "/structHash"));
        assert_eq!(made.digest(settlement), word(r, "/digest"));
    }
}

#[test]
fn a_promise_has_the_digest_of_the_vectors() {
    let v = vectors();
    let promise = IncludeBy {
        receipt: word(&v, "/includeBy/value/receipt"),
        channelId: word(&v, "/includeBy/value/channelId"),
        sequence: number(&v, "/includeBy/value/sequence"),
        batch: number(&v, "/includeBy/value/batch"),
    };
    assert_eq!(promise.eip712_type_hash(), word(&v, "/typeHashes/IncludeBy"));
    assert_eq!(digest(&promise, number(&v, "/chainId"), account(&v, "/settlement")), word(&v, "/includeBy/digest"));
}

#[test]
fn a_signature_with_a_high_s_or_an_odd_v_has_no_compact_form() {
    let mut signature = [1; 65];
    signature[64] = 27;
    assert!(compact_signature(&signature).is_some());
    signature[64] = 1;
    assert_eq!(compact_signature(&signature), None);
    signature[64] = 28;
    signature[32] = 0x80;
    assert_eq!(compact_signature(&signature), None);
}

#[test]
fn the_genesis_steps_deploy_in_order_and_name_each_other() {
    let deployer = address!("0x00000000000000000000000000000000000000d1");
    let parameters = Parameters::dev(deployer);
    let made = steps(&parameters, deployer, 7);
    let to = Addresses::of(deployer, 7);
    let names: Vec<_> = made.iter().map(|s| s.name).collect();
    let expected = ["WTRL", "FeePool", "PaymentChannels", "Settlement", "ProviderStaking", "FeePool.initialize"];
    assert_eq!(names, expected);
    for (nonce, step) in (7..12).zip(&made) {
        assert_eq!(step.address, deployer.create(nonce));
        assert_eq!(step.to, None);
        assert!(step.input.len() > 5_000, "{} has its code", step.name);
    }
    let channels = crate::payment_channels::PaymentChannels::constructorCall { feeBps: 0, feePool: to.fee_pool };
    assert!(made[2].input.ends_with(&channels.abi_encode()));
    let call = crate::fee_pool::FeePool::initializeCall::abi_decode(&made[5].input).unwrap();
    assert_eq!(made[5].to, Some(to.fee_pool));
    assert_eq!(
        (call.channels_, call.settlement_, call.staking_),
        (to.payment_channels, to.settlement, to.provider_staking)
    );
}

#[test]
fn no_contract_is_beyond_the_size_limit() {
    const CODE_BYTES_MAX: usize = 24_576;
    let codes = [
        &*crate::wtrl::WTRL::DEPLOYED_BYTECODE,
        &*crate::fee_pool::FeePool::DEPLOYED_BYTECODE,
        &*crate::payment_channels::PaymentChannels::DEPLOYED_BYTECODE,
        &*crate::settlement::Settlement::DEPLOYED_BYTECODE,
        &*crate::provider_staking::ProviderStaking::DEPLOYED_BYTECODE,
    ];
    for code in codes {
        assert!(code.len() > 1_000 && code.len() <= CODE_BYTES_MAX);
    }
}

#[test]
fn events_carry_the_topics_of_their_signatures() {
    let paid = crate::payment_channels::PaymentChannels::VoucherPaid::SIGNATURE_HASH;
    assert_eq!(paid, keccak256("VoucherPaid(bytes32,uint128,uint128,uint128)"));
    assert_eq!(crate::deployment::trl(3), U256::from(3_000_000_000_000_000_000_u128));
}

// row: CHN-21
#[test]
fn what_owners_of_smart_accounts_sign_is_what_ethers_and_the_contract_say() {
    let v = vectors();
    let executions = v["executions"].as_array().unwrap();
    assert_eq!(executions.len(), 2);
    for execution in executions {
        let value = &execution["value"];
        let call = |call: &Value| Call {
            target: account(call, "/target"),
            value: number(call, "/value"),
            data: text(call, "/data").parse().unwrap(),
        };
        let execute = Execute {
            calls: value["calls"].as_array().unwrap().iter().map(call).collect(),
            nonce: number(value, "/nonce"),
            deadline: number(value, "/deadline"),
            relayer: account(value, "/relayer"),
            fee: number(value, "/fee"),
            gas: number(value, "/gas"),
        };
        assert_eq!(execute.digest(number(&v, "/chainId"), account(&v, "/smartAccount")), word(execution, "/digest"));
        assert_eq!(execute.spent(), U256::from(1_500_000_000_000_000_250u64));
    }
}

// row: CHN-21
#[test]
fn a_smart_account_is_where_ethers_and_the_factory_say() {
    let v = &vectors()["accountAddress"];
    let contracts = AccountContracts {
        factory: account(v, "/factory"),
        implementation: account(v, "/implementation"),
        ..AccountContracts::predeployed()
    };
    let signer: Bytes = text(v, "/signer").parse().unwrap();
    assert_eq!(contracts.address_of(&signer, word(v, "/salt")), account(v, "/account"));
}

// row: CHN-21
#[test]
fn the_contracts_of_smart_accounts_have_the_same_addresses_on_every_chain() {
    let steps = account_steps();
    let at = AccountContracts::predeployed();
    let expected = [at.implementation, at.factory, at.ml_dsa44_verifier, at.hybrid_verifier];
    assert_eq!(steps.iter().map(|step| step.address).collect::<Vec<_>>(), expected);
    for (nonce, step) in (0u64..).zip(&steps) {
        assert_eq!(step.address, ACCOUNTS_DEPLOYER.create(nonce), "{}", step.name);
    }
    // Pinned: whoever was told an address must find the account there for ever.
    assert_eq!(at.factory, address!("E86bCe335a3D234E81bB9638B37D720927F0562B"));
}
