//! The pure core: what is known of the peers and the chain goes in with a time, what to ask whom and what to commit comes out.

mod bodies;
mod peers;
mod runs;
#[cfg(test)]
mod tests;

use crate::config::{BODIES_AHEAD_BYTES_MAX, COMMIT_BLOCKS_MAX, COMMIT_BYTES_MAX, SyncConfig};
use crate::error::{Fault, SyncError};
use crate::sink::{FinalBlock, Head};
use crate::wire::{Bodies, PeerStatus, Request, Run};
pub(crate) use bodies::check as check_body;
use bodies::{BodyStock, Held, check, likely_bytes};
use peers::Peers;
use runs::{Judged, Runs};
use std::collections::BTreeMap;
use trellis_chain_finality::CommitteeChain;
use trellis_primitives::{Block, CommitCertificate, NodeId};

/// The pace that a large body is waited for at, in bytes per millisecond.
const PATIENCE_BYTES_PER_MS: u64 = 64;

/// Bytes of a header and a little more.
const HEADER_BYTES: u64 = 700;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A peer that may have the chain is connected.
    Joined(NodeId),
    /// It is gone.
    Left(NodeId),
    /// It says where it stands.
    Status { peer: NodeId, status: PeerStatus },
    /// It cannot be asked where it stands.
    NoStatus { peer: NodeId, fault: Fault },
    /// The answer to a request for headers.
    Run { request: u64, run: Run },
    /// A part of the answer to a request for bodies.
    Bodies { request: u64, bodies: Bodies, bytes: u64 },
    /// That answer is complete.
    Ended { request: u64 },
    /// A request came to nothing.
    Failed { request: u64, fault: Fault },
    /// The sink committed what it was given.
    Committed(Head),
}

/// Something to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Ask a peer.
    Ask { request: u64, peer: NodeId, what: Request },
    /// Wait for an answer no longer.
    Cancel { request: u64 },
    /// Give blocks to the sink.
    Commit(Vec<FinalBlock>),
    /// A peer is not asked any more for a while.
    Dropped { peer: NodeId, fault: Fault },
}

/// Where a sync stands. Heights are of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Where this run began.
    pub start: u64,
    /// The newest block committed.
    pub head: u64,
    /// The newest header that is proved to be final.
    pub proved: u64,
    /// The newest block that a peer claims to have.
    pub highest: u64,
    /// Peers that can be asked.
    pub peers: usize,
    /// Bytes of bodies that wait to be committed.
    pub waiting_bytes: usize,
}

impl Progress {
    /// Blocks that are left to the highest that is claimed.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.highest.saturating_sub(self.head)
    }

    /// Part of the way that is done, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        let whole = self.highest.saturating_sub(self.start);
        // Both are far below 2^52, where a float is exact.
        if whole == 0 { 1.0 } else { self.head.saturating_sub(self.start) as f64 / whole as f64 }
    }
}

struct Pending {
    peer: NodeId,
    what: Request,
    /// The next height that is to come.
    next: u64,
    asked_at: u64,
    heard_at: u64,
    bytes: u64,
    /// What may come at once takes so long at a modest pace, in milliseconds.
    patience_ms: u64,
    likely_bytes: u64,
}

/// A sync: see the crate's documentation.
pub(crate) struct SyncState {
    config: SyncConfig,
    start: u64,
    head: Head,
    /// The highest block given to the sink.
    taken: u64,
    committing: bool,
    runs: Runs,
    stock: BodyStock,
    peers: Peers,
    pending: BTreeMap<u64, Pending>,
    next_request: u64,
    actions: Vec<Action>,
}

impl SyncState {
    /// A sync that begins at a head; `committees` knows those of the next two blocks.
    pub(crate) fn new(config: SyncConfig, head: Head, committees: CommitteeChain, epoch_blocks: Option<u64>) -> Self {
        Self {
            config,
            start: head.height,
            head,
            taken: head.height,
            committing: false,
            runs: Runs::new(head, committees, epoch_blocks),
            stock: BodyStock::default(),
            peers: Peers::default(),
            pending: BTreeMap::new(),
            next_request: 0,
            actions: Vec::new(),
        }
    }

