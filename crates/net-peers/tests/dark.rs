//! Dark addresses between real nodes (NET-03).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

use rig::{finding, is_connected, keys, node, port, until};
use trellis_net_peers::guard::Priority;
use trellis_net_peers::{DialError, DiscoveryConfig, RefusalReason, RefusedBy};

fn quiet() -> DiscoveryConfig {
    DiscoveryConfig { outbound_min: 0, pex: false, kad: false, ..finding() }
}

// row: NET-03
#[tokio::test]
async fn a_host_that_shows_another_key_than_the_dark_address_names_is_refused_and_never_greeted() {
    let alice = node(1, &[], quiet()).await;
    let (id, other) = (alice.net.local_id(), keys(7).0.node_id());
    let bob = node(2, &[], quiet()).await;
    let at = |id| format!("trellis://{id}@localhost:{}", port(&alice));
    let error = bob.net.dial(&at(other)).await.unwrap_err();
    let expected = DialError::WrongKey { address: at(other), expected: other, found: id.to_string() };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("another key"), "{error}");
    assert_eq!(bob.metrics.refused_count(RefusedBy::Us, RefusalReason::IdentityChanged), 1);
    assert!(!is_connected(&bob, id) && alice.metrics.accepted.get() == 0);
    assert_eq!(bob.net.dial(&at(id)).await, Ok(id));
    // Connected already, and the address still names somebody else.
    assert!(matches!(bob.net.dial(&at(other)).await, Err(DialError::WrongKey { .. })));
    assert!(is_connected(&bob, id));
    assert!(matches!(bob.net.dial("trellis://nobody@localhost").await, Err(DialError::BadAddress { .. })));
}

// row: NET-03
#[tokio::test]
async fn dark_addresses_work_where_addresses_are_configured_listed_and_added() {
    let alice = node(1, &[], quiet()).await;
    let id = alice.net.local_id();
    let dark = format!("trellis://{id}@127.0.0.1:{}", port(&alice));
    let bob = node(2, std::slice::from_ref(&dark), quiet()).await;
    until("bob is configured", &bob, || is_connected(&bob, id)).await;
    let listed = DiscoveryConfig { compiled_in: vec![dark.clone()], outbound_min: 1, ..quiet() };
    let carol = node(3, &[], listed).await;
    until("carol has a list", &carol, || is_connected(&carol, id)).await;
    let dave = node(4, &[], quiet()).await;
    assert_eq!(dave.net.add_peer(&dark, Priority::Normal).await, Ok(id));
    assert_eq!(dave.net.forget_added(Some(&dark), None), [dark]);
    let wrong = format!("trellis://{}@127.0.0.1:{}", keys(7).0.node_id(), port(&alice));
    assert!(dave.net.add_peer(&wrong, Priority::Normal).await.is_err());
    assert!(dave.net.forget_added(Some(&wrong), None).is_empty(), "what is refused is not remembered");
}
