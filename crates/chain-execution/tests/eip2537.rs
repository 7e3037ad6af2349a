//! A checkpoint's certificate, verified as a contract on any of Ethereum's chains would: with EIP-2537, SHA-256 and modular
//! exponentiation, and nothing of ours (CHN-15). What this test does outside the precompiles, a contract does with
//! `abi.encodePacked` and `xor`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use alloy_rpc_types::TransactionRequest;
use blst::min_sig::{PublicKey, SecretKey, Signature};
use std::sync::Arc;
use trellis_chain_execution::{ExecutionConfig, Executor, GenesisInput, Overrides, genesis};
use trellis_chain_finality::{
    CheckpointCertificate, CheckpointCommittee, CheckpointMessage, CheckpointSignature, CheckpointTally, Validator,
    ValidatorSet,
};
use trellis_chain_storage::{StateView, Store};
use trellis_crypto::{CheckpointKey, VoteKey};
use trellis_primitives::CheckpointKeys;

const SHA256: u64 = 0x02;
const MODEXP: u64 = 0x05;
const G1ADD: u64 = 0x0b;
const G2ADD: u64 = 0x0d;
const PAIRING_CHECK: u64 = 0x0f;
const MAP_FP_TO_G1: u64 = 0x10;
const FIELD_MODULUS: [u8; 48] =
    hex!("1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab");
/// The group's order less one: as a secret key, its public key is the generator's negative.
const ORDER_LESS_ONE: [u8; 32] = hex!("73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000000");
const GENESIS: B256 = B256::repeat_byte(0x47);

/// A machine with Ethereum's precompiles.
struct Machine {
    executor: Executor,
    head: StateView,
}

impl Machine {
    fn new() -> Self {
        let input = GenesisInput { chain_id: 9, gas_limit: 30_000_000, base_fee_wei: 1, ..GenesisInput::default() };
        let store = Store::in_memory(&genesis(&input).unwrap()).unwrap();
        let config =
            ExecutionConfig { chain_id: 9, gas_limit: 30_000_000, base_fee_floor_wei: 1, genesis_hash: Some(GENESIS) };
        Self { executor: Executor::new(config), head: store.head() }
    }

    fn call(&self, precompile: u64, input: &[u8]) -> Bytes {
        let request = TransactionRequest {
            to: Some(TxKind::Call(Address::left_padding_from(&precompile.to_be_bytes()))),
            input: Bytes::copy_from_slice(input).into(),
            ..TransactionRequest::default()
        };
        self.executor.call(&self.head, self.head.header(), &request, &Overrides::default()).unwrap().output
    }

    /// RFC 9380, 5.3.1: `expand_message_xmd` with SHA-256, to 128 bytes.
    fn expand(&self, message: &[u8], dst: &[u8]) -> Vec<u8> {
        let suffix = [dst, &[u8::try_from(dst.len()).unwrap()]].concat();
        let first = self.call(SHA256, &[&[0; 64][..], message, &[0, 128, 0], &suffix].concat());
        let mut blocks = vec![self.call(SHA256, &[&first[..], &[1], &suffix].concat())];
        for number in 2..=4u8 {
            let mixed: Vec<u8> = first.iter().zip(blocks.last().unwrap()).map(|(a, b)| a ^ b).collect();
            blocks.push(self.call(SHA256, &[&mixed[..], &[number], &suffix].concat()));
        }
        blocks.concat()
    }

    /// RFC 9380: a message as a point of G1, 128 bytes.
    fn hash_to_g1(&self, message: &[u8], dst: &[u8]) -> Bytes {
        let uniform = self.expand(message, dst);
        let mapped: Vec<Bytes> = uniform
            .chunks(64)
            .map(|number| {
                let length = |bytes: u64| U256::from(bytes).to_be_bytes::<32>();
                let parts = [&length(64)[..], &length(1), &length(48), number, &[1], &FIELD_MODULUS];
                let reduced = self.call(MODEXP, &parts.concat());
                self.call(MAP_FP_TO_G1, &[&[0; 16][..], &reduced].concat())
            })
            .collect();
        self.call(G1ADD, &mapped.concat())
    }

