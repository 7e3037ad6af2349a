//! The tasks that notice another network under this node, forget what was found out about the one before, and ask STUN
//! about the new one (NET-40, NET-45).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use trellis_net_reach::config::CHECK_MS_MAX;
use trellis_net_reach::{NatKind, StunSurvey, Surroundings, ask_stun, sources};
use trellis_net_transport::direct_ip;

use super::is_public;
use super::observed::candidates;
use crate::discovery::address::on_internet;
use crate::service::{Command, NodeShared};

/// Between two looks where no listener tells of a change: one that listens at fixed addresses never does.
const LOOK_EVERY_MS: u64 = 5_000;
/// STUN is asked when a new network has had this long to settle.
const SETTLE_MS: u64 = 500;
/// The wait after STUN told no kind; it doubles with each time.
const RETRY_MS_MIN: u64 = 60_000;
/// The longest such wait.
const RETRY_MS_MAX: u64 = 60 * 60 * 1_000;
/// One round of questions takes at most this: names, both families, and TCP where UDP is silent.
const SURVEY_MS_MAX: u64 = CHECK_MS_MAX + 6_000;

/// Looks at the network under this node until its own network closes.
pub(super) async fn watch(shared: Arc<NodeShared>) {
    let mut seen = Surroundings::default();
    loop {
        let now = tokio::select! {
            () = shared.closing.cancelled() => return,
            now = sources() => now,
        };
        if seen.look(now) {
            tracing::info!(v4 = ?now.v4, v6 = ?now.v6, "the network under this node has changed");
            shared.network_changed().await;
        }
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = shared.reach.moved.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)) => {}
        }
    }
}

/// Asks STUN at the start and after every change, until the network closes.
pub(super) async fn judge(shared: Arc<NodeShared>) {
    let config = &shared.config;
    // Behind a proxy nobody is told an address of this node, and a named address wins whatever STUN says.
    if config.stun_servers.is_empty()
        || config.proxy.is_some()
        || config.external_addresses.iter().any(|text| is_public(text))
    {
        return;
    }
    let mut changes = shared.reach.changes.subscribe();
    let (mut wait_ms, mut retry_ms) = (SETTLE_MS, RETRY_MS_MIN);
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                (wait_ms, retry_ms) = (SETTLE_MS, RETRY_MS_MIN);
                continue;
            }
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
        }
        let told = tokio::select! {
            () = shared.closing.cancelled() => return,
            told = shared.ask_stun() => told,
        };
        wait_ms = if told {
            // Until the network changes.
            u64::from(u32::MAX)
        } else {
            let wait_ms = retry_ms;
            retry_ms = retry_ms.saturating_mul(2).min(RETRY_MS_MAX);
            wait_ms
        };
    }
}

/// The servers that are asked: where this node listens at loopback alone, none but those at loopback.
fn asked(servers: &[String], listening: &[Multiaddr]) -> Vec<String> {
    let here = |ip: IpAddr| ip.is_loopback();
    let at_home = listening.iter().all(|address| direct_ip(address).is_none_or(here));
    let is_here = |server: &&String| server.parse::<SocketAddr>().is_ok_and(|socket| here(socket.ip()));
    servers.iter().filter(|server| !at_home || is_here(server)).cloned().collect()
}

/// Where this node may be reached if the NAT leaves ports as they are: where STUN saw it, at each port listened at.
fn places(survey: &StunSurvey, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let Some(local) = survey.v4.local else { return Vec::new() };
    let seen = survey.v4.seen();
    let [seen] = seen.as_slice() else { return Vec::new() };
    if seen.port() != local.port() {
        return Vec::new();
    }
    let own = |address: &&Multiaddr| direct_ip(address).is_some_and(|ip| ip.is_ipv4() && !ip.is_loopback());
    let Some(first) = listening.iter().find(own) else { return Vec::new() };
    let parts = first.iter().skip(1).filter(|part| !matches!(part, Part::P2p(_)));
    let outside: Multiaddr = std::iter::once(Part::from(seen.ip())).chain(parts).collect();
    candidates(&outside, listening).into_iter().filter(on_internet).collect()
}

impl NodeShared {
    /// Asks STUN about the network. `false` if it could not tell the kind.
    async fn ask_stun(&self) -> bool {
        let listening = self.listening.lock().clone();
        let servers = asked(&self.config.stun_servers, &listening);
        if servers.is_empty() {
            return false;
        }
        let asked_in = *self.reach.changes.borrow();
        let survey = match tokio::time::timeout(Duration::from_millis(SURVEY_MS_MAX), ask_stun(&servers)).await {
            Ok(Ok(survey)) => survey,
            Ok(Err(error)) => {
                tracing::info!(%error, "STUN cannot be asked");
                return false;
            }
            Err(_) => {
                tracing::info!(after_ms = SURVEY_MS_MAX, "STUN was asked for too long");
                return false;
            }
        };
        let found = survey.kind();
        tracing::info!(kind = found.kind.word(), reason = found.reason, "STUN about this network");
        // What was asked in another network says nothing about this one.
        if *self.reach.changes.borrow() != asked_in {
            return false;
        }
        for place in places(&survey, &listening) {
            let _ = self.commands.send(Command::Candidate(place)).await;
        }
        if found.kind == NatKind::Unknown {
            return false;
        }
        self.reach.way.lock().judged(found.kind);
        self.reach.wake.notify_one();
        true
    }

    /// The network under this node is another one: what was found out about the way in no longer holds, and is found out anew.
    async fn network_changed(&self) {
        let now_ms = self.clock.now().0;
        let before = {
            let mut way = self.reach.way.lock();
            let before = way.confirmed(now_ms);
            way.changed();
            before
        };
        self.reach.metrics.network_changed.inc();
        self.reach.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        // Everything that may be a way in is tried again: what was one, what is listened at, what the router maps.
        let listening = self.listening.lock().clone();
        let mut places: Vec<Multiaddr> = listening.into_iter().filter(on_internet).collect();
        places.extend(self.reach.mapped.lock().iter().cloned());
        places.extend(before);
        let _ = self.commands.send(Command::Probe(places)).await;
        self.reach.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
