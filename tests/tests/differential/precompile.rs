//! Calls of Ethereum's precompiled contracts with input that is right, nearly right, or noise.

use alloy_primitives::{Address, U256, hex};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use trellis_crypto::account::AccountKey;

/// Points of alt_bn128: the generator, its double, its opposite, and infinity.
const BN_POINTS: [[u8; 64]; 4] = [
    hex!(
        "00000000000000000000000000000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000000000002"
    ),
    hex!(
        "030644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd315ed738c0e0a7c92e7845f96b2ae9c0a68a6a449e3538fc7ff3ebf7a5a18a2c4"
    ),
    hex!(
        "000000000000000000000000000000000000000000000000000000000000000130644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd45"
    ),
    [0; 64],
];
const BN_TWIST: [u8; 128] = hex!(
    "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c21800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa"
);
/// Points of BLS12-381's first group: the generator, its double, its opposite, and infinity.
const BLS_POINTS: [[u8; 128]; 4] = [
    hex!(
        "0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb0000000000000000000000000000000008b3f481e3aaa0f1a09e30ed741d8ae4fcf5e095d5d00af600db18cb2c04b3edd03cc744a2888ae40caa232946c5e7e1"
    ),
    hex!(
        "000000000000000000000000000000000572cbea904d67468808c8eb50a9450c9721db309128012543902d0ac358a62ae28f75bb8f1c7c42c39a8c5529bf0f4e00000000000000000000000000000000166a9d8cabc673a322fda673779d8e3822ba3ecb8670e461f73bb9021d5fd76a4c56d9d4cd16bd1bba86881979749d28"
    ),
    hex!(
        "0000000000000000000000000000000017f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb00000000000000000000000000000000114d1d6855d545a8aa7d76c8cf2e21f267816aef1db507c96655b9d5caac42364e6f38ba0ecb751bad54dcd6b939c2ca"
    ),
    [0; 128],
];
/// And of its second: the generator, and three times it.
const BLS_TWISTS: [[u8; 256]; 2] = [
    hex!(
        "00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb80000000000000000000000000000000013e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e000000000000000000000000000000000ce5d527727d6e118cc9cdc6da2e351aadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801000000000000000000000000000000000606c4a02ea734cc32acd2b02bc28b99cb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be"
    ),
    hex!(
        "00000000000000000000000000000000122915c824a0857e2ee414a3dccb23ae691ae54329781315a0c75df1c04d6d7a50a030fc866f09d516020ef82324afae0000000000000000000000000000000009380275bbc8e5dcea7dc4dd7e0550ff2ac480905396eda55062650f8d251c96eb480673937cc6d9d6a44aaa56ca66dc000000000000000000000000000000000b21da7955969e61010c7a1abc1a6f0136961d1e3b20b1a7326ac738fef5c721479dfd948b52fdf2455e44813ecfd8920000000000000000000000000000000008f239ba329b3967fe48d718a36cfe5f62a7e42e0bf1c1ed714150a166bfbd6bcf6b3b58b975b9edea56d53f23a0e849"
    ),
];
/// A signature of P-256 that verifies: digest, r, s, and the key's x and y.
const P256_SIGNED: [u8; 160] = hex!(
    "2c61ce10527af51cd9f83f9e859c64c0e9123767be22ea0211099dceedc6eb44120823eb4b75f6fcff0e63f49728cc531d83be06cef7ee1dfa9094ba1c86da20b99dfc6c832416c3e69c5c3f711d8feba8c930d7131ee13eac9b569725c847d7088bb9ff22ab291a74c86fc677ba897baadee370cc6129b82d170ba3fc26415c442da9a716067956d91eaa02b93ad409490e87cd5e758ea6a331a1deb75ba846"
);
/// The commitment to the polynomial zero, whose value is zero everywhere, by its versioned hash.
const KZG_ZERO: [u8; 32] = hex!("010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014");

/// The last of the contracts in a row from 1 on.
pub const LAST_IN_ROW: u64 = 0x11;
/// P256VERIFY's address.
pub const P256: u64 = 0x100;

pub fn address(number: u64) -> Address {
    Address::left_padding_from(&number.to_be_bytes())
}

