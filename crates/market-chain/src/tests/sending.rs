//! Nonces, fees, replacement, reorganisation, failing over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::Transaction;
use alloy_sol_types::SolError;
use trellis_chain_finality::{FinalityProof, Validator, ValidatorSet, VoteKind, VotePlace};
use trellis_contracts::settlement::Settlement::WrongNumber;
use trellis_crypto::{AccountKey, vote::VoteKey};
use trellis_primitives::{Address, B256, CommitCertificate, CommitSignature, Header, UnixMs, Wei, keccak256};

use super::node::{CHAIN_ID, Node, TILL, clock};
use crate::{ChainClient, ChainError, Committee, RpcConfig, TxIntent, Wallet};

const SOON: Duration = Duration::from_secs(60);

fn key(n: u8) -> AccountKey {
    AccountKey::from_bytes(&[n; 32]).unwrap()
}

fn intent(n: u8) -> TxIntent {
    TxIntent::call(Address::repeat_byte(9), vec![n])
}

#[tokio::test]
async fn the_next_url_is_asked_when_one_is_dead_and_remembered_as_the_better_one() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    node.0.lock().dead_urls.insert("http://a".into());
    client.head().await.unwrap();
    node.0.lock().asked.clear();
    client.head().await.unwrap();
    assert!(node.0.lock().asked.iter().all(|(url, _)| url == "http://b"));
    node.0.lock().dead_urls.insert("http://b".into());
    let error = client.head().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { urls: 2, .. }) && error.is_passing(), "{error}");
}

#[tokio::test]
async fn a_url_of_another_chain_is_refused_at_the_start() {
    let node = Node::default();
    node.0.lock().other_chain_id = Some(("http://b".into(), 137));
    let config = RpcConfig::new(CHAIN_ID, vec!["http://a".into(), "http://b".into()]);
    let refused = node.client_with(config, &clock()).await.err().unwrap();
    assert_eq!(refused, ChainError::WrongChain { url: "http://b".into(), expected: CHAIN_ID, actual: 137 });
}

// row: MKT-40
#[tokio::test]
async fn tasks_that_send_from_one_account_at_once_get_one_nonce_each() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    let key = Arc::new(key(1));
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move { client.send(intent(n), &key).await.unwrap() })
        })
        .collect();
    let mut hashes = BTreeSet::new();
    for task in tasks {
        hashes.insert(task.await.unwrap());
    }
    assert_eq!(hashes.len(), 20);
    let nonces: BTreeSet<u64> = node.0.lock().taken.iter().map(|tx| tx.nonce()).collect();
    assert_eq!(nonces, (0..20).collect());
}

// row: MKT-40
#[tokio::test]
async fn a_stuck_transaction_is_replaced_with_fees_an_eighth_higher_until_it_is_included() {
    let node = Node::default();
    let clock = clock();
    let client = node.client(&clock).await;
    node.0.lock().least_tip = 1_250_000_000;
    let tx = client.send(intent(1), &key(1)).await.unwrap();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.wait(tx, &key(1), SOON).await })
    };
    while !waiting.is_finished() {
        clock.advance_ms(16_000);
        tokio::time::sleep(Duration::from_millis(3)).await;
        node.mine();
        node.finalise();
    }
    let receipt = waiting.await.unwrap().unwrap();
    assert_ne!(receipt.tx, tx, "the receipt is of the replacement");
    let taken = node.0.lock().taken.clone();
    let tips: Vec<u128> = taken.iter().map(|tx| tx.max_priority_fee_per_gas().unwrap()).collect();
    assert_eq!(tips, [1_000_000_000, 1_125_000_000, 1_265_625_000]);
    assert!(taken.iter().all(|tx| tx.nonce() == 0));
    assert_eq!(client.metrics().replaced.get(), 2);
}