    /// Whether the sum of the signatures of all these keys over a message is this one.
    fn verifies(&self, keys: &[[u8; 96]], message: &[u8], dst: &[u8], signature: &[u8]) -> bool {
        let keys: Vec<Bytes> = keys.iter().map(|key| g2(&PublicKey::from_bytes(key).unwrap())).collect();
        let sum = keys.iter().skip(1).fold(keys[0].clone(), |sum, key| self.call(G2ADD, &[&sum[..], key].concat()));
        let signature = Signature::from_bytes(signature).unwrap().serialize();
        let signature = [&[0; 16][..], &signature[..48], &[0; 16], &signature[48..]].concat();
        let negative = g2(&SecretKey::from_bytes(&ORDER_LESS_ONE).unwrap().sk_to_pk());
        let pairs = [&signature[..], &negative, &self.hash_to_g1(message, dst), &sum].concat();
        U256::from_be_slice(&self.call(PAIRING_CHECK, &pairs)) == U256::from(1)
    }
}

/// A point of G2 as EIP-2537 takes it: the two parts of each coordinate the other way round, each in 64 bytes.
fn g2(key: &PublicKey) -> Bytes {
    let plain = key.serialize();
    let part = |at: usize| [&[0; 16][..], &plain[at * 48..(at + 1) * 48]].concat();
    [part(1), part(0), part(3), part(2)].concat().into()
}

fn key(n: u8) -> CheckpointKey {
    CheckpointKey::from_seed(&[n; 32]).unwrap()
}

fn committee() -> Arc<CheckpointCommittee> {
    let member = |n: u8| {
        let vote = VoteKey::from_seed(&[n; 32]).public();
        Validator::new(vote, 5 - u64::from(n), Address::repeat_byte(n))
    };
    let set = ValidatorSet::new((1..=4).map(member).collect()).unwrap();
    let keys_of = |member: &Validator| {
        let key = key(member.account.0[0]);
        CheckpointKeys { bls: key.bls_public().to_vec().into(), mldsa44: key.mldsa44_public().into() }
    };
    let keys: Vec<_> = set.validators().iter().map(keys_of).collect();
    Arc::new(CheckpointCommittee::new(&set, &keys))
}

fn certified(committee: &Arc<CheckpointCommittee>) -> CheckpointCertificate {
    let message = CheckpointMessage {
        genesis_hash: GENESIS,
        height: 64,
        block_hash: B256::repeat_byte(7),
        next_committee: committee.hash(),
    };
    let mut tally = CheckpointTally::new(message, Arc::clone(committee));
    for n in 1..=3u8 {
        let signature = CheckpointSignature::sign(&key(n), &message, Address::repeat_byte(n)).unwrap();
        assert!(tally.add(&signature).unwrap());
    }
    tally.assemble().unwrap().0
}

// row: CHN-15
#[test]
fn a_checkpoints_certificate_verifies_with_ethereums_precompiles_alone() {
    let (machine, committee) = (Machine::new(), committee());
    let certificate = certified(&committee);
    assert_eq!(certificate.signers[..], [0b0111]);
    let keys: Vec<[u8; 96]> = (1..=3).map(|n| key(n).bls_public()).collect();
    // What was signed, put together here from its parts as the module's text says.
    let signed = |height: u64| {
        let (domain, dst) = (b"trellis/checkpoint/1", b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_");
        let parts = [
            &[20u8][..],
            domain,
            GENESIS.as_slice(),
            &height.to_be_bytes(),
            certificate.block_hash.as_slice(),
            certificate.next_committee.as_slice(),
        ];
        (keccak256(parts.concat()), dst.as_slice())
    };
    let (message, dst) = signed(64);
    assert!(machine.verifies(&keys, message.as_slice(), dst, &certificate.signature));
    assert!(!machine.verifies(&keys[..2], message.as_slice(), dst, &certificate.signature), "not all of the signers");
    assert!(!machine.verifies(&keys, signed(65).0.as_slice(), dst, &certificate.signature), "another height");
    let other = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";
    assert!(!machine.verifies(&keys, message.as_slice(), other, &certificate.signature), "another suite");
}

// row: CHN-15
#[test]
fn a_committees_hash_is_made_of_entries_that_a_contract_walks_through() {
    let committee = committee();
    let mut bytes = [&[30u8][..], b"trellis/checkpoint-committee/1", committee.validators_hash().as_slice()].concat();
    for (n, power) in [(1u8, 4u64), (2, 3), (3, 2), (4, 1)] {
        let before = bytes.len();
        bytes.extend_from_slice(&[n; 20]);
        bytes.extend_from_slice(&power.to_be_bytes());
        bytes.extend_from_slice(&key(n).bls_public());
        bytes.extend_from_slice(keccak256(key(n).mldsa44_public()).as_slice());
        assert_eq!(bytes.len() - before, 156);
    }
    assert_eq!(keccak256(bytes), committee.hash());
}
