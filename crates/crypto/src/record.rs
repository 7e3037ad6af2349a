//! Signing and checking node records with all three keys of a node (NET-01).

use crate::{AccountKey, HybridKey, HybridPublic, SignatureError, domain_hash, recover};
use trellis_primitives::{Address, NodeId, NodeRecord, RecordBoundError, SignedNodeRecord, UnixMs};

/// The domain of the record's signatures.
pub const RECORD_DOMAIN: &str = "trellis/record/1";

/// Why a node record is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The body is out of bounds.
    #[error(transparent)]
    Bound(#[from] RecordBoundError),
    /// One of the three signatures is bad.
    #[error("the node record's {key} signature is bad: {source}")]
    Signature {
        /// Which key.
        key: &'static str,
        /// Why.
        source: SignatureError,
    },
    /// The chain account that signed is not the one in the record.
    #[error("the node record names account {expected} and was signed by {actual}")]
    Account {
        /// The account in the record.
        expected: Address,
        /// The account that signed.
        actual: Address,
    },
    /// The record is too old.
    #[error("the node record expired at {expired}, it is {now}", expired = expired.to_rfc3339(), now = now.to_rfc3339())]
    Expired {
        /// When it expired.
        expired: UnixMs,
        /// The time now.
        now: UnixMs,
    },
}

/// Signs a record with the node's two keys and its account.
///
/// # Errors
/// [`SignatureError`] where the library fails or the record names other keys than these.
pub fn sign_record(
    record: &NodeRecord,
    node: &HybridKey,
    account: &AccountKey,
    chain_id: u64,
) -> Result<SignedNodeRecord, SignatureError> {
    let record_rlp = record.to_rlp();
    let digest = domain_hash(RECORD_DOMAIN, chain_id, &record_rlp);
    Ok(SignedNodeRecord {
        record_rlp,
        ed25519_sig: node.ed25519_sign(digest.as_slice()).to_vec().into(),
        mldsa65_sig: node.mldsa65_sign(digest.as_slice())?.into(),
        secp256k1_sig: account.sign_hash(digest).to_vec().into(),
    })
}

/// Checks a record that came from a peer: bounds, all three signatures over the received bytes, expiry.
///
/// # Errors
/// [`RecordError`] names what is wrong.
pub fn verify_record(
    signed: &SignedNodeRecord,
    chain_id: u64,
    now: UnixMs,
) -> Result<(NodeRecord, NodeId), RecordError> {
    let record = NodeRecord::from_rlp(&signed.record_rlp)?;
    let digest = domain_hash(RECORD_DOMAIN, chain_id, &signed.record_rlp);
    let keys = HybridPublic { ed25519: record.ed25519, mldsa65: record.mldsa65.to_vec() };
    keys.verify_ed25519(digest.as_slice(), &signed.ed25519_sig)
        .map_err(|source| RecordError::Signature { key: "Ed25519", source })?;
    keys.verify_mldsa65(digest.as_slice(), &signed.mldsa65_sig)
        .map_err(|source| RecordError::Signature { key: "ML-DSA-65", source })?;
    let actual =
        recover(digest, &signed.secp256k1_sig).map_err(|source| RecordError::Signature { key: "secp256k1", source })?;
    if actual != record.chain_address {
        return Err(RecordError::Account { expected: record.chain_address, actual });
    }
    if record.expires() <= now {
        return Err(RecordError::Expired { expired: record.expires(), now });
    }
    let id = keys.node_id();
    Ok((record, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use trellis_primitives::{Role, RoleSet};

    fn signed_sample() -> (SignedNodeRecord, NodeId) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let node = HybridKey::generate(&mut rng).unwrap();
        let account = AccountKey::generate(&mut rng);
        let record = NodeRecord {
            ed25519: node.public().ed25519,
            mldsa65: node.public().mldsa65.clone().into(),
            chain_address: account.address(),
            network_magic: 7,
            roles: RoleSet::of(&[Role::Gateway]),
            addresses: vec![],
            models: vec![],
            sequence: 1,
            expires_ms: 100,
        };
        (sign_record(&record, &node, &account, 1).unwrap(), node.node_id())
    }

    // row: NET-01
    #[test]
    fn a_record_signed_by_all_three_keys_is_accepted_and_names_its_node() {
        let (signed, id) = signed_sample();
        assert_eq!(verify_record(&signed, 1, UnixMs(5)).unwrap().1, id);
    }

    // row: NET-01
    #[test]
    fn a_record_is_refused_on_another_chain_when_expired_or_with_any_signature_changed() {
        let (signed, _) = signed_sample();
        assert!(verify_record(&signed, 2, UnixMs(5)).is_err());
        assert!(matches!(verify_record(&signed, 1, UnixMs(100)), Err(RecordError::Expired { .. })));
        for field in 0..3 {
            let mut bad = signed.clone();
            let sig =
                [&mut bad.ed25519_sig, &mut bad.mldsa65_sig, &mut bad.secp256k1_sig].into_iter().nth(field).unwrap();
            let mut bytes = sig.to_vec();
            bytes[3] ^= 1;
            *sig = bytes.into();
            assert!(verify_record(&bad, 1, UnixMs(5)).is_err(), "field {field}");
        }
    }
}