    pub(crate) fn progress(&self, now: u64) -> Progress {
        Progress {
            start: self.start,
            head: self.head.height,
            proved: self.runs.tip.height,
            highest: self.peers.highest(now).unwrap_or(0).max(self.runs.tip.height),
            peers: self.peers.usable(now),
            waiting_bytes: self.stock.bytes,
        }
    }

    /// Peers that cannot be asked for anything: dropped, silent, or behind what is committed here.
    pub(crate) fn useless(&self, now: u64) -> Vec<NodeId> {
        self.peers.useless(now, self.head.height)
    }

    /// Takes in what happened.
    pub(crate) fn on(&mut self, now: u64, event: Event) {
        match event {
            Event::Joined(peer) => self.peers.joined(peer),
            Event::Left(peer) => {
                self.cancel_all(peer);
                self.peers.left(peer);
            }
            Event::Status { peer, status } => {
                self.peers.told(peer, status.first_height, status.height);
                if self.peers.is_usable(peer, now) {
                    self.runs.offered(peer, status.height, status.tip);
                }
            }
            Event::NoStatus { peer, fault } => self.strike(peer, fault, now),
            Event::Run { request, run } => {
                let Some(Pending { peer, what, .. }) = self.finish(request) else { return };
                let length = run.headers.len();
                self.runs.arrived(request, peer, run);
                match what {
                    // It says that it has more. What it sent is taken all the same, unless it is dropped for this.
                    Request::Headers { first, last } if (length as u64) <= last.saturating_sub(first) => {
                        let out = self.peers.fell_short(peer, &self.config, now);
                        self.dropped(out, peer, Fault::Withheld);
                    }
                    _ => self.peers.sent_run(peer, length),
                }
            }
            Event::Bodies { request, bodies, bytes } => self.on_bodies(now, request, bodies, bytes),
            Event::Ended { request } => self.on_ended(now, request),
            Event::Failed { request, fault } => self.fail(request, fault, now),
            Event::Committed(head) => {
                self.head = head;
                self.committing = false;
            }
        }
    }

    fn on_bodies(&mut self, now: u64, request: u64, given: Bodies, bytes: u64) {
        let Some(pending) = self.pending.get_mut(&request) else { return };
        let Request::Bodies { last, .. } = pending.what else { return };
        let mut next = pending.next;
        let mut fault = (given.first != next).then_some(Fault::WrongBody);
        for body in &given.bodies {
            if fault.is_some() {
                break;
            }
            let header = self.runs.verified(next).filter(|_| next <= last);
            match header.map(|proved| check(&proved.header, body)) {
                Some(Ok(checked)) => {
                    self.stock.keep(next, Held { body: checked, bytes: body.len() });
                    next = next.saturating_add(1);
                }
                Some(Err(found)) => fault = Some(found),
                None => fault = Some(Fault::WrongBody),
            }
        }
        (pending.next, pending.heard_at) = (next, now);
        pending.bytes = pending.bytes.saturating_add(bytes);
        match fault {
            Some(fault) => self.fail(request, fault, now),
            // The end of the stream says nothing new then.
            None if next > last => self.on_ended(now, request),
            None => {}
        }
    }

    fn on_ended(&mut self, now: u64, request: u64) {
        let Some(pending) = self.pending.get(&request) else { return };
        let Request::Bodies { first, .. } = pending.what else { return };
        if pending.next == first {
            return self.fail(request, Fault::Withheld, now);
        }
        let took_ms = now.saturating_sub(pending.asked_at);
        if let Some(pending) = self.finish(request) {
            self.peers.sent(pending.peer, pending.bytes, took_ms);
        }
    }

    /// Takes a request out; what did not come is missing again.
    fn finish(&mut self, request: u64) -> Option<Pending> {
        let pending = self.pending.remove(&request)?;
        self.peers.freer(pending.peer);
        if let Request::Bodies { last, .. } = pending.what {
            self.stock.want(pending.next..=last);
        }
        Some(pending)
    }

