//! Whom to ask: where each peer stands, how busy and how fast it is, and who is out.

use crate::config::{
    BEHIND_BLOCKS_MAX, BODIES_PER_REQUEST_FIRST, BODIES_PER_REQUEST_MAX, DROPPED_MAX, PENALTY_DOUBLINGS_MAX,
    REQUESTS_PER_PEER_MAX, STRIKES_MAX, SyncConfig,
};
use crate::error::Fault;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use trellis_primitives::NodeId;

/// An answer that is complete sooner than this makes the next request larger, in milliseconds.
const QUICK_MS: u64 = 500;
/// One that takes longer makes it smaller, in milliseconds.
const LONG_MS: u64 = 2_000;

/// One peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    here: bool,
    /// The lowest height whose body it has.
    first: u64,
    /// The height of its newest block, as it says; none before it says.
    tip: Option<u64>,
    busy: usize,
    strikes: u32,
    /// Runs of headers that ended early. Bodies do not make up for them.
    short_runs: u32,
    drops: u32,
    out_until: u64,
    /// Bodies that it is asked for at once.
    pub(crate) per_request: u64,
    /// How fast it sent lately; 0 before it is known.
    pub(crate) bytes_per_s: u64,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            here: false,
            first: 1,
            tip: None,
            busy: 0,
            strikes: 0,
            short_runs: 0,
            drops: 0,
            out_until: 0,
            per_request: BODIES_PER_REQUEST_FIRST,
            bytes_per_s: 0,
        }
    }
}

impl Peer {
    fn usable(&self, now: u64) -> bool {
        self.here && self.tip.is_some() && self.out_until <= now
    }

    fn fails(&self) -> bool {
        self.strikes.max(self.short_runs) >= STRIKES_MAX
    }

    /// How much of a range it has: up to this height, where it has the first.
    pub(crate) fn reach(&self, first: u64) -> Option<u64> {
        self.tip.filter(|tip| *tip >= first && self.first <= first)
    }
}

/// Everybody who is connected, and whoever was dropped and may come again.
#[derive(Default)]
pub(crate) struct Peers(BTreeMap<NodeId, Peer>);

impl Peers {
    pub(crate) fn joined(&mut self, id: NodeId) {
        let peer = self.0.entry(id).or_default();
        (peer.here, peer.tip, peer.busy) = (true, None, 0);
    }

    pub(crate) fn left(&mut self, id: NodeId) {
        let Some(peer) = self.0.get_mut(&id) else { return };
        (peer.here, peer.tip, peer.busy) = (false, None, 0);
        if peer.drops == 0 {
            self.0.remove(&id);
        }
        if self.0.len() > DROPPED_MAX {
            let absent = self.0.iter().filter(|(_, peer)| !peer.here);
            if let Some(id) = absent.min_by_key(|(_, peer)| peer.out_until).map(|(id, _)| *id) {
                self.0.remove(&id);
            }
        }
    }

    pub(crate) fn told(&mut self, id: NodeId, first: u64, tip: u64) {
        if let Some(peer) = self.0.get_mut(&id) {
            (peer.first, peer.tip) = (first.max(1), Some(tip));
        }
    }

    pub(crate) fn is_usable(&self, id: NodeId, now: u64) -> bool {
        self.0.get(&id).is_some_and(|peer| peer.usable(now))
    }

    pub(crate) fn usable(&self, now: u64) -> usize {
        self.0.values().filter(|peer| peer.usable(now)).count()
    }

    /// Who is here for nothing: out, silent however often it is asked, or far behind a height. The only one that can be asked
    /// is not, however slow it is.
    pub(crate) fn useless(&self, now: u64, height: u64) -> Vec<NodeId> {
        let usable = self.usable(now);
        let alone = |peer: &Peer| peer.tip.is_some() && usable <= usize::from(peer.usable(now));
        let useless = |peer: &Peer| {
            peer.here
                && (peer.out_until > now
                    || (peer.fails() && !alone(peer))
                    || peer.tip.is_some_and(|tip| tip.saturating_add(BEHIND_BLOCKS_MAX) < height))
        };
        self.0.iter().filter(|(_, peer)| useless(peer)).map(|(id, _)| *id).collect()
    }