// row: MKT-40
#[tokio::test]
async fn a_receipt_counts_only_when_its_block_is_final_and_still_the_same() {
    let node = Node::default();
    let clock = clock();
    let client = node.client(&clock).await;
    let tx = client.send(intent(1), &key(1)).await.unwrap();
    node.mine();
    let early = client.wait(tx, &key(1), Duration::from_millis(20)).await;
    assert!(matches!(early, Err(ChainError::Timeout { .. })), "not final yet");
    node.reorganise();
    node.0.lock().blocks.push(Vec::new());
    let early = client.wait(tx, &key(1), Duration::from_millis(20)).await;
    assert!(matches!(early, Err(ChainError::Timeout { .. })), "taken back");
    node.mine();
    node.finalise();
    let receipt = client.wait(tx, &key(1), SOON).await.unwrap();
    assert_eq!((receipt.tx, receipt.block), (tx, 2));
}

#[tokio::test]
async fn after_a_lost_answer_the_chain_is_asked_for_the_nonce_again() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    node.0.lock().lose_answers = 2;
    let error = client.send(intent(1), &key(1)).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    client.send(intent(2), &key(1)).await.unwrap();
    let nonces: Vec<u64> = node.0.lock().pool.keys().map(|(_, nonce)| *nonce).collect();
    assert_eq!(nonces, [0, 1]);
}

#[tokio::test]
async fn a_nonce_that_another_program_used_is_noticed() {
    let node = Node::default();
    let clock = clock();
    let (ours, theirs) = (node.client(&clock).await, node.client(&clock).await);
    ours.send(intent(1), &key(1)).await.unwrap();
    node.mine();
    theirs.send(intent(2), &key(1)).await.unwrap();
    node.mine();
    ours.send(intent(3), &key(1)).await.unwrap();
    node.mine();
    assert_eq!(node.0.lock().nonces[&key(1).address()], 3);
}

#[tokio::test]
async fn a_transaction_whose_nonce_was_taken_is_reported_and_not_waited_for() {
    let node = Node::default();
    let clock = clock();
    let client = node.client(&clock).await;
    let tx = client.send(intent(1), &key(1)).await.unwrap();
    {
        let mut state = node.0.lock();
        state.pool.clear();
        state.nonces.insert(key(1).address(), 1);
    }
    clock.advance_ms(60_000);
    let error = client.wait(tx, &key(1), SOON).await.unwrap_err();
    assert_eq!(error, ChainError::Displaced { tx, nonce: 0 });
}

// row: MKT-40
#[tokio::test]
async fn nothing_is_sent_while_gas_is_above_the_cap() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    node.0.lock().base_fee = 600_000_000_000;
    let error = client.send(intent(1), &key(1)).await.unwrap_err();
    assert!(matches!(error, ChainError::FeeAboveCap { .. }) && error.is_passing());
    assert!(node.0.lock().taken.is_empty());
}

#[tokio::test]
async fn a_revert_is_named_before_any_gas_is_spent() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    node.0.lock().revert_with = Some(WrongNumber { expected: 3, given: 7 }.abi_encode());
    let Err(ChainError::Reverted { reason, .. }) = client.send(intent(1), &key(1)).await else { panic!("sent") };
    assert!(reason.contains("WrongNumber") && reason.contains('7'), "{reason}");
    assert!(node.0.lock().taken.is_empty());
}

// row: MKT-33
#[tokio::test]
async fn the_last_view_is_the_newest_blocks_own_time_and_not_when_we_asked() {
    let node = Node::default();
    let clock = clock();
    let client = node.client(&clock).await;
    assert_eq!(client.last_view(), None);
    node.mine();
    clock.advance_ms(3_600_000);
    client.head().await.unwrap();
    assert_eq!(client.last_view(), Some(UnixMs(1_795_257_001_000)));
}

fn one_coin_to_the_till() -> TxIntent {
    TxIntent { value: Wei(1), ..TxIntent::call(TILL, vec![7]) }
}

/// Sends a coin to the till while the state is still good for it, spoils the state, and gives the words for the failure.
async fn words_of_a_failure(node: &Node, spoil: impl FnOnce(&Node)) -> String {
    let client = node.client(&clock()).await;
    let tx = client.send(one_coin_to_the_till(), &key(2)).await.unwrap();
    spoil(node);
    node.mine();
    node.finalise();
    let receipt = client.wait(tx, &key(2), SOON).await.unwrap();
    assert!(!receipt.success);
    client.failure_reason(&receipt).await.unwrap()
}