    fn fail(&mut self, request: u64, fault: Fault, now: u64) {
        let Some(pending) = self.finish(request) else { return };
        self.runs.back(request);
        self.actions.push(Action::Cancel { request });
        self.strike(pending.peer, fault, now);
    }

    fn strike(&mut self, peer: NodeId, fault: Fault, now: u64) {
        let out = self.peers.strike(peer, fault, &self.config, now);
        self.dropped(out, peer, fault);
    }

    /// Where a peer is out now, nothing is awaited from it.
    fn dropped(&mut self, out: bool, peer: NodeId, fault: Fault) {
        if out {
            self.cancel_all(peer);
            self.runs.discard(peer);
            self.actions.push(Action::Dropped { peer, fault });
        }
    }

    fn cancel_all(&mut self, peer: NodeId) {
        let requests = self.pending.iter().filter(|(_, pending)| pending.peer == peer);
        for request in requests.map(|(request, _)| *request).collect::<Vec<_>>() {
            self.finish(request);
            self.runs.back(request);
            self.actions.push(Action::Cancel { request });
        }
    }

    /// Decides what to do now. To be called after events and from time to time.
    ///
    /// # Errors
    /// [`SyncError::NoParentCertificate`], where the chain itself is broken.
    pub(crate) fn step(&mut self, now: u64) -> Result<Vec<Action>, SyncError> {
        self.judge_runs(now);
        self.watch(now);
        self.commit()?;
        if let Some(target) = self.peers.highest(now) {
            self.runs.plan(self.taken, target);
            self.ask_for_headers(now);
            self.ask_for_bodies(now);
        }
        Ok(std::mem::take(&mut self.actions))
    }

    fn judge_runs(&mut self, now: u64) {
        for judged in self.runs.judge() {
            match judged {
                Judged::Proved { first, last } => self.stock.want(first..=last),
                Judged::Lie { peer, fault } => self.strike(peer, fault, now),
            }
        }
    }

