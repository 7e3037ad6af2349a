//! The precompiled contracts of the chain: Ethereum's, and its own from [`OWN_FIRST`] on (CHN-13, CHN-15, CHN-21).
//!
//! | address | takes | gives |
//! |---|---|---|
//! | …747201 | ML-DSA-44: public key, signature, message | a word: 1 where it verifies, 0 where not |
//! | …747202 | ML-DSA-65: the same | the same |
//! | …747203 | `abi.encode(bytes, bytes)`: two messages of one validator ([`trellis_chain_finality::EvidenceMessage`]) | `abi.encode(bytes32 voteKeyHash, uint64 height)` where they convict it; it reverts else |
//! | …747204 | BLS12-381: public key in G2, signature in G1, both compressed, message | as the first |
//! | …747205 | Ed25519: public key, signature, message | as the first |
//!
//! FIPS 204 raw keys and an empty context; BLS as a proof of possession. A wrong length reverts. The prices are of the order of
//! what Ethereum's own cost for the same time: ML-DSA as EIP-8051 proposes, a pairing as EIP-2537 has it.

use alloy_evm::precompiles::{DynPrecompile, PrecompileInput, PrecompilesMap};
use alloy_primitives::{Address, B256, Bytes, U256, address};
use revm::precompile::{
    PrecompileHalt, PrecompileId, PrecompileOutput, PrecompileResult, PrecompileSpecId, Precompiles,
};
use revm::primitives::hardfork::SpecId;
use trellis_chain_finality::judge_evidence;
use trellis_crypto::hybrid::verify_ed25519;
use trellis_crypto::{
    BLS_PUBLIC_BYTES, BLS_SIGNATURE_BYTES, MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES, MLDSA65_PUBLIC_BYTES,
    MLDSA65_SIGNATURE_BYTES, SignatureError, verify_bls, verify_mldsa44, verify_mldsa65,
};

/// The first address of the chain's own contracts.
pub const OWN_FIRST: Address = address!("0000000000000000000000000000000000747201");
const ML_DSA_44: Address = OWN_FIRST;
const ML_DSA_65: Address = address!("0000000000000000000000000000000000747202");
const EQUIVOCATION: Address = address!("0000000000000000000000000000000000747203");
const BLS: Address = address!("0000000000000000000000000000000000747204");
const ED25519: Address = address!("0000000000000000000000000000000000747205");

const ML_DSA_44_GAS: u64 = 4_500;
const ML_DSA_65_GAS: u64 = 6_500;
const BLS_GAS: u64 = 110_000;
const ED25519_GAS: u64 = 2_000;
/// Two signatures of the dearer scheme.
const EQUIVOCATION_GAS: u64 = 2 * ML_DSA_44_GAS;
/// For each word of a message, which is hashed.
const WORD_GAS: u64 = 12;

/// The precompiled contracts of a fork; with `genesis_hash`, of the chain with this block zero, whose own are there too.
#[must_use]
pub fn precompiles(spec: SpecId, genesis_hash: Option<B256>) -> PrecompilesMap {
    let mut map = PrecompilesMap::from_static(Precompiles::new(PrecompileSpecId::from_spec_id(spec)));
    if let Some(genesis_hash) = genesis_hash {
        map.extend_precompiles(own(genesis_hash));
    }
    map
}

type Verify = fn(&[u8], &[u8], &[u8]) -> Result<(), SignatureError>;

fn own(genesis_hash: B256) -> [(Address, DynPrecompile); 5] {
    let ed25519: Verify = |public, message, signature| match public.try_into() {
        Ok(public) => verify_ed25519(public, message, signature),
        Err(_) => Err(SignatureError::Key { scheme: "Ed25519" }),
    };
    [
        signature(
            ML_DSA_44,
            "ML-DSA-44",
            ML_DSA_44_GAS,
            (MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES),
            verify_mldsa44,
        ),
        signature(
            ML_DSA_65,
            "ML-DSA-65",
            ML_DSA_65_GAS,
            (MLDSA65_PUBLIC_BYTES, MLDSA65_SIGNATURE_BYTES),
            verify_mldsa65,
        ),
        signature(BLS, "BLS12-381", BLS_GAS, (BLS_PUBLIC_BYTES, BLS_SIGNATURE_BYTES), verify_bls),
        signature(ED25519, "Ed25519", ED25519_GAS, (32, 64), ed25519),
        (
            EQUIVOCATION,
            DynPrecompile::new(PrecompileId::custom("equivocation"), move |input| {
                let data = input.data;
                priced(&input, EQUIVOCATION_GAS, data.len(), || convicted(data, &genesis_hash))
            }),
        ),
    ]
}

fn signature(
    at: Address,
    name: &'static str,
    gas: u64,
    (public_bytes, signature_bytes): (usize, usize),
    verify: Verify,
) -> (Address, DynPrecompile) {
    let run = move |input: PrecompileInput<'_>| {
        let data = input.data;
        let message_bytes = data.len().saturating_sub(public_bytes).saturating_sub(signature_bytes);
        priced(&input, gas, message_bytes, || {
            let (public, rest) = data.split_at_checked(public_bytes)?;
            let (signature, message) = rest.split_at_checked(signature_bytes)?;
            let valid = verify(public, message, signature).is_ok();
            Some(Bytes::from(B256::from(U256::from(u8::from(valid))).to_vec()))
        })
    };
    (at, DynPrecompile::new(PrecompileId::custom(name), run))
}

/// Takes the price and gives the answer; a revert where there is none.
fn priced(
    input: &PrecompileInput<'_>,
    base: u64,
    bytes: usize,
    answer: impl FnOnce() -> Option<Bytes>,
) -> PrecompileResult {
    let words = u64::try_from(bytes.div_ceil(32)).unwrap_or(u64::MAX);
    let gas = base.saturating_add(words.saturating_mul(WORD_GAS));
    if gas > input.gas {
        return Ok(PrecompileOutput::halt(PrecompileHalt::OutOfGas, input.reservoir));
    }
    Ok(match answer() {
        Some(bytes) => PrecompileOutput::new(gas, bytes, input.reservoir),
        None => PrecompileOutput::revert(gas, Bytes::new(), input.reservoir),
    })
}

/// Judges `abi.encode(bytes a, bytes b)`.
fn convicted(data: &[u8], genesis_hash: &B256) -> Option<Bytes> {
    let (first, second) = (argument(data, 0)?, argument(data, 1)?);
    let (key_hash, height) = judge_evidence(first, second, genesis_hash).ok()?;
    let mut answer = key_hash.to_vec();
    answer.extend_from_slice(B256::from(U256::from(height)).as_slice());
    Some(answer.into())
}

/// The n-th dynamic argument of an ABI encoding.
fn argument(data: &[u8], index: usize) -> Option<&[u8]> {
    let offset = word(data, index.checked_mul(32)?)?;
    let length = word(data, offset)?;
    let start = offset.checked_add(32)?;
    data.get(start..start.checked_add(length)?)
}

fn word(data: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 32] = data.get(at..at.checked_add(32)?)?.try_into().ok()?;
    usize::try_from(U256::from_be_bytes(bytes)).ok()
}
