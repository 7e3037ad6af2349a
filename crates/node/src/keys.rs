//! The keys of a node: made once, each in a keystore file of its own below `keys/` (NET-02).

use crate::failure::{EXIT_NEEDS_KEY_OR_FUNDS, Failure};
use alloy::signers::local::{MnemonicBuilder, PrivateKeySigner, coins_bip39::English};
use eyre::Result;
use std::path::{Path, PathBuf};
use trellis_chain_spec::{
    DEV_CHAIN_ID, DEV_MNEMONIC, LOCAL_CHAIN_ID, LOCAL_FIRST_ACCOUNT, dev_checkpoint_seed, dev_vote_seed,
    is_public_chain,
};
use trellis_crypto::keystore::{self, Hardness, KeystoreError, SecretKind};
use trellis_crypto::{AccountKey, CheckpointKey, HybridKey, QuantumKey, VoteKey, VoteScheme};
use zeroize::Zeroizing;

/// Variable that holds the passphrase where no file is given.
pub const PASSPHRASE_VARIABLE: &str = "TRELLIS_PASSPHRASE";

/// What seals the keys of `dev` and `local` where no passphrase is given: those keys are public.
const PUBLIC_PASSPHRASE: &str = "dev";

/// The keys that every role has.
pub struct NodeKeys {
    /// Who the node is.
    pub node: HybridKey,
    /// What it is paid to and pays from.
    pub account: AccountKey,
    /// What it signs vouchers with.
    pub voucher: AccountKey,
}

/// How keys are opened and, where they are missing, made.
pub struct KeyMaker<'a> {
    /// The data folder.
    pub datadir: &'a Path,
    /// The chain, because only `dev` keys may be public.
    pub chain_id: u64,
    /// How the chain's validators sign their votes.
    pub vote_scheme: VoteScheme,
    /// Index of the funded test account, on `dev` and `local` only.
    pub dev_account: Option<u32>,
    /// Where the passphrase is read from.
    pub passphrase_file: Option<&'a Path>,
}

