//! This node's own record: signed when it is first needed, and again before it expires or when its addresses change.

use std::sync::Arc;

use parking_lot::Mutex;
use trellis_crypto::record::sign_record;
use trellis_crypto::{AccountKey, HybridKey, SignatureError};
use trellis_primitives::{Bytes, NodeRecord, RoleSet, UnixMs};

use crate::config::{RECORD_LIFETIME_MS, RECORD_REFRESH_FRACTION};

/// What goes into every record of this node.
pub(crate) struct RecordKeeper {
    pub(crate) keys: Arc<HybridKey>,
    pub(crate) account: AccountKey,
    pub(crate) chain_id: u64,
    pub(crate) network_magic: u32,
    pub(crate) roles: RoleSet,
    pub(crate) models: Vec<String>,
    pub(crate) current: Mutex<Option<Signed>>,
}

/// The record in use.
#[derive(Clone)]
pub(crate) struct Signed {
    rlp: Bytes,
    addresses: Vec<String>,
    sequence: u64,
    expires: UnixMs,
}

impl RecordKeeper {
    /// The RLP of a signed record with these addresses that is valid for a good while.
    pub(crate) fn current(&self, addresses: &[String], now: UnixMs) -> Result<Bytes, SignatureError> {
        let mut current = self.current.lock();
        if let Some(signed) = current.as_ref()
            && signed.addresses == addresses
            && signed.expires.ms_since(now) > RECORD_LIFETIME_MS / RECORD_REFRESH_FRACTION
        {
            return Ok(signed.rlp.clone());
        }
        // The time keeps the sequence growing over restarts; the maximum keeps it growing whatever the clock does.
        let sequence = current.as_ref().map_or(now.0, |signed| now.0.max(signed.sequence + 1));
        let expires = now.plus_ms(RECORD_LIFETIME_MS);
        let record = NodeRecord {
            ed25519: self.keys.public().ed25519,
            mldsa65: self.keys.public().mldsa65.clone().into(),
            chain_address: self.account.address(),
            network_magic: self.network_magic,
            roles: self.roles,
            addresses: addresses.to_vec(),
            models: self.models.clone(),
            sequence,
            expires_ms: expires.0,
        };
        let rlp = sign_record(&record, &self.keys, &self.account, self.chain_id)?.to_rlp();
        *current = Some(Signed { rlp: rlp.clone(), addresses: addresses.to_vec(), sequence, expires });
        Ok(rlp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use trellis_crypto::record::verify_record;
    use trellis_primitives::SignedNodeRecord;

    // row: NET-01
    #[test]
    fn a_record_is_signed_anew_before_it_expires_and_when_addresses_change() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let keeper = RecordKeeper {
            keys: Arc::new(HybridKey::generate(&mut rng).unwrap()),
            account: AccountKey::generate(&mut rng),
            chain_id: 7,
            network_magic: 9,
            roles: RoleSet(1),
            models: vec!["m".to_owned()],
            current: Mutex::default(),
        };
        let read = |rlp: &Bytes, now| verify_record(&SignedNodeRecord::from_rlp(rlp).unwrap(), 7, now).unwrap();
        let here = ["/ip4/1.2.3.4/udp/1/quic-v1".to_owned()];
        let start = UnixMs(1_000_000);
        let first = keeper.current(&here, start).unwrap();
        assert_eq!(keeper.current(&here, start.plus_ms(1_000)).unwrap(), first);
        let late = start.plus_ms(RECORD_LIFETIME_MS * 4 / 5);
        let second = keeper.current(&here, late).unwrap();
        let (old, id) = read(&first, late);
        let (new, same) = read(&second, late.plus_ms(RECORD_LIFETIME_MS / 2));
        assert_eq!((id, same), (keeper.keys.node_id(), keeper.keys.node_id()));
        assert!(new.sequence > old.sequence);
        let moved = keeper.current(&[], late).unwrap();
        assert!(read(&moved, late).0.sequence > new.sequence);
    }
}
