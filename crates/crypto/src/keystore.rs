//! The keystore: one secret a file, encrypted with a passphrase (NET-02).
//!
//! File: magic "TRLSKEY1" ‖ kind (1) ‖ Argon2 memory KiB, passes, lanes (u32 big-endian each) ‖ salt (16) ‖ nonce (24)
//! ‖ public name length (1) ‖ public name ‖ XChaCha20-Poly1305 ciphertext. All before the ciphertext is authenticated.
//! Written with mode 0600 to a new name and renamed, so that a crash leaves the old file or the new one.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"TRLSKEY1";
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const FIXED_BYTES: usize = 8 + 1 + 12 + SALT_BYTES + NONCE_BYTES + 1;
/// Bytes of a keystore file at most; anything longer is not one.
pub const KEYSTORE_BYTES_MAX: u64 = 4_096;
/// Argon2 memory that a file may ask for at most, so that a foreign file cannot exhaust the machine.
const ARGON2_MEMORY_KIB_MAX: u32 = 1_048_576;
const ARGON2_PASSES_MAX: u32 = 16;

/// What a secret is for. Each has a file of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretKind {
    /// Ed25519 and ML-DSA-65 seeds of a node.
    Node,
    /// secp256k1 key of an account.
    Account,
    /// secp256k1 key that signs vouchers.
    Voucher,
    /// Seed of a validator's Ed25519 vote key.
    Vote,
    /// Seed of a validator's checkpoint keys.
    Checkpoint,
    /// Key of a post-quantum account.
    Quantum,
    /// Seed of a validator's ML-DSA-44 vote key (CHN-15).
    PostQuantumVote,
}

impl SecretKind {
    const ALL: [Self; 7] =
        [Self::Node, Self::Account, Self::Voucher, Self::Vote, Self::Checkpoint, Self::Quantum, Self::PostQuantumVote];

    const fn byte(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Account => 2,
            Self::Voucher => 3,
            Self::Vote => 4,
            Self::Checkpoint => 5,
            Self::Quantum => 6,
            Self::PostQuantumVote => 7,
        }
    }

    /// The word for file names and messages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Account => "account",
            Self::Voucher => "voucher",
            Self::Vote => "vote",
            Self::Checkpoint => "checkpoint",
            Self::Quantum => "quantum",
            Self::PostQuantumVote => "post-quantum vote",
        }
    }
}

/// How hard guessing the passphrase is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hardness {
    /// Argon2id memory in KiB.
    pub memory_kib: u32,
    /// Argon2id passes.
    pub passes: u32,
}

impl Hardness {
    /// 64 MiB and 3 passes (RFC 9106, second recommended option).
    pub const STANDARD: Self = Self { memory_kib: 65_536, passes: 3 };
    /// For throw-away keys of `trellis dev`, whose passphrase is public anyway.
    pub const THROW_AWAY: Self = Self { memory_kib: 64, passes: 1 };
}

/// Why a keystore cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The file system said no.
    #[error("cannot {action} keystore {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a keystore, is cut, or is of another version.
    #[error("keystore {path} is corrupt: {reason}\nhint: restore it from a backup; without one this key is lost", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The passphrase does not open it, or its bytes were changed.
    #[error("keystore {path} does not open with this passphrase\nhint: set TRELLIS_PASSPHRASE or --passphrase-file to the one it was made with", path = path.display())]
    Passphrase {
        /// The file.
        path: PathBuf,
    },
    /// The file holds another kind of key.
    #[error("keystore {path} holds a {actual} key, expected a {expected} key", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        expected: &'static str,
        /// What is there.
        actual: &'static str,
    },
    /// A file of that name is there already, and a key is never overwritten.
    #[error("keystore {path} exists already and is never overwritten\nhint: choose another --datadir or move the file away", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The key-derivation or cipher library refused.
    #[error("the keystore's cipher library refused: {reason}")]
    Library {
        /// Where.
        reason: &'static str,
    },
}

/// Encrypts a secret into a new file with mode 0600.
///
/// `name` is shown without a passphrase (a NodeId or an address), at most 255 bytes.
///
/// # Errors
/// [`KeystoreError`]; an existing file is never overwritten.
pub fn create(
    path: &Path,
    kind: SecretKind,
    name: &str,
    secret: &[u8],
    passphrase: &str,
    hardness: Hardness,
    rng: &mut dyn RngCore,
) -> Result<(), KeystoreError> {
    if path.exists() {
        return Err(KeystoreError::Exists { path: path.to_path_buf() });
    }
    let (mut salt, mut nonce) = ([0u8; SALT_BYTES], [0u8; NONCE_BYTES]);
    rng.fill_bytes(&mut salt);
    rng.fill_bytes(&mut nonce);
    let mut bytes = header(kind, hardness, &salt, &nonce, name)?;
    let cipher = cipher(passphrase, &salt, hardness)?;
    let sealed = cipher
        .encrypt(XNonce::from_slice(&nonce), Payload { msg: secret, aad: &bytes })
        .map_err(|_| KeystoreError::Library { reason: "encryption" })?;
    bytes.extend_from_slice(&sealed);
    write_new(path, &bytes).map_err(|source| KeystoreError::Io { action: "write", path: path.to_path_buf(), source })
}

/// Decrypts a secret of this kind.
///
/// # Errors
/// [`KeystoreError`] tells a corrupt file from a wrong passphrase where that can be told.
pub fn open(path: &Path, kind: SecretKind, passphrase: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let bytes = read(path)?;
    let parsed = Parsed::of(path, &bytes)?;
    if parsed.kind != kind {
        return Err(KeystoreError::Kind {
            path: path.to_path_buf(),
            expected: kind.word(),
            actual: parsed.kind.word(),
        });
    }
    let cipher = cipher(passphrase, parsed.salt, parsed.hardness)?;
    cipher
        .decrypt(XNonce::from_slice(parsed.nonce), Payload { msg: parsed.sealed, aad: parsed.header })
        .map(Zeroizing::new)
        .map_err(|_| KeystoreError::Passphrase { path: path.to_path_buf() })
}