    /// The highest block that anybody who is believed claims to have; none where nobody says anything.
    pub(crate) fn highest(&self, now: u64) -> Option<u64> {
        self.0.values().filter(|peer| peer.usable(now)).filter_map(|peer| peer.tip).max()
    }

    /// Who is asked for what begins at a height, beside one: the least busy, the fastest of them.
    pub(crate) fn choose(&self, first: u64, beside: Option<NodeId>, now: u64) -> Option<(NodeId, Peer)> {
        let free = self.0.iter().filter(|(id, peer)| {
            peer.usable(now) && peer.busy < REQUESTS_PER_PEER_MAX && peer.reach(first).is_some() && Some(**id) != beside
        });
        free.min_by_key(|(_, peer)| (peer.busy, Reverse(peer.bytes_per_s))).map(|(id, peer)| (*id, *peer))
    }

    pub(crate) fn busier(&mut self, id: NodeId) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.busy += 1;
        }
    }

    pub(crate) fn freer(&mut self, id: NodeId) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.busy = peer.busy.saturating_sub(1);
        }
    }

    /// An answer is complete.
    pub(crate) fn answered(&mut self, id: NodeId) {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.strikes = 0;
        }
    }

    /// All headers that were asked for came. One alone proves little: it is what a short run has as well.
    pub(crate) fn sent_run(&mut self, id: NodeId, headers: usize) {
        self.answered(id);
        if let Some(peer) = self.0.get_mut(&id).filter(|_| headers > 1) {
            peer.short_runs = 0;
        }
    }

    /// Counts a run that ended early; true where the peer is out now.
    pub(crate) fn fell_short(&mut self, id: NodeId, config: &SyncConfig, now: u64) -> bool {
        if let Some(peer) = self.0.get_mut(&id) {
            peer.short_runs = peer.short_runs.saturating_add(1);
        }
        self.strike(id, Fault::Withheld, config, now)
    }

    /// An answer with bodies is complete: the next request is larger or smaller.
    pub(crate) fn sent(&mut self, id: NodeId, bytes: u64, took_ms: u64) {
        self.answered(id);
        let Some(peer) = self.0.get_mut(&id) else { return };
        let rate = bytes.saturating_mul(1_000) / took_ms.max(1);
        peer.bytes_per_s = if peer.bytes_per_s == 0 { rate } else { (peer.bytes_per_s * 3).saturating_add(rate) / 4 };
        if took_ms < QUICK_MS {
            peer.per_request = (peer.per_request * 2).min(BODIES_PER_REQUEST_MAX);
        } else if took_ms > LONG_MS {
            peer.per_request = (peer.per_request / 2).max(1);
        }
    }

    /// Counts a fault; true where the peer is out now.
    pub(crate) fn strike(&mut self, id: NodeId, fault: Fault, config: &SyncConfig, now: u64) -> bool {
        let others = self.0.iter().any(|(other, peer)| *other != id && peer.usable(now));
        let Some(peer) = self.0.get_mut(&id) else { return false };
        let at_once = fault.is_lie() || fault == Fault::Unsupported;
        peer.strikes = peer.strikes.saturating_add(1);
        peer.per_request = (peer.per_request / 2).max(1);
        // The only peer there is may be slow: a sync without it would not move at all.
        if !at_once && (!peer.fails() || !others) {
            return false;
        }
        let penalty = if at_once { config.lie_penalty_ms } else { config.penalty_ms };
        peer.out_until = now.saturating_add(penalty << peer.drops.min(PENALTY_DOUBLINGS_MAX));
        peer.drops = peer.drops.saturating_add(1);
        (peer.strikes, peer.short_runs) = (0, 0);
        true
    }
}