impl KeyMaker<'_> {
    /// Opens the node's keys, making those that are missing.
    ///
    /// # Errors
    /// A keystore that does not open, with its hint.
    pub fn open_or_make(&self) -> Result<NodeKeys> {
        let passphrase = self.passphrase()?;
        let mut rng = rand::rng();
        let node = self.secret(SecretKind::Node, &passphrase, || {
            let key = HybridKey::generate(&mut rng)?;
            Ok((key.node_id().to_string(), Zeroizing::new(key.to_secret().to_vec())))
        })?;
        let node_secret: [u8; 64] = node.as_slice().try_into().map_err(|_| wrong_length("node"))?;
        let account = self.secret(SecretKind::Account, &passphrase, || self.new_account())?;
        let voucher = self.secret(SecretKind::Voucher, &passphrase, || {
            let key = AccountKey::generate(&mut rand::rng());
            Ok((key.address().to_string(), Zeroizing::new(key.to_bytes().to_vec())))
        })?;
        Ok(NodeKeys {
            node: HybridKey::from_secret(&node_secret)?,
            account: account_of(&account)?,
            voucher: account_of(&voucher)?,
        })
    }

    /// Opens the vote key. Where it is missing it is a new one, but for the validators that `dev` and `local` begin with:
    /// theirs are public, on `local` by the account that is named.
    ///
    /// # Errors
    /// A keystore that does not open, with its hint.
    pub fn vote_key(&self) -> Result<VoteKey> {
        let passphrase = self.passphrase()?;
        let path = key_path(self.datadir, SecretKind::Vote);
        self.vote_key_at(&path, &passphrase, |scheme| {
            Ok(self.public_number().map_or_else(
                || VoteKey::generate(scheme, &mut rand::rng()),
                |number| VoteKey::of_seed(scheme, &dev_vote_seed(number)),
            )?)
        })
    }

    /// A vote key of the chain's scheme; the kind of its keystore says which one it is.
    fn vote_key_at(
        &self,
        path: &Path,
        passphrase: &str,
        make: impl FnOnce(VoteScheme) -> Result<VoteKey>,
    ) -> Result<VoteKey> {
        let scheme = self.vote_scheme;
        let kind = match scheme {
            VoteScheme::Ed25519 => SecretKind::Vote,
            VoteScheme::MlDsa44 => SecretKind::PostQuantumVote,
        };
        let secret = self.secret_at(path, kind, passphrase, || {
            let key = make(scheme)?;
            Ok((key.address().to_string(), Zeroizing::new(key.to_seed().to_vec())))
        })?;
        let seed: [u8; 32] = secret.as_slice().try_into().map_err(|_| wrong_length("vote"))?;
        Ok(VoteKey::of_seed(scheme, &seed)?)
    }

    /// The number of the validator, among those that `dev` and `local` begin with, whose keys are public.
    fn public_number(&self) -> Option<u32> {
        match self.chain_id {
            DEV_CHAIN_ID => Some(0),
            LOCAL_CHAIN_ID => self.dev_account.and_then(|account| account.checked_sub(LOCAL_FIRST_ACCOUNT)),
            _ => None,
        }
    }

    /// Opens the checkpoint keys. Where they are missing they are made as the vote key is.
    ///
    /// # Errors
    /// A keystore that does not open, with its hint.
    pub fn checkpoint_key(&self) -> Result<CheckpointKey> {
        self.checkpoint_key_at(&key_path(self.datadir, SecretKind::Checkpoint), self.public_number())
    }

    /// Whether other keys are waiting to be a validator's.
    pub fn has_next(&self) -> bool {
        next_path(self.datadir, SecretKind::Vote).exists()
    }

    /// Opens the vote key that is to follow, making it where there is none.
    ///
    /// # Errors
    /// A keystore that does not open, with its hint.
    pub fn next_vote_key(&self) -> Result<VoteKey> {
        let path = next_path(self.datadir, SecretKind::Vote);
        self.vote_key_at(&path, &self.passphrase()?, |scheme| Ok(VoteKey::generate(scheme, &mut rand::rng())?))
    }

    /// The same for the checkpoint keys.
    ///
    /// # Errors
    /// A keystore that does not open, with its hint.
    pub fn next_checkpoint_key(&self) -> Result<CheckpointKey> {
        self.checkpoint_key_at(&next_path(self.datadir, SecretKind::Checkpoint), None)
    }

    /// Puts the keys that were to follow into the place of the validator's keys; those before stay beside them as `….old.key`.
    ///
    /// # Errors
    /// Where a file cannot be moved. Nothing is lost then, and the call may be repeated.
    pub fn take_next(&self) -> Result<()> {
        // The vote key last: as long as it waits, all is repeated.
        for kind in [SecretKind::Checkpoint, SecretKind::Vote] {
            let (now, next) = (key_path(self.datadir, kind), next_path(self.datadir, kind));
            if !next.exists() {
                continue;
            }
            let moved =
                if now.exists() { std::fs::copy(&now, now.with_extension("old.key")).map(drop) } else { Ok(()) };
            moved.and_then(|()| std::fs::rename(&next, &now)).map_err(|error| {
                Failure::new(format!("cannot put {} into place: {error}", next.display()))
                    .hint("free space, or make the folder writable; the node goes on where it was")
            })?;
        }
        Ok(())
    }

    fn checkpoint_key_at(&self, path: &Path, number: Option<u32>) -> Result<CheckpointKey> {
        let passphrase = self.passphrase()?;
        let secret = self.secret_at(path, SecretKind::Checkpoint, &passphrase, || {
            let key = match number {
                Some(number) => CheckpointKey::from_seed(&dev_checkpoint_seed(number))?,
                None => CheckpointKey::generate(&mut rand::rng())?,
            };
            Ok((hex::encode(key.bls_public()), Zeroizing::new(key.to_seed().to_vec())))
        })?;
        let seed: [u8; 32] = secret.as_slice().try_into().map_err(|_| wrong_length("checkpoint"))?;
        Ok(CheckpointKey::from_seed(&seed)?)
    }

    /// Opens an account's key that is in a file of its own.
    ///
    /// # Errors
    /// A keystore that is missing or does not open, with its hint.
    pub fn account_key(&self, path: &Path) -> Result<AccountKey> {
        let opened_with = |passphrase: &str| opened(path, SecretKind::Account, passphrase);
        let secret = opened_with(&self.passphrase()?).or_else(|error| {
            // The passphrase may be that of a key which is no public one, beside a node whose keys are.
            if is_public_chain(self.chain_id) { opened_with(PUBLIC_PASSPHRASE).map_err(|_| error) } else { Err(error) }
        })?;
        account_of(&secret)
    }

    fn new_account(&self) -> Result<(String, Zeroizing<Vec<u8>>)> {
        let key = match self.dev_account {
            Some(index) if is_public_chain(self.chain_id) => dev_account(index)?,
            Some(_) => {
                return Err(
                    Failure::usage("--dev-account is for the chains `dev` and `local`: its keys are public").into()
                );
            }
            None => AccountKey::generate(&mut rand::rng()),
        };
        Ok((key.address().to_string(), Zeroizing::new(key.to_bytes().to_vec())))
    }

    fn secret(
        &self,
        kind: SecretKind,
        passphrase: &str,
        make: impl FnOnce() -> Result<(String, Zeroizing<Vec<u8>>)>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.secret_at(&key_path(self.datadir, kind), kind, passphrase, make)
    }

    fn secret_at(
        &self,
        path: &Path,
        kind: SecretKind,
        passphrase: &str,
        make: impl FnOnce() -> Result<(String, Zeroizing<Vec<u8>>)>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        if !path.exists() {
            let (name, secret) = make()?;
            keystore::create(path, kind, &name, &secret, passphrase, self.hardness(), &mut rand::rng())?;
            tracing::info!(kind = kind.word(), name, path = %path.display(), "made a key");
        }
        opened(path, kind, passphrase)
    }

    fn hardness(&self) -> Hardness {
        if is_public_chain(self.chain_id) { Hardness::THROW_AWAY } else { Hardness::STANDARD }
    }

    fn passphrase(&self) -> Result<Zeroizing<String>> {
        match named_passphrase(self.passphrase_file)? {
            Some(passphrase) => Ok(passphrase),
            None if is_public_chain(self.chain_id) => Ok(Zeroizing::new(PUBLIC_PASSPHRASE.into())),
            None => Err(no_passphrase().into()),
        }
    }
}