/// A contract, and what to give it. Pairings are seldom: the other implementation takes seconds for one.
pub fn called(rng: &mut ChaCha8Rng, key: &AccountKey) -> (u64, Vec<u8>) {
    let number = match rng.random_range(0..19) {
        0 => P256,
        other => other.min(LAST_IN_ROW),
    };
    let mut input = match number {
        1 => recovered(rng, key),
        2..5 => noise(rng, 300),
        5 => power(rng),
        6 => [bn(rng), bn(rng)].concat(),
        7 => [bn(rng).to_vec(), scalar(rng)].concat(),
        8 => bn_pairing(rng),
        9 => blake(rng),
        10 => kzg(rng),
        11 => [bls(rng), bls(rng)].concat(),
        12 => [bls(rng).to_vec(), scalar(rng)].concat().repeat(rng.random_range(1..3)),
        13 => [twist(rng), twist(rng)].concat(),
        14 => [twist(rng).to_vec(), scalar(rng)].concat(),
        15 => bls_pairing(rng),
        16 => field(rng),
        17 => [field(rng), field(rng)].concat(),
        _ => P256_SIGNED.to_vec(),
    };
    damage(rng, &mut input);
    (number, input)
}

fn damage(rng: &mut ChaCha8Rng, input: &mut Vec<u8>) {
    match rng.random_range(0..12) {
        0 => input.truncate(rng.random_range(0..=input.len())),
        1 => input.extend(noise(rng, 40)),
        2 if !input.is_empty() => {
            let at = rng.random_range(0..input.len());
            input[at] ^= 1 << rng.random_range(0..8);
        }
        _ => {}
    }
}

fn noise(rng: &mut ChaCha8Rng, bytes_max: usize) -> Vec<u8> {
    let bytes = rng.random_range(0..=bytes_max);
    (0..bytes).map(|_| rng.random()).collect()
}

fn scalar(rng: &mut ChaCha8Rng) -> Vec<u8> {
    super::program::word(rng).to_be_bytes_vec()
}

fn recovered(rng: &mut ChaCha8Rng, key: &AccountKey) -> Vec<u8> {
    let digest: [u8; 32] = rng.random();
    let signature = key.sign_hash(digest.into());
    let v = signature[64] % 27 + 27;
    [&digest[..], U256::from(v).to_be_bytes::<32>().as_slice(), &signature[..64]].concat()
}

/// Base, exponent and modulus of few bytes; now and then of more than the 1,024 that are allowed (EIP-7823).
fn power(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut length = || match rng.random_range(0..40) {
        0 => rng.random_range(1_000_usize..1_030),
        1..4 => 0,
        _ => rng.random_range(1..70),
    };
    let lengths = [length(), length(), length()];
    let mut input: Vec<u8> = lengths.iter().flat_map(|length| U256::from(*length).to_be_bytes_vec()).collect();
    input.extend((0..lengths.iter().sum()).map(|_| rng.random::<u8>()));
    input
}

fn bn(rng: &mut ChaCha8Rng) -> [u8; 64] {
    BN_POINTS[rng.random_range(0..BN_POINTS.len())]
}

fn bls(rng: &mut ChaCha8Rng) -> [u8; 128] {
    BLS_POINTS[rng.random_range(0..BLS_POINTS.len())]
}

fn twist(rng: &mut ChaCha8Rng) -> [u8; 256] {
    BLS_TWISTS[rng.random_range(0..BLS_TWISTS.len())]
}

fn bn_pairing(rng: &mut ChaCha8Rng) -> Vec<u8> {
    if rng.random_ratio(1, 12) {
        let second = bn(rng);
        return [&BN_POINTS[0][..], &BN_TWIST, &second, &BN_TWIST].concat();
    }
    // Points at infinity need no pairing.
    [&[0; 64][..], &BN_TWIST].concat().repeat(rng.random_range(0..2))
}

fn bls_pairing(rng: &mut ChaCha8Rng) -> Vec<u8> {
    if rng.random_ratio(1, 12) {
        let second = bls(rng);
        return [&BLS_POINTS[0][..], &BLS_TWISTS[0], &second, &BLS_TWISTS[0]].concat();
    }
    [0; 384].repeat(rng.random_range(0..2))
}

fn field(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = [0; 64];
    rng.fill(&mut bytes[16..]);
    // Mostly under the modulus, which begins with 0x1a.
    bytes[16] = if rng.random_ratio(1, 12) { 0x1a } else { bytes[16] % 0x1a };
    bytes.to_vec()
}

fn blake(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let rounds = if rng.random_ratio(1, 12) { rng.random::<u32>() | (1 << 31) } else { rng.random_range(0..14) };
    let mut input = rounds.to_be_bytes().to_vec();
    input.extend((0..208).map(|_| rng.random::<u8>()));
    input.push(rng.random_range(0..8_u8) % 3);
    input
}

/// A proof for the polynomial zero at any place: value zero, proof at infinity.
fn kzg(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut infinity = [0; 48];
    infinity[0] = 0xc0;
    let mut place: [u8; 32] = rng.random();
    place[0] %= 0x73;
    let (mut hash, value) = (KZG_ZERO, [0; 32]);
    if !rng.random_ratio(1, 12) {
        hash[0] = rng.random();
    }
    [&hash[..], &place, &value, &infinity, &infinity].concat()
}
