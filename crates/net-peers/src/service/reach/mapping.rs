//! The task that keeps ports of the home router mapped to this node, and gives them back when it ends (NET-41).

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use trellis_net_reach::config::LEASE_SECONDS;
use trellis_net_reach::{Carrier, Inner, Lease, Router, survey};
use trellis_net_transport::direct_ip;
use trellis_primitives::UnixMs;

use super::is_public;
use crate::discovery::address::{AddressClass, on_internet};
use crate::service::{Command, NodeShared};

/// After the start, so that the addresses listened at are known.
const FIRST_LOOK_MS: u64 = 1_000;
/// Between two looks at what has to be renewed.
const LOOK_MS: u64 = 15_000;
/// The wait after a router that maps nothing; it doubles with each time.
const RETRY_MS_MIN: u64 = 60_000;
/// The longest such wait.
const RETRY_MS_MAX: u64 = 60 * 60 * 1_000;
/// Ports that are mapped at most.
const PORTS_MAX: usize = 4;
/// At the end mappings are given back within this, or left to their lifetime.
const RELEASE_MS_MAX: u64 = 2_000;

/// The ports that are mapped now.
#[derive(Default)]
pub(super) struct Leases(Vec<Held>);

struct Held {
    inner: Inner,
    lease: Lease,
    renewed: UnixMs,
}

impl Held {
    /// As peers dial it.
    fn address(&self) -> Multiaddr {
        let place = Multiaddr::from(self.lease.external.ip());
        let port = self.lease.external.port();
        match self.inner.carrier {
            Carrier::Udp => place.with(Part::Udp(port)).with(Part::QuicV1),
            Carrier::Tcp => place.with(Part::Tcp(port)),
        }
    }

    fn is_due(&self, now: UnixMs) -> bool {
        now.ms_since(self.renewed) >= u64::from(self.lease.lifetime_s.clamp(60, LEASE_SECONDS)) * 1_000 / 2
    }
}

/// The ports listened at on the private IPv4 network that a router leads to, QUIC's first; none where a listener is on the
/// Internet already.
fn wanted(listening: &[Multiaddr]) -> Vec<Inner> {
    if listening.iter().any(on_internet) {
        return Vec::new();
    }
    let private = listening.iter().filter(|address| {
        direct_ip(address).is_some_and(|ip| ip.is_ipv4() && AddressClass::of(ip) == Some(AddressClass::Private))
    });
    let of = |address: &Multiaddr| match address.iter().nth(1) {
        Some(Part::Udp(port)) => Some((0, Carrier::Udp, port)),
        Some(Part::Tcp(port)) => Some((1, Carrier::Tcp, port)),
        _ => None,
    };
    let ports: BTreeMap<(u8, u16), Carrier> =
        private.filter_map(of).map(|(rank, carrier, port)| ((rank, port), carrier)).collect();
    let inner = ports.into_iter().filter_map(|((_, port), carrier)| Some((carrier, NonZeroU16::new(port)?)));
    inner.map(|(carrier, port)| Inner { carrier, port }).take(PORTS_MAX).collect()
}

/// Keeps the ports mapped until the network closes.
pub(super) async fn keep_mapped(shared: Arc<NodeShared>) {
    let config = &shared.config;
    if !config.map_ports || config.proxy.is_some() || config.external_addresses.iter().any(|text| is_public(text)) {
        return;
    }
    let (mut wait_ms, mut retry_ms) = (FIRST_LOOK_MS, RETRY_MS_MIN);
    let mut changes = shared.reach.changes.subscribe();
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            Ok(()) = changes.changed() => {
                // Another router; what the one before had mapped ends by its lifetime.
                shared.reach.leases.lock().await.0.clear();
                (wait_ms, retry_ms) = (FIRST_LOOK_MS, RETRY_MS_MIN);
                continue;
            }
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
        }
        let ports = wanted(&shared.listening.lock());
        let complete = tokio::select! {
            () = shared.closing.cancelled() => return,
            complete = shared.tend_ports(&ports) => complete,
        };
        wait_ms = if complete {
            retry_ms = RETRY_MS_MIN;
            LOOK_MS
        } else {
            let wait_ms = retry_ms;
            retry_ms = retry_ms.saturating_mul(2).min(RETRY_MS_MAX);
            wait_ms
        };
    }
}