    /// Looks for answers that are overdue.
    fn watch(&mut self, now: u64) {
        let quiet = |pending: &Pending| {
            now.saturating_sub(pending.heard_at) > self.config.quiet_ms.saturating_add(pending.patience_ms)
        };
        let overdue: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| quiet(pending)).map(|(request, _)| *request).collect();
        for request in overdue {
            self.fail(request, Fault::Withheld, now);
        }
        if let Some(request) = self.holds_up(now) {
            self.fail(request, Fault::Slow, now);
        }
    }

    /// The request that everything waits for, where it takes too long and somebody else could be asked.
    fn holds_up(&self, now: u64) -> Option<u64> {
        if self.committing {
            return None;
        }
        let mut next = self.taken.saturating_add(1);
        while self.stock.get(next).is_some() {
            next = next.saturating_add(1);
        }
        let of_bodies = |(request, pending): (&u64, &Pending)| match pending.what {
            Request::Bodies { last, .. } => (pending.next..=last).contains(&next).then_some(*request),
            _ => None,
        };
        let of_headers = || self.runs.awaited().filter(|_| self.runs.verified(next).is_none());
        let request = self.pending.iter().find_map(of_bodies).or_else(of_headers)?;
        let pending = self.pending.get(&request)?;
        let elapsed = now.saturating_sub(pending.asked_at);
        let hold_up_ms = self.config.hold_up_ms;
        let quiet = now.saturating_sub(pending.heard_at) > hold_up_ms.saturating_add(pending.patience_ms);
        let rate = pending.bytes.saturating_mul(1_000) / elapsed.max(1);
        let drips = elapsed > hold_up_ms.saturating_mul(2) && rate < self.config.bytes_per_s_min;
        ((quiet || drips) && self.peers.choose(next, Some(pending.peer), now).is_some()).then_some(request)
    }

    /// Gives the sink what is complete and in order.
    fn commit(&mut self) -> Result<(), SyncError> {
        if self.committing {
            return Ok(());
        }
        let (mut blocks, mut bytes) = (Vec::new(), 0usize);
        while blocks.len() < COMMIT_BLOCKS_MAX {
            let height = self.taken.saturating_add(1);
            let Some(held) = self.stock.get(height) else { break };
            if !blocks.is_empty() && bytes.saturating_add(held.bytes) > COMMIT_BYTES_MAX {
                break;
            }
            let Some(certificate) = self.certificate(height)? else { break };
            let (Some(held), Some(proved)) = (self.stock.take(height), self.runs.take()) else { break };
            bytes = bytes.saturating_add(held.bytes);
            let block =
                Block { header: proved.header, transactions: held.body.transactions, section: held.body.section };
            blocks.push(FinalBlock { block, hash: proved.hash, certificate });
            self.taken = height;
        }
        if !blocks.is_empty() {
            self.committing = true;
            self.actions.push(Action::Commit(blocks));
        }
        Ok(())
    }

    /// The certificate of a block: that of its run's end, or the one in the section of the block after it.
    fn certificate(&self, height: u64) -> Result<Option<CommitCertificate>, SyncError> {
        if let Some(certificate) = self.runs.certificate(height) {
            return Ok(Some(certificate.clone()));
        }
        let after = height.saturating_add(1);
        let (Some(held), Some(proved)) = (self.stock.get(after), self.runs.verified(after)) else { return Ok(None) };
        let certificate = held.body.section.parent_commit.as_ref();
        let own = certificate.filter(|found| found.height == height && found.block_hash == proved.header.parent_hash);
        let missing = SyncError::NoParentCertificate { height: after, hash: proved.hash };
        own.cloned().map(Some).ok_or(missing)
    }

    fn ask(&mut self, now: u64, peer: NodeId, what: Request, likely: (u64, u64)) -> u64 {
        let request = self.next_request;
        self.next_request = self.next_request.saturating_add(1);
        let next = match what {
            Request::Headers { first, .. } | Request::Bodies { first, .. } => first,
            Request::Status { .. } => 0,
        };
        let (likely_bytes, largest) = likely;
        let patience_ms = largest / PATIENCE_BYTES_PER_MS;
        let pending = Pending { peer, what, next, asked_at: now, heard_at: now, bytes: 0, patience_ms, likely_bytes };
        self.pending.insert(request, pending);
        self.peers.busier(peer);
        self.actions.push(Action::Ask { request, peer, what });
        request
    }

    fn ask_for_headers(&mut self, now: u64) {
        for (first, last) in self.runs.wanted() {
            let Some((peer, chosen)) = self.peers.choose(first, None, now) else { return };
            let last = chosen.reach(first).map_or(last, |reach| last.min(reach));
            let likely = last.saturating_sub(first).saturating_add(1).saturating_mul(HEADER_BYTES);
            let request = self.ask(now, peer, Request::Headers { first, last }, (likely, likely));
            self.runs.asked(first, request);
        }
    }

    fn ask_for_bodies(&mut self, now: u64) {
        while let Some(first) = self.stock.first_missing() {
            let in_flight: u64 = self.pending.values().map(|pending| pending.likely_bytes).sum();
            let ahead = u64::try_from(self.stock.bytes).unwrap_or(u64::MAX).saturating_add(in_flight);
            let full = ahead >= u64::try_from(BODIES_AHEAD_BYTES_MAX).unwrap_or(u64::MAX);
            // What comes next is always asked for: the rest waits for it.
            if full && first != self.taken.saturating_add(1) {
                return;
            }
            let Some((peer, chosen)) = self.peers.choose(first, None, now) else { return };
            let reach = chosen.reach(first).unwrap_or(first);
            let Some((first, last)) = self.stock.lowest(chosen.per_request, reach) else { return };
            let sizes = (first..=last).filter_map(|height| self.runs.verified(height));
            let sizes: Vec<u64> = sizes.map(|proved| likely_bytes(&proved.header)).collect();
            let likely = (sizes.iter().sum(), sizes.iter().copied().max().unwrap_or(0));
            self.stock.asked(first, last);
            self.ask(now, peer, Request::Bodies { first, last }, likely);
        }
    }
}