/// The passphrase of a file, or else of the variable.
fn named_passphrase(file: Option<&Path>) -> Result<Option<Zeroizing<String>>> {
    let Some(file) = file else { return Ok(std::env::var(PASSPHRASE_VARIABLE).ok().map(Zeroizing::new)) };
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| {
        Failure::key_or_funds(format!("cannot read the passphrase file {}: {error}", file.display()))
    })?;
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}

/// The same for a key that is never public, whatever the chain: none and an empty one are refused.
fn secret_passphrase(file: Option<&Path>) -> Result<Zeroizing<String>> {
    Ok(named_passphrase(file)?.filter(|passphrase| !passphrase.is_empty()).ok_or_else(no_passphrase)?)
}

fn no_passphrase() -> Failure {
    Failure::key_or_funds("the keystore needs a passphrase")
        .hint(format!("set {PASSPHRASE_VARIABLE} or give --passphrase-file FILE"))
}

/// Makes the key of a post-quantum account; `name` gives its address. The account has this address on every chain, so the key
/// is sealed as one that holds money, on `dev` too.
///
/// # Errors
/// A file that is there already, a passphrase that is missing or empty.
pub fn make_quantum_key(
    path: &Path,
    hybrid: bool,
    passphrase_file: Option<&Path>,
    name: impl FnOnce(&QuantumKey) -> String,
) -> Result<QuantumKey> {
    let passphrase = secret_passphrase(passphrase_file)?;
    let key = QuantumKey::generate(&mut rand::rng(), hybrid)?;
    let (name, secret) = (name(&key), key.to_secret());
    keystore::create(path, SecretKind::Quantum, &name, &secret, &passphrase, Hardness::STANDARD, &mut rand::rng())?;
    Ok(key)
}

/// Opens the key of a post-quantum account.
///
/// # Errors
/// A keystore that is missing or does not open, with its hint.
pub fn quantum_key(path: &Path, passphrase_file: Option<&Path>) -> Result<QuantumKey> {
    if !path.exists() {
        return Err(Failure::key_or_funds(format!("there is no post-quantum key at {}", path.display()))
            .hint("make one with `trellis wallet pq create`, or name its file with --key")
            .into());
    }
    Ok(QuantumKey::from_secret(&opened(path, SecretKind::Quantum, &secret_passphrase(passphrase_file)?)?)?)
}

/// What a keystore holds.
fn opened(path: &Path, kind: SecretKind, passphrase: &str) -> Result<Zeroizing<Vec<u8>>> {
    keystore::open(path, kind, passphrase).map_err(|error| match error {
        KeystoreError::Passphrase { .. } => {
            let mut failure = Failure::new(error.to_string());
            failure.code = EXIT_NEEDS_KEY_OR_FUNDS;
            failure.into()
        }
        other => eyre::Report::new(other),
    })
}

/// Where a kind of key is kept.
pub fn key_path(datadir: &Path, kind: SecretKind) -> PathBuf {
    datadir.join("keys").join(format!("{}.key", kind.word()))
}

/// Where a key waits that is to follow the one of its kind.
fn next_path(datadir: &Path, kind: SecretKind) -> PathBuf {
    key_path(datadir, kind).with_extension("next.key")
}

