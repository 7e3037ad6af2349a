//! A sync among peers of every kind, in virtual time: what one seed does it does again.

use super::chain::{CHAIN, EPOCH_BLOCKS, TestChain, certify};
use crate::config::SyncConfig;
use crate::error::Fault;
use crate::sink::Head;
use crate::state::{Action, Event, SyncState};
use crate::wire::{Bodies, PeerStatus, Request, Run};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use trellis_crypto::VoteKey;
use trellis_primitives::{B256, NodeId};

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Honest,
    /// Headers of a chain that nobody signed, under the real certificates.
    OtherHeaders,
    /// The same with certificates by strangers.
    Forges,
    /// Bodies of other blocks.
    OtherBodies,
    /// Bytes that are no bodies.
    Garbage,
    /// Claims to have everything and sends nothing.
    Withholds,
    /// Ends each answer before it begins.
    Empties,
    /// A body from time to time.
    Drips,
    /// One header of those that it is asked for.
    Trickles,
    /// Says that it has a thousand blocks more, and has them not.
    Boasts,
}

pub(super) const LIARS: [Kind; 9] = [
    Kind::OtherHeaders,
    Kind::Forges,
    Kind::OtherBodies,
    Kind::Garbage,
    Kind::Withholds,
    Kind::Empties,
    Kind::Drips,
    Kind::Trickles,
    Kind::Boasts,
];

/// A chain that is not final, of the same length.
static OTHER: LazyLock<TestChain> = LazyLock::new(|| TestChain::new(CHAIN.height(), B256::repeat_byte(9)));

pub(super) fn id(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 32])
}

pub(super) struct World {
    pub(super) chain: Arc<TestChain>,
    pub(super) state: SyncState,
    pub(super) peers: Vec<Kind>,
    pub(super) now: u64,
    rng: ChaCha8Rng,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
    cancelled: BTreeSet<u64>,
    pub(super) head: Head,
    pub(super) dropped: Vec<(NodeId, Fault)>,
    /// Most bytes of bodies that waited at once.
    pub(super) waiting_max: usize,
    /// Heights that are handed to the sink.
    given: u64,
}

impl World {
    pub(super) fn new(seed: u64, head: u64, peers: &[Kind]) -> Self {
        let chain = Arc::clone(&CHAIN);
        let committees = chain.committees(head);
        let state = SyncState::new(SyncConfig::default(), chain.head(head), committees, Some(EPOCH_BLOCKS));
        let mut world = Self {
            head: chain.head(head),
            given: head,
            chain,
            state,
            peers: peers.to_vec(),
            now: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            count: 0,
            cancelled: BTreeSet::new(),
            dropped: Vec::new(),
            waiting_max: 0,
        };
        for (number, kind) in peers.iter().enumerate() {
            let at = world.rng.random_range(0..500);
            world.later(at, Event::Joined(id(number)));
            let status = world.status(*kind, world.chain.height());
            world.later(at + 20, Event::Status { peer: id(number), status });
        }
        world
    }

    fn status(&self, kind: Kind, height: u64) -> PeerStatus {
        match kind {
            Kind::Boasts => PeerStatus { height: height + 1_000, ..self.chain.status(height) },
            _ => self.chain.status(height),
        }
    }

    pub(super) fn later(&mut self, ms: u64, event: Event) {
        self.count += 1;
        self.queue.insert((self.now + ms, self.count), event);
    }