/// The kind and the public name of a keystore, without its passphrase.
///
/// # Errors
/// [`KeystoreError`] where the file is missing or corrupt.
pub fn describe(path: &Path) -> Result<(SecretKind, String), KeystoreError> {
    let bytes = read(path)?;
    let parsed = Parsed::of(path, &bytes)?;
    Ok((parsed.kind, parsed.name.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, KeystoreError> {
    let failed = |source| KeystoreError::Io { action: "read", path: path.to_path_buf(), source };
    if fs::metadata(path).map_err(failed)?.len() > KEYSTORE_BYTES_MAX {
        return Err(KeystoreError::Corrupt { path: path.to_path_buf(), reason: "it is too long to be a keystore" });
    }
    fs::read(path).map_err(failed)
}

fn header(
    kind: SecretKind,
    hardness: Hardness,
    salt: &[u8],
    nonce: &[u8],
    name: &str,
) -> Result<Vec<u8>, KeystoreError> {
    let name_bytes = u8::try_from(name.len()).map_err(|_| KeystoreError::Library { reason: "name over 255 bytes" })?;
    let mut bytes = Vec::with_capacity(FIXED_BYTES + name.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind.byte());
    for number in [hardness.memory_kib, hardness.passes, 1] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(salt);
    bytes.extend_from_slice(nonce);
    bytes.push(name_bytes);
    bytes.extend_from_slice(name.as_bytes());
    Ok(bytes)
}

struct Parsed<'a> {
    kind: SecretKind,
    hardness: Hardness,
    salt: &'a [u8],
    nonce: &'a [u8],
    name: &'a str,
    header: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Parsed<'a> {
    fn of(path: &Path, bytes: &'a [u8]) -> Result<Self, KeystoreError> {
        let corrupt = |reason| KeystoreError::Corrupt { path: path.to_path_buf(), reason };
        if bytes.len() < FIXED_BYTES {
            return Err(corrupt("it is cut short"));
        }
        if &bytes[..8] != MAGIC {
            return Err(corrupt("it does not begin with TRLSKEY1"));
        }
        let kind = SecretKind::ALL
            .into_iter()
            .find(|kind| kind.byte() == bytes[8])
            .ok_or_else(|| corrupt("its kind of key is unknown"))?;
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let hardness = Hardness { memory_kib: number(9), passes: number(13) };
        if hardness.memory_kib > ARGON2_MEMORY_KIB_MAX || hardness.passes > ARGON2_PASSES_MAX || number(17) != 1 {
            return Err(corrupt("its Argon2 parameters are out of bounds"));
        }
        let header_bytes = FIXED_BYTES + usize::from(bytes[FIXED_BYTES - 1]);
        if bytes.len() <= header_bytes {
            return Err(corrupt("it is cut short"));
        }
        let (header, sealed) = bytes.split_at(header_bytes);
        let name = std::str::from_utf8(&header[FIXED_BYTES..]).map_err(|_| corrupt("its name is not UTF-8"))?;
        let salt = &header[21..21 + SALT_BYTES];
        let nonce = &header[21 + SALT_BYTES..21 + SALT_BYTES + NONCE_BYTES];
        Ok(Self { kind, hardness, salt, nonce, name, header, sealed })
    }
}

fn cipher(passphrase: &str, salt: &[u8], hardness: Hardness) -> Result<XChaCha20Poly1305, KeystoreError> {
    let refused = |_| KeystoreError::Library { reason: "key derivation" };
    let params = Params::new(hardness.memory_kib, hardness.passes, 1, Some(32)).map_err(refused)?;
    let mut key = Zeroizing::new([0u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(refused)?;
    XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|_| KeystoreError::Library { reason: "key length" })
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    crate::file::replace(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn made(folder: &Path) -> PathBuf {
        let path = folder.join("node.key");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        create(&path, SecretKind::Node, "name", &[7; 64], "pass", Hardness::THROW_AWAY, &mut rng).unwrap();
        path
    }

    // row: NET-02
    #[test]
    fn a_secret_comes_back_with_its_passphrase_and_the_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        assert_eq!(open(&path, SecretKind::Node, "pass").unwrap().as_slice(), &[7; 64]);
        assert_eq!(describe(&path).unwrap(), (SecretKind::Node, "name".into()));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    // row: NET-02
    #[test]
    fn a_wrong_passphrase_a_wrong_kind_and_an_existing_file_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = made(folder.path());
        assert!(matches!(open(&path, SecretKind::Node, "word"), Err(KeystoreError::Passphrase { .. })));
        assert!(matches!(open(&path, SecretKind::Vote, "pass"), Err(KeystoreError::Kind { .. })));
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        let again = create(&path, SecretKind::Node, "n", &[1], "p", Hardness::THROW_AWAY, &mut rng);
        assert!(matches!(again, Err(KeystoreError::Exists { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_keystore_with_any_byte_changed_or_cut_never_opens(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = made(folder.path());
            let mut bytes = fs::read(&path).unwrap();
            let index = at.index(bytes.len());
            // A larger Argon2 memory is a longer wait and not another outcome; keep the test fast.
            prop_assume!(cut || !(9..17).contains(&index));
            if cut { bytes.truncate(index) } else { bytes[index] ^= flip }
            fs::write(&path, &bytes).unwrap();
            prop_assert!(open(&path, SecretKind::Node, "pass").is_err());
        }
    }
}
