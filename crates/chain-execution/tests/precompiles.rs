//! The chain's own precompiled contracts, called as anybody calls them (CHN-13, CHN-15, CHN-21).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, hex};
use alloy_rpc_types::TransactionRequest;
use alloy_sol_types::SolValue;
use trellis_chain_execution::{CallError, ExecutionConfig, Executor, GenesisInput, Overrides, genesis};
use trellis_chain_finality::{Equivocation, SignedVote, Validator, ValidatorSet, VoteKind, VotePlace, VoteScheme};
use trellis_chain_storage::Store;
use trellis_crypto::{CheckpointKey, VoteKey};

const ML_DSA_44: Address = address!("0000000000000000000000000000000000747201");
const EQUIVOCATION: Address = address!("0000000000000000000000000000000000747203");
const BLS: Address = address!("0000000000000000000000000000000000747204");
const ED25519: Address = address!("0000000000000000000000000000000000747205");
const GENESIS: B256 = B256::repeat_byte(0x47);

fn called(to: Address, input: &[u8]) -> Result<Bytes, CallError> {
    let genesis_input = GenesisInput { chain_id: 9, gas_limit: 30_000_000, base_fee_wei: 1, ..GenesisInput::default() };
    let store = Store::in_memory(&genesis(&genesis_input).unwrap()).unwrap();
    let executor = Executor::new(ExecutionConfig {
        chain_id: 9,
        gas_limit: 30_000_000,
        base_fee_floor_wei: 1,
        genesis_hash: Some(GENESIS),
    });
    let head = store.head();
    let request = TransactionRequest {
        to: Some(TxKind::Call(to)),
        input: Bytes::copy_from_slice(input).into(),
        ..TransactionRequest::default()
    };
    executor.call(&head, head.header(), &request, &Overrides::default()).map(|output| output.output)
}

fn word(number: u64) -> Bytes {
    B256::from(U256::from(number)).to_vec().into()
}

// row: CHN-15, CHN-21
#[test]
fn each_scheme_says_whether_a_signature_verifies_and_refuses_a_wrong_length() {
    let (vote, checkpoint) = (VoteKey::from_seed(&[1; 32]), CheckpointKey::from_seed(&[2; 32]).unwrap());
    let message = b"a message of any length";
    let cases = [
        (ED25519, vote.public().as_bytes().to_vec(), vote.sign(message).unwrap()),
        (BLS, checkpoint.bls_public().to_vec(), checkpoint.prove_bls(message).to_vec()),
        (ML_DSA_44, checkpoint.mldsa44_public(), checkpoint.sign_mldsa44(message).unwrap()),
    ];
    for (contract, key, signature) in cases {
        let good = [&key[..], &signature, message].concat();
        assert_eq!(called(contract, &good).unwrap(), word(1), "{contract}");
        let mut other = good.clone();
        *other.last_mut().unwrap() ^= 1;
        assert_eq!(called(contract, &other).unwrap(), word(0), "{contract}");
        assert!(called(contract, &good[..key.len() + signature.len() - 1]).is_err(), "{contract}");
        assert!(called(contract, &[]).is_err(), "{contract}");
    }
}

/// EIP-7951.
const P256_VERIFY: Address = address!("0000000000000000000000000000000000000100");
/// SHA-256 of a message, r, s, x and y: signed with OpenSSL.
const P256_SIGNED: [u8; 160] = hex!(
    "126d1ec8230071b3693cdf1fac830f32db1b5227c0417cba41beff852b7fd408"
    "67725afc4d82f1bcfe73969a046929731362b21b5fad3c56be2d91a3c90dcdb8"
    "a0661e1250baec1ffef83affa48cd5cf7f66b8687daf9fff287e4e036f4d859d"
    "1b2786d7e4644185f8fb69fc22185c56a7ec3e07d51df4f6a1a9bbf3a995ab85"
    "221ed4c78a5d830f11a732b8a9f25a0004df6e3fb98a3df4bca7284b4cec00f8"
);
/// The order of the curve's group.
const P256_ORDER: U256 = U256::from_be_bytes(hex!("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"));

// row: CHN-21
#[test]
fn p256_signatures_verify_at_the_address_of_eip_7951() {
    let asked = |input: &[u8]| called(P256_VERIFY, input).expect("it never fails");
    assert_eq!(asked(&P256_SIGNED), word(1));
    for part in 0..5 {
        let mut changed = P256_SIGNED;
        changed[part * 32 + 31] ^= 1;
        assert_eq!(asked(&changed), Bytes::new(), "part {part}");
    }
    // Both forms of s are good there: who relies on it must not take a signature for a number that is used once.
    let mut other_form = P256_SIGNED;
    let s = P256_ORDER - U256::from_be_slice(&P256_SIGNED[64..96]);
    other_form[64..96].copy_from_slice(&s.to_be_bytes::<32>());
    assert_eq!(asked(&other_form), word(1));
    assert_eq!(asked(&P256_SIGNED[..159]), Bytes::new(), "too short");
    assert_eq!(asked(&[&P256_SIGNED[..], &[0]].concat()), Bytes::new(), "too long");
    assert_eq!(asked(&[0; 160]), Bytes::new(), "no key");
}

fn vote(key: &VoteKey, height: u64, value: Option<B256>) -> SignedVote {
    let place = VotePlace { height, round: 0, kind: VoteKind::Precommit };
    let signature = key.sign(place.signing_hash(&GENESIS, value.as_ref()).as_slice()).unwrap();
    SignedVote { place, value, validator: key.address(), signature: signature.into() }
}

// row: CHN-13, CHN-15
#[test]
fn two_votes_of_either_scheme_for_one_place_convict_and_nothing_else_does() {
    for scheme in VoteScheme::ALL {
        convicts(&VoteKey::of_seed(scheme, &[1; 32]).unwrap());
    }
}

fn convicts(key: &VoteKey) {
    let public = key.public();
    let set = ValidatorSet::new(vec![Validator::new(public.clone(), 1, Address::ZERO)]).unwrap();
    let judged = |a: SignedVote, b: SignedVote| {
        let (a, b) = Equivocation::Votes(a, b).testimony(&set).unwrap();
        called(EQUIVOCATION, &(a, b).abi_encode_params())
    };
    let (one, other) = (Some(B256::repeat_byte(1)), Some(B256::repeat_byte(2)));
    let convicted = judged(vote(key, 7, one), vote(key, 7, other)).unwrap();
    assert_eq!(convicted, Bytes::from((public.contract_hash(), U256::from(7)).abi_encode()));
    assert!(judged(vote(key, 7, one), vote(key, 7, None)).is_ok(), "nil is a value");
    assert!(judged(vote(key, 7, one), vote(key, 7, one)).is_err(), "the same vote twice");
    assert!(judged(vote(key, 7, one), vote(key, 8, other)).is_err(), "two heights");
    let forged = SignedVote { value: other, ..vote(key, 7, one) };
    assert!(judged(vote(key, 7, one), forged).is_err(), "a forged vote");
    for nonsense in [&[][..], &[0xff; 64], &[0; 1_000]] {
        assert!(called(EQUIVOCATION, nonsense).is_err());
    }
}