impl NodeShared {
    /// Renews what is due and maps what is missing. `false` if a port is wanted that the router does not map.
    async fn tend_ports(&self, ports: &[Inner]) -> bool {
        let mut leases = self.reach.leases.lock().await;
        let now = self.clock.now();
        let mut place = 0;
        while let Some(held) = leases.0.get_mut(place) {
            if !ports.contains(&held.inner) {
                let _ = leases.0.swap_remove(place).lease.release().await;
            } else if !held.is_due(now) {
                place += 1;
            } else if let Err(error) = held.lease.renew().await {
                tracing::info!(address = %held.address(), %error, "the router no longer maps a port here");
                leases.0.swap_remove(place);
            } else {
                held.renewed = now;
                place += 1;
            }
        }
        let missing: Vec<Inner> =
            ports.iter().filter(|port| leases.0.iter().all(|held| held.inner != **port)).copied().collect();
        if !missing.is_empty()
            && let Ok(router) = Router::find().await
        {
            for inner in missing {
                // Another of its ports may be taken by another machine; one refusal says nothing about the next.
                if let Some(lease) = survey(router, inner, LEASE_SECONDS).await.lease {
                    let held = Held { inner, lease, renewed: now };
                    tracing::info!(address = %held.address(), protocol = ?held.lease.protocol(), "the router maps a port to this node");
                    leases.0.push(held);
                }
            }
        }
        let complete = ports.iter().all(|port| leases.0.iter().any(|held| held.inner == *port));
        let mapped = leases.0.iter().map(Held::address).collect();
        drop(leases);
        self.ports_are(mapped).await;
        complete
    }

    /// Peers are asked to try the mapped addresses; those that ended are no way in any more.
    async fn ports_are(&self, mapped: BTreeSet<Multiaddr>) {
        let before = std::mem::replace(&mut *self.reach.mapped.lock(), mapped.clone());
        self.reach.way.lock().gone(|address| before.contains(address) && !mapped.contains(address));
        for address in mapped.difference(&before) {
            let _ = self.commands.send(Command::Candidate(address.clone())).await;
        }
        if before != mapped {
            self.reach.wake.notify_one();
        }
    }

    /// Gives the mapped ports back to the router.
    pub(in crate::service) async fn give_ports_back(&self) {
        let work = async {
            let held = std::mem::take(&mut self.reach.leases.lock().await.0);
            for result in futures::future::join_all(held.into_iter().map(|held| held.lease.release())).await {
                if let Err(error) = result {
                    tracing::debug!(%error, "a mapped port ends by its lifetime");
                }
            }
        };
        if tokio::time::timeout(Duration::from_millis(RELEASE_MS_MAX), work).await.is_err() {
            tracing::info!("the router does not take its ports back; they end by their lifetime");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    // row: NET-41
    #[test]
    fn the_ports_of_the_private_network_are_mapped_and_quics_first() {
        let listening = of(&[
            "/ip4/127.0.0.1/udp/9700/quic-v1",
            "/ip4/192.168.1.10/tcp/9700",
            "/ip4/192.168.1.10/udp/9700/quic-v1",
            "/ip4/192.168.2.10/udp/9700/quic-v1",
            "/ip6/::1/tcp/9700",
        ]);
        let port = NonZeroU16::new(9_700).unwrap();
        let expected = [Carrier::Udp, Carrier::Tcp].map(|carrier| Inner { carrier, port });
        assert_eq!(wanted(&listening), expected);
    }

    // row: NET-41
    #[test]
    fn nothing_is_mapped_for_loopback_or_beside_an_address_of_the_internet() {
        assert!(wanted(&of(&["/ip4/127.0.0.1/udp/9700/quic-v1"])).is_empty());
        assert!(wanted(&of(&["/ip4/192.168.1.10/udp/9700/quic-v1", "/ip4/11.1.0.2/udp/9700/quic-v1"])).is_empty());
    }
}
