//! Keys, names and the doorway.

use super::*;
use trellis_primitives::{Address, RoleSet};

fn record(roles: &[Role], models: &[&str]) -> NodeRecord {
    NodeRecord {
        ed25519: [0; 32],
        mldsa65: vec![0; 1_952].into(),
        chain_address: Address::ZERO,
        network_magic: 1,
        roles: RoleSet::of(roles),
        addresses: Vec::new(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        sequence: 1,
        expires_ms: 1,
    }
}

// row: NET-35
#[test]
fn the_protocols_name_is_of_one_network() {
    let (one, other) = (protocol(&B256::repeat_byte(1)).unwrap(), protocol(&B256::repeat_byte(2)).unwrap());
    assert_eq!(one.as_ref(), format!("/trellis/kad/1/{}", "01".repeat(16)));
    assert_ne!(one, other);
}

// row: NET-35
#[test]
fn only_a_provider_has_keys_one_for_each_model_and_one_for_all() {
    assert!(keys_of(&record(&[Role::Gateway], &["m"])).is_empty());
    let keys = keys_of(&record(&[Role::Provider], &["m", "n"]));
    assert_eq!(keys, [model_key("m"), model_key("n"), providers_key()].into());
    assert_eq!(keys.len(), 3);
}

// row: NET-35
#[test]
fn who_serves_and_was_accepted_enters_in_either_order_and_nobody_else() {
    let at: Multiaddr = "/ip4/11.0.0.1/udp/1/quic-v1".parse().unwrap();
    let mut doorway = Doorway::default();
    let (first, second) = (PeerId::random(), PeerId::random());
    assert!(doorway.serves(first).is_empty());
    assert_eq!(doorway.accepted(first, vec![at.clone()]), std::slice::from_ref(&at));
    assert!(doorway.accepted(second, vec![at.clone()]).is_empty());
    assert_eq!(doorway.serves(second), std::slice::from_ref(&at));
    doorway.left(&second);
    assert!(doorway.serves(second).is_empty());
}
