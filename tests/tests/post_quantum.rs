//! A chain in the post-quantum mode: every vote is ML-DSA-44, each validator a process of its own (CHN-15).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use alloy_primitives::{B256, hex};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use trellis_chain_finality::{EvidenceMessage, VoteKind, VotePlace, VoteScheme};
use trellis_chain_spec::{LOCAL_CHAIN_ID, dev_vote_seed};
use trellis_crypto::VoteKey;
use trellis_scenarios::chain::{block_hash, call, height, number};
use trellis_scenarios::network::{Network, Node};
use trellis_scenarios::wait::until;
use trellis_scenarios::wallet::{SECOND_ACCOUNT, Wallet};

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(90);
const FLAGS: [&str; 6] = ["--vote-scheme", "ml-dsa-44", "--block-time-ms", "250", "--epoch-blocks", "32"];

fn rpc(network: &Network, validator: u32) -> String {
    format!("http://{}", network.endpoint(&format!("validator-{validator}"), "rpc"))
}

fn bytes(value: &Value) -> usize {
    hex::decode(value.as_str().expect("hex")).expect("hex").len()
}

fn sitting(rpc: &str) -> Vec<Value> {
    call(rpc, "trellis_validators", json!(["latest"]))["validators"].as_array().expect("a list").clone()
}

fn validators(network: &Network, rpc: &str) -> Vec<Value> {
    let ended = network.trellis(&["validator", "list", "--rpc", rpc, "--json"]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    ended.json()["validators"].as_array().expect("a list").clone()
}

// row: CHN-02, CHN-15, CHN-42
#[test]
fn four_validators_with_post_quantum_votes_decide_blocks_and_pay_a_transfer() {
    let network = Network::validators_with(4, &FLAGS);
    let rpcs: Vec<String> = (0..4).map(|n| rpc(&network, n)).collect();
    let began = (Instant::now(), height(&rpcs[0]));
    let (transaction, hash) = Wallet::new(&SECOND_ACCOUNT, LOCAL_CHAIN_ID).transfer();
    call(&rpcs[1], "eth_sendRawTransaction", json!([transaction]));
    let receipt = || call(&rpcs[2], "eth_getTransactionReceipt", json!([hash]));
    until(PATIENCE, "it is paid", || receipt()["status"] == "0x1");
    let paid = u64::try_from(number(&receipt()["blockNumber"])).expect("a height");
    until(PATIENCE, "all go on", || rpcs.iter().all(|rpc| height(rpc) >= paid + 4));
    let took = began.0.elapsed() / u32::try_from(height(&rpcs[0]) - began.1).expect("few");
    let hashes: Vec<Value> = rpcs.iter().map(|rpc| block_hash(rpc, paid)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0] && hash.is_string()), "{hashes:?}");

    let members = sitting(&rpcs[3]);
    assert_eq!(members.len(), 4);
    for member in &members {
        assert_eq!(member["scheme"], "ml-dsa-44", "{member}");
        assert_eq!(bytes(&member["voteKey"]), VoteScheme::MlDsa44.public_key_bytes());
    }
    // What a client needs to believe the block: it was checked by the command's own committee before it is shown.
    let proof = call(&rpcs[0], "trellis_getFinalityProof", json!([format!("0x{paid:x}")]));
    let signatures = proof["signatures"].as_array().expect("a list");
    assert!(signatures.len() >= 3, "{proof}");
    assert!(signatures.iter().all(|one| bytes(&one["signature"]) == VoteScheme::MlDsa44.signature_bytes()));
    let certificate: usize = signatures.iter().map(|one| bytes(&one["signature"]) + 20).sum();
    println!("{} signatures, {certificate} bytes of certificate, {took:?} a block", signatures.len());
    assert_eq!(validators(&network, &rpcs[0]).len(), 4, "a client that knows the genesis follows the proofs");
    network.stop();
}

// row: CHN-14, CHN-15, CHN-19
#[test]
fn a_fifth_joins_with_a_post_quantum_vote_key_and_changes_it() {
    let network = Network::validators_with(4, &FLAGS);
    let first = rpc(&network, 0);
    let spec = network.folder().join("chain_spec.toml");
    let peers: Vec<String> = (0..4).map(|n| network.endpoint(&format!("validator-{n}"), "p2p")).collect();
    let flags = [
        "validator",
        "--chain",
        spec.to_str().expect("text"),
        "--dev-account",
        "5",
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--rpc-listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--peers",
        &peers.join(","),
    ];
    let fifth = Node::start(&flags);
    let account = fifth.status()["account"].as_str().expect("an account").to_owned();
    let registered = fifth.trellis(&["validator", "register", "--stake", "1000000", "--rpc", &first]);
    assert_eq!(registered.code, 0, "{}", registered.stderr);
    // The address of the vote key with which it sits, where it has also signed the newest block.
    let signs = || {
        let own = sitting(&first)
            .into_iter()
            .find(|member| member["account"].as_str().is_some_and(|one| one.eq_ignore_ascii_case(&account)))?;
        assert_eq!(own["scheme"], "ml-dsa-44");
        let proof = call(&first, "trellis_getFinalityProof", json!(["latest"]));
        let signed = proof["signatures"].as_array()?.iter().any(|one| one["validator"] == own["address"]);
        signed.then(|| own["address"].clone())
    };
    let mut before = None;
    until(PATIENCE, "it signs", || {
        before = signs();
        before.is_some()
    });
    let rotated = fifth.trellis(&["validator", "rotate-key", "--rpc", &first]);
    assert_eq!(rotated.code, 0, "{}", rotated.stderr);
    until(PATIENCE, "it signs with the new key", || signs().is_some_and(|address| Some(address) != before));
    fifth.stop();
    network.stop();
}

// row: CHN-13, CHN-15
#[test]
fn two_post_quantum_votes_for_one_place_are_slashed() {
    let network = Network::validators_with(4, &FLAGS);
    let first = rpc(&network, 0);
    let key = VoteKey::of_seed(VoteScheme::MlDsa44, &dev_vote_seed(3)).expect("a key");
    let address = key.address().to_string();
    let twice = sitting(&first)
        .into_iter()
        .find(|member| member["address"].as_str().is_some_and(|one| one.eq_ignore_ascii_case(&address)))
        .expect("it sits")["account"]
        .clone();
    let genesis = block_hash(&first, 0).as_str().expect("a hash").parse().expect("32 bytes");
    until(PATIENCE, "a block", || height(&first) > 0);
    let place = VotePlace { height: height(&first), round: 0, kind: VoteKind::Precommit };
    let vote = |value: B256| {
        let message = EvidenceMessage {
            scheme: VoteScheme::MlDsa44 as u8,
            public_key: key.public().as_bytes().to_vec().into(),
            height: place.height,
            round: place.round,
            kind: place.kind as u8,
            value: value.to_vec().into(),
            pol: 0,
            signature: key.sign(place.signing_hash(&genesis, Some(&value)).as_slice()).expect("a signature").into(),
        };
        hex::encode_prefixed(alloy_rlp::encode(&message))
    };
    let (one, other) = (vote(B256::repeat_byte(1)), vote(B256::repeat_byte(2)));
    let reported = network.trellis(&["validator", "report", &one, &other, "--dev-account", "1", "--rpc", &first]);
    assert_eq!(reported.code, 0, "{}", reported.stderr);
    let state = |validator: &Value| validator["state"] == "tombstoned" && validator["account"] == twice;
    assert!(validators(&network, &first).iter().any(state));
    network.stop();
}
