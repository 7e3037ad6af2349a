//! Accounts and voucher signers: secp256k1 by the C library, in Ethereum's form.

use crate::SignatureError;
use rand::RngCore;
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use trellis_primitives::{Address, B256, keccak256};
use zeroize::Zeroizing;

/// Bytes of a signature: r ‖ s ‖ v.
pub const ACCOUNT_SIGNATURE_BYTES: usize = 65;
const SCHEME: &str = "secp256k1";

/// An account's secret key. Has no `Debug`; is erased when dropped.
pub struct AccountKey {
    secret: SecretKey,
    address: Address,
}

impl Drop for AccountKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

impl AccountKey {
    /// A new key from this source of randomness.
    pub fn generate(rng: &mut dyn RngCore) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0u8; 32]);
            rng.fill_bytes(bytes.as_mut_slice());
            // Fewer than one in 2^127 draws is not below the group order.
            if let Ok(key) = Self::from_bytes(&bytes) {
                return key;
            }
        }
    }

    /// The key of a stored secret.
    ///
    /// # Errors
    /// [`SignatureError::Key`] for zero or a number above the group order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignatureError> {
        let secret = SecretKey::from_byte_array(*bytes).map_err(|_| SignatureError::Key { scheme: SCHEME })?;
        let address = address_of(&PublicKey::from_secret_key(SECP256K1, &secret));
        Ok(Self { secret, address })
    }

    /// The secret as it goes into a keystore or into a wallet library.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.secret_bytes())
    }

    /// The account's address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a 32-byte digest (RFC 6979, low s): r ‖ s ‖ v with v = 27 or 28.
    #[must_use]
    pub fn sign_hash(&self, digest: B256) -> [u8; ACCOUNT_SIGNATURE_BYTES] {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.secret);
        let (id, compact) = signature.serialize_compact();
        let mut out = [0u8; ACCOUNT_SIGNATURE_BYTES];
        out[..64].copy_from_slice(&compact);
        out[64] = if i32::from(id) == 0 { 27 } else { 28 };
        out
    }
}

/// Who signed a digest, by `ecrecover`'s rules with the lower s demanded (EIP-2).
///
/// # Errors
/// [`SignatureError`] where the form is wrong or no key fits.
pub fn recover(digest: B256, sig: &[u8]) -> Result<Address, SignatureError> {
    let bytes: &[u8; ACCOUNT_SIGNATURE_BYTES] = sig.try_into().map_err(|_| SignatureError::Length {
        scheme: SCHEME,
        expected: ACCOUNT_SIGNATURE_BYTES,
        actual: sig.len(),
    })?;
    let id = match bytes[64] {
        27 => RecoveryId::Zero,
        28 => RecoveryId::One,
        actual => return Err(SignatureError::RecoveryByte { actual }),
    };
    let signature = RecoverableSignature::from_compact(&bytes[..64], id)
        .map_err(|_| SignatureError::Mismatch { scheme: SCHEME })?;
    let mut normalised = signature.to_standard();
    normalised.normalize_s();
    if normalised != signature.to_standard() {
        return Err(SignatureError::HighS);
    }
    let public = SECP256K1
        .recover_ecdsa(Message::from_digest(digest.0), &signature)
        .map_err(|_| SignatureError::Mismatch { scheme: SCHEME })?;
    Ok(address_of(&public))
}

fn address_of(public: &PublicKey) -> Address {
    let point = public.serialize_uncompressed();
    Address::from_word(keccak256(&point[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first account of the standard test mnemonic, known to every Ethereum tool.
    fn first_test_account() -> AccountKey {
        let bytes = alloy_primitives::hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        AccountKey::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn the_address_is_the_one_other_tools_show() {
        let address = first_test_account().address();
        assert_eq!(address, alloy_primitives::address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
    }

    #[test]
    fn a_signature_names_its_signer_and_no_other_form_of_it_is_accepted() {
        let key = first_test_account();
        let digest = B256::repeat_byte(5);
        let good = key.sign_hash(digest);
        assert_eq!(recover(digest, &good).unwrap(), key.address());
        assert!(matches!(recover(digest, &good[..64]), Err(SignatureError::Length { .. })));
        let mut wrong_v = good;
        wrong_v[64] = 1;
        assert_eq!(recover(digest, &wrong_v), Err(SignatureError::RecoveryByte { actual: 1 }));
        assert_eq!(recover(digest, &with_high_s(&good)), Err(SignatureError::HighS));
    }

    fn with_high_s(sig: &[u8; 65]) -> [u8; 65] {
        let order = alloy_primitives::U256::from_be_bytes(alloy_primitives::hex!(
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
        ));
        let s = alloy_primitives::U256::from_be_slice(&sig[32..64]);
        let mut out = *sig;
        out[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        out[64] = 55 - sig[64];
        out
    }

    proptest! {
        #[test]
        fn no_bytes_make_recovery_panic(digest in any::<[u8; 32]>(), sig in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = recover(B256::from(digest), &sig);
        }
    }
}