#[tokio::test]
async fn a_transaction_that_failed_says_why_it_failed_then_and_not_what_a_call_says_now() {
    let node = Node::default();
    let client = node.client(&clock()).await;
    let (first, second) = (key(1), key(2));
    node.0.lock().held.insert(second.address());
    let wallet = Wallet::new(client.clone(), Arc::new(second), SOON);
    let losing = tokio::spawn(async move { wallet.execute(one_coin_to_the_till()).await });
    client.send(one_coin_to_the_till(), &first).await.unwrap();
    while node.0.lock().pool.len() < 2 {
        assert!(!losing.is_finished());
        tokio::task::yield_now().await;
    }
    node.mine();
    node.0.lock().held.clear();
    node.mine();
    node.finalise();
    let ChainError::Failed { block, reason, .. } = losing.await.unwrap().unwrap_err() else { panic!("another error") };
    assert_eq!((block, reason.as_str()), (2, "revert: the till is empty"));
    // A call without sender and coin, which is what anybody would ask, has other words.
    let asked = client.call(TILL, vec![7].into()).await.unwrap_err();
    assert!(matches!(asked, ChainError::Reverted { reason, .. } if reason == "revert: somebody must bring one coin"));
}

#[tokio::test]
async fn the_words_for_a_failure_come_from_the_state_time_and_gas_that_it_had() {
    let emptied_in_the_same_block = |node: &Node| node.0.lock().till_emptied_in = Some(1);
    let beaten = words_of_a_failure(&Node::default(), emptied_in_the_same_block).await;
    assert!(beaten.contains("succeeds on the state before its block"), "{beaten}");

    let closes_with_the_next_block = |node: &Node| node.0.lock().till_closes_at = Some(1);
    let late = words_of_a_failure(&Node::default(), closes_with_the_next_block).await;
    assert_eq!(late, "revert: the till is closed");
    // A node that lets a call say no time of its own runs it at the parent's, when the till was open.
    let plain = Node::default();
    plain.0.lock().plain_calls = true;
    let late = words_of_a_failure(&plain, closes_with_the_next_block).await;
    assert!(late.contains("succeeds on the state before its block"), "{late}");

    let grows = |node: &Node| node.0.lock().till_gas = 1_000_000;
    assert_eq!(words_of_a_failure(&Node::default(), grows).await, "out of gas");
}

fn proof_by(signer: &VoteKey, number: u64, genesis_hash: &B256) -> Vec<u8> {
    let header_rlp = alloy_rlp::encode(Header { number, ..Header::default() });
    let block_hash = keccak256(&header_rlp);
    let place = VotePlace { height: number, round: 0, kind: VoteKind::Precommit };
    let signature = signer.sign(place.signing_hash(genesis_hash, Some(&block_hash)).as_slice()).unwrap().into();
    let signatures = vec![CommitSignature { validator: signer.address(), signature }];
    let certificate = CommitCertificate { height: number, round: 0, block_hash, signatures };
    alloy_rlp::encode(FinalityProof { header_rlp: header_rlp.into(), certificate })
}

#[tokio::test]
async fn what_is_final_is_believed_only_with_the_committees_signatures() {
    let (validator, stranger) = (VoteKey::from_seed(&[1; 32]), VoteKey::from_seed(&[2; 32]));
    let genesis_hash = B256::repeat_byte(7);
    let member = Validator::new(validator.public(), 1, Address::with_last_byte(1));
    let node = Node::default();
    let mut config = RpcConfig::new(CHAIN_ID, vec!["http://a".into()]);
    config.committee = Some(Committee::new(ValidatorSet::new(vec![member]).unwrap(), genesis_hash, None));
    let client = node.client_with(config, &clock()).await.unwrap();
    assert_eq!(client.head().await.unwrap().finalized_number, 0, "genesis needs no signature");
    node.mine();
    node.mine();
    node.finalise();
    node.0.lock().proof = Some(proof_by(&validator, 2, &genesis_hash));
    assert_eq!(client.head().await.unwrap().finalized_number, 2);
    for forged in [proof_by(&stranger, 2, &genesis_hash), proof_by(&validator, 2, &B256::ZERO)] {
        node.0.lock().proof = Some(forged);
        assert!(matches!(client.head().await, Err(ChainError::NotProved(_))));
    }
}