/// A test account of the standard mnemonic.
///
/// # Errors
/// Where the wallet library refuses the index.
pub fn dev_account(index: u32) -> Result<AccountKey> {
    let signer: PrivateKeySigner = MnemonicBuilder::<English>::default().phrase(DEV_MNEMONIC).index(index)?.build()?;
    Ok(AccountKey::from_bytes(&signer.to_bytes().0)?)
}

fn account_of(secret: &[u8]) -> Result<AccountKey> {
    let bytes: [u8; 32] = secret.try_into().map_err(|_| wrong_length("account"))?;
    Ok(AccountKey::from_bytes(&bytes)?)
}

fn wrong_length(kind: &str) -> Failure {
    Failure::new(format!("the {kind} keystore holds a secret of the wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_chain_spec::{ChainSpec, DEV_ACCOUNT_COUNT, DEV_ROLE_ACCOUNTS};

    // row: CHN-15
    #[test]
    fn a_vote_key_is_of_the_chains_scheme_and_comes_back_as_it_was_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let maker = |vote_scheme| KeyMaker {
            datadir: folder.path(),
            chain_id: LOCAL_CHAIN_ID,
            vote_scheme,
            dev_account: None,
            passphrase_file: None,
        };
        let made = maker(VoteScheme::MlDsa44).vote_key().expect("a new key");
        assert_eq!(made.scheme(), VoteScheme::MlDsa44);
        assert_eq!(maker(VoteScheme::MlDsa44).vote_key().expect("the same key").public(), made.public());
        let other = maker(VoteScheme::Ed25519).vote_key().map(|key| key.address()).expect_err("another scheme");
        assert!(other.to_string().contains("post-quantum vote"), "{other}");
        let next = maker(VoteScheme::MlDsa44).next_vote_key().expect("the next key");
        assert_ne!(next.public(), made.public());
        maker(VoteScheme::MlDsa44).take_next().expect("in place");
        assert_eq!(maker(VoteScheme::MlDsa44).vote_key().expect("the next key").public(), next.public());
    }

    // row: CHN-21
    #[test]
    fn the_key_of_a_post_quantum_account_is_sealed_with_a_passphrase_of_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, empty, own) = (folder.path().join("a.key"), folder.path().join("empty"), folder.path().join("own"));
        let make = |passphrase: &Path| make_quantum_key(&path, false, Some(passphrase), |_| "name".into());
        std::fs::write(&empty, "\n").expect("file");
        let refused = make(&empty).map(|key| key.public()).expect_err("no passphrase");
        assert!(refused.to_string().contains("needs a passphrase"), "{refused}");
        assert!(!path.exists(), "nothing was made");
        std::fs::write(&own, "of its owner\n").expect("file");
        let made = make(&own).expect("a key");
        assert_eq!(quantum_key(&path, Some(&own)).expect("opened").public(), made.public());
        assert!(opened(&path, SecretKind::Quantum, PUBLIC_PASSPHRASE).is_err(), "the public word opens nothing");
    }

    // row: CHN-21
    #[test]
    fn whoever_pays_the_gas_may_have_a_key_of_a_public_chain_beside_a_key_with_a_passphrase() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, own) = (folder.path().join("a.key"), folder.path().join("own"));
        std::fs::write(&own, "of its owner").expect("file");
        let key = AccountKey::generate(&mut rand::rng());
        let (secret, random) = (key.to_bytes(), &mut rand::rng());
        keystore::create(
            &path,
            SecretKind::Account,
            "name",
            &secret[..],
            PUBLIC_PASSPHRASE,
            Hardness::THROW_AWAY,
            random,
        )
        .expect("made");
        let maker = |chain_id| KeyMaker {
            datadir: folder.path(),
            chain_id,
            vote_scheme: VoteScheme::default(),
            dev_account: None,
            passphrase_file: Some(&own),
        };
        assert_eq!(maker(DEV_CHAIN_ID).account_key(&path).expect("opened").address(), key.address());
        assert!(maker(1).account_key(&path).is_err(), "elsewhere no key is public");
    }

    // row: CHN-02
    #[test]
    fn every_funded_account_of_the_dev_chain_is_the_mnemonics() {
        let spec = ChainSpec::dev();
        for index in 0..20u32 {
            let address = dev_account(index).expect("derived").address();
            assert!(spec.genesis.alloc.contains_key(&address), "account {index} is {address}");
        }
        let first_role = dev_account(u32::try_from(DEV_ACCOUNT_COUNT).expect("small")).expect("derived");
        assert_eq!(first_role.address(), DEV_ROLE_ACCOUNTS[0]);
    }
}