    /// Runs until the sync has this height, or so much time is over.
    pub(super) fn run(&mut self, goal: u64, ms_max: u64) {
        let until = self.now + ms_max;
        while self.head.height < goal && self.now < until {
            let next = self.queue.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
            let tick = self.now + 200;
            self.now = next.min(tick);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let event = entry.remove();
                if !self.is_cancelled(&event) {
                    self.state.on(self.now, event);
                }
            }
            let actions = self.state.step(self.now).unwrap();
            self.waiting_max = self.waiting_max.max(self.state.progress(self.now).waiting_bytes);
            for action in actions {
                self.act(action);
            }
            self.head = self.state.head;
        }
    }

    fn is_cancelled(&self, event: &Event) -> bool {
        match event {
            Event::Run { request, .. }
            | Event::Bodies { request, .. }
            | Event::Ended { request }
            | Event::Failed { request, .. } => self.cancelled.contains(request),
            _ => false,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Cancel { request } => {
                self.cancelled.insert(request);
            }
            Action::Dropped { peer, fault } => self.dropped.push((peer, fault)),
            Action::Commit(blocks) => {
                for given in &blocks {
                    self.given += 1;
                    let (block, hash, _) = self.chain.at(self.given);
                    assert_eq!((&given.block, given.hash), (block, *hash), "only what is final, in order");
                    assert_eq!((given.certificate.height, given.certificate.block_hash), (self.given, *hash));
                }
                let took = self.rng.random_range(1..5) * blocks.len() as u64;
                self.later(took, Event::Committed(self.chain.head(self.given)));
            }
            Action::Ask { request, peer, what } => {
                let number = usize::from(peer.0[0]) - 1;
                self.answer(request, number, what);
            }
        }
    }

    /// Each peer answers as it is.
    fn answer(&mut self, request: u64, number: usize, what: Request) {
        let kind = self.peers[number];
        let latency = self.rng.random_range(5..60) * (1 + number as u64 % 3);
        match (kind, what) {
            (_, Request::Status { .. }) | (Kind::Withholds, _) => {}
            (Kind::Empties, _) => self.later(latency, Event::Failed { request, fault: Fault::Withheld }),
            (_, Request::Headers { first, last }) => {
                let event = match self.headers(kind, first, last) {
                    Some(run) => Event::Run { request, run },
                    None => Event::Failed { request, fault: Fault::Withheld },
                };
                self.later(latency, event);
            }
            (Kind::Drips, Request::Bodies { first, last }) => {
                for (step, height) in (first..=last).enumerate() {
                    let bodies = self.chain.bodies(height, height);
                    self.later(1_500 * (step as u64 + 1), Event::Bodies { request, bodies, bytes: 500 });
                }
            }
            (_, Request::Bodies { first, last }) => self.bodies(kind, request, (first, last), latency),
        }
    }

    fn headers(&self, kind: Kind, first: u64, last: u64) -> Option<Run> {
        if first > self.chain.height() {
            return None;
        }
        match kind {
            Kind::OtherHeaders => {
                Some(Run { certificate: self.chain.run(first, last).certificate, ..OTHER.run(first, last) })
            }
            Kind::Forges => {
                let mut run = OTHER.run(first, last);
                // The first of a run links to the real chain where nothing has been changed before it.
                if first == 1 {
                    let strangers: Vec<VoteKey> = (200..204).map(|n| VoteKey::from_seed(&[n; 32])).collect();
                    let last = first + run.headers.len() as u64 - 1;
                    run.certificate = Some(certify(&OTHER.genesis_hash, &strangers, last, OTHER.at(last).1));
                    return Some(run);
                }
                let mut run = self.chain.run(first, last);
                let certificate = run.certificate.as_mut()?;
                certificate.signatures[0].signature = vec![0; 64].into();
                Some(run)
            }
            Kind::Trickles => Some(self.chain.run(first, first)),
            _ => Some(self.chain.run(first, last)),
        }
    }

    fn bodies(&mut self, kind: Kind, request: u64, (first, last): (u64, u64), latency: u64) {
        // Some answers are shorter than what was asked for, as they may be.
        let last = if self.rng.random_bool(0.2) { self.rng.random_range(first..=last) } else { last };
        let mut at = latency;
        let mut height = first;
        while height <= last {
            let end = (height + self.rng.random_range(0..8)).min(last);
            let mut bodies = self.chain.bodies(height, end);
            match kind {
                Kind::OtherBodies => bodies.bodies = self.chain.bodies(height.max(4) - 3, end.max(4) - 3).bodies,
                Kind::Garbage => bodies.bodies = vec![vec![0xc1, 0x80].into()],
                _ => {}
            }
            let bytes = Bodies::to_bytes(&bodies).len() as u64;
            at += bytes / 200 + 1;
            self.later(at, Event::Bodies { request, bodies, bytes });
            height = end + 1;
        }
        self.later(at + 1, Event::Ended { request });
    }
}
