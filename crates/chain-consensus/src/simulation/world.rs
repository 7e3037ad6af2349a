//! The simulated world: nodes, a queue of events in virtual time, and what must hold.

mod checkpoints;
mod effects;
mod evil;
mod figures;
mod log;
mod turns;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arc_malachitebft_core_consensus::{
    Input, LocallyProposedValue, Params, ProposedValue, SignedConsensusMsg, State, ThresholdParams, ValuePayload,
    process,
};
use arc_malachitebft_core_types::{
    CommitCertificate, ExtendedCommitCertificate, LinearTimeouts, NilOrVal, Round, Timeout, Validity, ValueOrigin,
    ValueResponse, VoteExtensionPolicy, VoteExtensions,
};
use arc_malachitebft_metrics::Metrics;
use arc_malachitebft_peer::PeerId;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trellis_chain_finality::{Validator, ValidatorSet, VoteScheme};
use trellis_crypto::VoteKey;
use trellis_primitives::{Address, B256, NodeId, keccak256};

use self::checkpoints::Checkpointing;
pub(super) use self::evil::Evil;
use self::figures::Figures;
use self::log::decode_entry;
use crate::checkpoint::wire::CheckpointVote;
use crate::config::EngineConfig;
use crate::context::{BlockHeight, BlockId, Committee, Trellis, VoterAddress};
use crate::network::engine_peer;
use crate::signing::{EngineSigner, EngineVerifier};

const GENESIS: B256 = B256::repeat_byte(0x47);
/// Virtual time after which a world that has not reached its goal counts as stuck.
const STUCK_AFTER_MS: u64 = 600_000;
/// How often a node looks whether it fell behind.
const SYNC_EVERY_MS: u64 = 500;
const DOWN_MS: Range<u64> = 50..2_500;
const CUT_MS: Range<u64> = 200..5_000;
/// Messages that a node keeps for one of the next heights.
const QUEUED_MAX: usize = 4_096;

type Engine = State<Trellis>;

/// How votes are signed, what goes wrong, and how often.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) votes: VoteScheme,
    pub(super) latency_ms: Range<u64>,
    pub(super) lost_percent: u32,
    /// Chance that some node crashes during a height.
    pub(super) crashes_per_height_percent: u32,
    /// Chance that the network falls into two parts for a while during a height.
    pub(super) partitions_per_height_percent: u32,
    /// Who does not keep to the protocol.
    pub(super) evil: BTreeMap<usize, Evil>,
    /// Heights of an epoch, after which the next of the committees sits.
    pub(super) epoch_heights: u64,
    /// Virtual time after which a world that has not reached its goal counts as stuck.
    pub(super) stuck_after_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            votes: VoteScheme::Ed25519,
            latency_ms: 10..50,
            lost_percent: 0,
            crashes_per_height_percent: 0,
            partitions_per_height_percent: 0,
            evil: BTreeMap::new(),
            epoch_heights: u64::MAX,
            stuck_after_ms: STUCK_AFTER_MS,
        }
    }
}

/// How a world ended that did not reach its goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nothing was decided for too long: lost liveness.
    Stuck(String),
    /// What must never happen: lost safety.
    Unsafe(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Stuck(text) | Self::Unsafe(text)) = self;
        f.write_str(text)
    }
}

#[derive(Clone, Debug)]
enum Event {
    Deliver { to: usize, life: u32, input: Rc<Input<Trellis>> },
    Timer { node: usize, life: u32, timeout: Timeout, number: u64 },
    StartHeight { node: usize, life: u32, height: u64 },
    CheckSync { node: usize },
    Checkpoint { from: usize, to: usize, vote: Box<CheckpointVote> },
    Crash { node: usize },
    Restart { node: usize },
}

struct Node {
    address: VoterAddress,
    key: VoteKey,
    signer: EngineSigner,
    /// None while it is down.
    engine: Option<Engine>,
    /// Counts restarts: timers and own inputs of an earlier life mean nothing.
    life: u32,
    height: u64,
    timers: BTreeMap<String, u64>,
    /// Log entries, encoded; the second number says how many of them are synced.
    log: Vec<(u8, Bytes)>,
    synced: usize,
    replaying: bool,
    decided: BTreeMap<u64, CommitCertificate<Trellis>>,
    /// The engine's own, which follow its steps.
    metrics: Metrics,
}

/// A committee and its network.
pub(super) struct World {
    rng: ChaCha8Rng,
    faults: Faults,
    /// Of each epoch; after the last the first again.
    committees: Vec<ValidatorSet>,
    /// Those of the heights that somebody reached.
    sitting: BTreeMap<u64, Committee>,
    /// The round of the parent's certificate in each block.
    carried: BTreeMap<B256, u32>,
    verifier: EngineVerifier,
    timeouts: LinearTimeouts,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    now: u64,
    next: u64,
    /// What every node released for every place: no second value may appear.
    released: BTreeMap<(usize, u64, u32, u8), B256>,
    decided: BTreeMap<u64, (B256, u32)>,
    crashed_at: BTreeSet<u64>,
    cut_at: BTreeSet<u64>,
    /// The nodes of one side, and when the sides find each other again.
    cut: Option<(BTreeSet<usize>, u64)>,
    /// Evil nodes that some honest one can convict.
    convicted: BTreeSet<usize>,
    figures: Figures,
    checkpoints: Option<Checkpointing>,
    broken: Option<Broken>,
}

fn key(scheme: VoteScheme, n: usize) -> VoteKey {
    VoteKey::of_seed(scheme, &keccak256((n + 1).to_be_bytes()).0).unwrap()
}

fn node_id(n: usize) -> NodeId {
    NodeId(keccak256(n.to_be_bytes()).0)
}

fn now_or_never<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("signing with a local key does not wait"),
    }
}

impl World {
    /// With the powers of the nodes in the committee of each epoch; who has none does not sit.
    pub(super) fn new(seed: u64, powers: &[&[u64]], faults: Faults) -> Self {
        let count = powers[0].len();
        let keys: Vec<VoteKey> = (0..count).map(|n| key(faults.votes, n)).collect();
        let committee = |powers: &&[u64]| {
            let sitting = powers.iter().enumerate().filter(|(_, power)| **power > 0);
            let members = sitting.map(|(n, power)| {
                Validator::new(keys[n].public(), *power, Address::left_padding_from(&n.to_be_bytes()))
            });
            ValidatorSet::new(members.collect()).unwrap()
        };
        let committees: Vec<ValidatorSet> = powers.iter().map(committee).collect();
        let nodes = keys
            .into_iter()
            .map(|key| Node {
                address: VoterAddress(key.address()),
                signer: EngineSigner::new(Arc::new(key.clone()), GENESIS),
                key,
                engine: None,
                life: 0,
                height: 1,
                timers: BTreeMap::new(),
                log: Vec::new(),
                synced: 0,
                replaying: false,
                decided: BTreeMap::new(),
                metrics: Metrics::new(),
            })
            .collect();
        let mut world = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            faults,
            committees,
            sitting: BTreeMap::new(),
            carried: BTreeMap::new(),
            verifier: EngineVerifier::new(GENESIS),
            timeouts: EngineConfig::default().timeouts(),
            nodes,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            now: 0,
            next: 0,
            released: BTreeMap::new(),
            decided: BTreeMap::new(),
            crashed_at: BTreeSet::new(),
            cut_at: BTreeSet::new(),
            cut: None,
            convicted: BTreeSet::new(),
            figures: Figures::default(),
            checkpoints: None,
            broken: None,
        };
        for node in 0..count {
            world.at(0, Event::Restart { node });
            world.at(SYNC_EVERY_MS, Event::CheckSync { node });
        }
        world
    }

    /// Runs until every honest node has decided `heights`.
    pub(super) fn run(&mut self, heights: u64) -> Result<(), Broken> {
        while self.honest().any(|node| self.nodes[node].height <= heights) {
            let Some(Reverse((time, id))) = self.queue.pop() else {
                return Err(Broken::Stuck("nothing happens any more".to_owned()));
            };
            self.now = time;
            if self.now > self.faults.stuck_after_ms {
                return Err(Broken::Stuck(format!("no progress for too long, heights {:?}", self.heights())));
            }
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
            }
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        for node in self.honest() {
            let own = &self.nodes[node].decided;
            let lost = (1..=heights).find(|height| own.get(height).map(|own| own.value_id) != self.block(*height));
            if let Some(height) = lost {
                return Err(Broken::Unsafe(format!("node {node} does not have the block decided at {height}")));
            }
        }
        Ok(())
    }

    fn block(&self, height: u64) -> Option<B256> {
        self.decided.get(&height).map(|(hash, _)| *hash)
    }

    fn honest(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|node| !self.faults.evil.contains_key(node))
    }

    /// What must never happen has.
    fn fail(&mut self, text: String) {
        self.broken.get_or_insert(Broken::Unsafe(text));
    }

    /// Evil nodes that were convicted.
    pub(super) fn convicted(&self) -> &BTreeSet<usize> {
        &self.convicted
    }

    /// Crashes and cuts that happened.
    pub(super) fn mishaps(&self) -> (usize, usize) {
        (self.crashed_at.len(), self.cut_at.len())
    }

    /// How long finality took, and what it cost.
    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now
    }

    pub(super) fn rounds_failed(&self) -> u32 {
        self.decided.values().map(|(_, round)| round).sum()
    }

    /// What was decided, and when it ended: the history in short.
    pub(super) fn account(&self) -> String {
        let blocks: Vec<String> =
            self.decided.iter().map(|(height, (hash, round))| format!("{height}/{round}: {hash}")).collect();
        format!("{} ms, {} crashes\n{}", self.now, self.crashed_at.len(), blocks.join("\n"))
    }

    fn heights(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.height).collect()
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((self.now + delay, self.next)));
        self.events.insert(self.next, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, life, input } => {
                // A life of zero is the network's: it delivers to whoever is up.
                if life == 0 || life == self.nodes[to].life {
                    self.input(to, (*input).clone());
                }
            }
            Event::Timer { node, life, timeout, number } => {
                let current = self.nodes[node].timers.get(&timeout.to_string()) == Some(&number);
                if current && life == self.nodes[node].life {
                    self.nodes[node].timers.remove(&timeout.to_string());
                    self.input(node, Input::TimeoutElapsed(timeout));
                }
            }
            Event::StartHeight { node, life, height } => {
                if life == self.nodes[node].life {
                    self.start_height(node, height);
                }
            }
            Event::CheckSync { node } => self.check_sync(node),
            Event::Checkpoint { from, to, vote } => self.hear_checkpoint(from, to, *vote),
            Event::Crash { node } => self.crash(node),
            Event::Restart { node } => self.restart(node),
        }
    }

    fn crash(&mut self, node: usize) {
        let down = self.rng.random_range(DOWN_MS);
        let this = &mut self.nodes[node];
        if this.engine.take().is_none() {
            return;
        }
        this.log.truncate(this.synced);
        this.timers.clear();
        self.at(down, Event::Restart { node });
    }

    fn restart(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.life += 1;
        this.metrics = Metrics::new();
        // A new process: what the guard remembered is gone, the log is what remains.
        this.signer = EngineSigner::new(Arc::new(this.key.clone()), GENESIS);
        let params = Params {
            address: this.address,
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        let height = BlockHeight(this.height);
        self.forget_checkpoints(node);
        let committee = self.committee(height.0);
        self.nodes[node].engine = Some(State::new(Trellis, height, committee, params, 16, QUEUED_MAX));
        self.start_height(node, height.0);
    }

    fn start_height(&mut self, node: usize, height: u64) {
        if self.nodes[node].height != height || self.nodes[node].engine.is_none() {
            return;
        }
        self.figures.began(height, self.now);
        let log: Vec<Input<Trellis>> = self.nodes[node].log.iter().map(decode_entry).collect();
        let policy = VoteExtensionPolicy::Disabled;
        let committee = self.committee(height);
        self.input(node, Input::StartHeight(BlockHeight(height), committee, false, None, policy));
        if log.is_empty() {
            return;
        }
        self.nodes[node].replaying = true;
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.index_wal_entries(log.iter());
        }
        for entry in log {
            self.input(node, entry);
        }
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.reset_entries_index();
        }
        self.nodes[node].replaying = false;
    }

    /// A node that sees others ahead asks one of them for the block it lacks.
    fn check_sync(&mut self, node: usize) {
        self.at(SYNC_EVERY_MS, Event::CheckSync { node });
        let height = self.nodes[node].height;
        let has = |other: &usize| {
            let (of, engine) = (&self.nodes[*other].decided, &self.nodes[*other].engine);
            let silent = self.faults.evil.get(other) == Some(&Evil::Silent);
            engine.is_some() && of.contains_key(&height) && !silent && self.hear_each_other(node, *other)
        };
        let helpers: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).filter(has).collect();
        if helpers.is_empty() {
            return;
        }
        let helper = helpers[self.rng.random_range(0..helpers.len())];
        let mut certificate = self.nodes[helper].decided[&height].clone();
        self.falsify(helper, &mut certificate);
        let peer = engine_peer(&node_id(helper)).unwrap();
        let certificate =
            ExtendedCommitCertificate::from_commit_certificate_and_extensions(certificate, VoteExtensions::default());
        let bytes = Bytes::copy_from_slice(certificate.value_id.as_slice());
        let response = Input::SyncValueResponse(ValueResponse::new(peer, bytes, certificate));
        self.send(helper, node, &Rc::new(response));
    }

    fn is_honest_peer(&self, peer: &PeerId) -> bool {
        self.honest().any(|node| engine_peer(&node_id(node)).as_ref() == Some(peer))
    }

    fn hear_each_other(&self, a: usize, b: usize) -> bool {
        let cut = self.cut.as_ref().filter(|(_, until)| self.now < *until);
        cut.is_none_or(|(side, _)| side.contains(&a) == side.contains(&b))
    }

    /// Over the network: late, or not at all.
    fn send(&mut self, from: usize, to: usize, input: &Rc<Input<Trellis>>) {
        let delay = self.rng.random_range(self.faults.latency_ms.clone());
        let lost = self.rng.random_range(0..100) < self.faults.lost_percent;
        if !lost && self.hear_each_other(from, to) {
            self.at(delay, Event::Deliver { to, life: 0, input: Rc::clone(input) });
        }
    }

    fn broadcast(&mut self, from: usize, input: Input<Trellis>) {
        self.figures.sent(&input, self.nodes.len() - 1);
        let input = Rc::new(input);
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.send(from, to, &input);
        }
    }

    /// Says again what was said. The evil have said what they had to say.
    fn repeat(&mut self, from: usize, input: Input<Trellis>) {
        if !self.faults.evil.contains_key(&from) {
            self.broadcast(from, input);
        }
    }

    fn input(&mut self, node: usize, input: Input<Trellis>) {
        let Some(mut engine) = self.nodes[node].engine.take() else { return };
        let metrics = self.nodes[node].metrics.clone();
        let outcome: Result<(), arc_malachitebft_core_consensus::Error<Trellis>> = process!(
            input: input,
            state: &mut engine,
            metrics: &metrics,
            with: effect => self.effect(node, effect)
        );
        self.nodes[node].engine = Some(engine);
        if let Err(error) = outcome {
            self.fail(format!("node {node}: {error}"));
        }
    }

    fn schedule(&mut self, node: usize, timeout: Timeout) {
        let delay = u64::try_from(self.timeouts.duration_for(timeout).as_millis()).unwrap();
        let number = self.next;
        let life = self.nodes[node].life;
        self.nodes[node].timers.insert(timeout.to_string(), number);
        self.at(delay, Event::Timer { node, life, timeout, number });
    }

    fn sync_log(&mut self, node: usize) {
        self.nodes[node].synced = self.nodes[node].log.len();
    }

    /// The node builds a block: another one in every life, so that a second proposal for a place would show.
    fn build(&mut self, node: usize, height: BlockHeight, round: Round) {
        let life = self.nodes[node].life;
        let seed = format!("{node} {life} {height} {round} {}", self.now);
        let hash = keccak256(seed.as_bytes());
        self.carry_checkpoint(node, height.0, hash);
        let value = LocallyProposedValue::new(height, round, BlockId(hash));
        self.at(1, Event::Deliver { to: node, life, input: Rc::new(Input::Propose(value)) });
        self.stream(node, height, (round, Round::Nil), hash);
        self.propose_twice(node, height, round);
    }

    fn stream(&mut self, node: usize, height: BlockHeight, (round, valid_round): (Round, Round), hash: B256) {
        let proposer = self.nodes[node].address;
        self.carry(node, height, hash);
        if self.faults.evil.get(&node) == Some(&Evil::Silent) {
            return;
        }
        let (value, validity) = (BlockId(hash), Validity::Valid);
        let value = ProposedValue { height, round, valid_round, proposer, value, validity };
        self.broadcast(node, Input::ProposedValue(value, ValueOrigin::Consensus));
    }

    fn publish(&mut self, node: usize, message: SignedConsensusMsg<Trellis>) {
        if self.faults.evil.contains_key(&node) {
            return self.publish_evil(node, message);
        }
        let (place, value) = match &message {
            SignedConsensusMsg::Vote(vote) => {
                let value = match vote.value {
                    NilOrVal::Nil => B256::ZERO,
                    NilOrVal::Val(id) => id,
                };
                ((node, vote.height.0, vote.round.as_u32().unwrap(), vote.kind as u8 + 1), value)
            }
            SignedConsensusMsg::Proposal(proposal) => {
                ((node, proposal.height.0, proposal.round.as_u32().unwrap(), 0), proposal.value.0)
            }
        };
        let before = *self.released.entry(place).or_insert(value);
        if before != value {
            self.fail(format!("node {node} signed {before} and {value} for {place:?}"));
        }
        self.broadcast(node, input_of(message));
    }

    fn decide(&mut self, node: usize, certificate: CommitCertificate<Trellis>) {
        let height = certificate.height.0;
        let round = certificate.round.as_u32().unwrap();
        let (hash, _) = *self.decided.entry(height).or_insert((certificate.value_id, round));
        if hash != certificate.value_id {
            self.fail(format!("fork at {height}: {hash} and {} (node {node})", certificate.value_id));
        }
        self.figures.decided(height, self.now);
        self.nodes[node].decided.insert(height, certificate);
    }

    /// Durable: the height is committed, its log is done with.
    fn finalize(&mut self, node: usize, height: u64) {
        let this = &mut self.nodes[node];
        this.height = height + 1;
        this.log.clear();
        this.synced = 0;
        let life = this.life;
        self.checkpoint_final(node, height);
        self.at(1, Event::StartHeight { node, life, height: height + 1 });
        let crash = self.rng.random_range(0..100) < self.faults.crashes_per_height_percent;
        if crash && self.crashed_at.insert(height) {
            let victim = self.rng.random_range(0..self.nodes.len());
            let delay = self.rng.random_range(1..400);
            self.at(delay, Event::Crash { node: victim });
        }
        let cut = self.rng.random_range(0..100) < self.faults.partitions_per_height_percent;
        if cut && self.cut_at.insert(height) {
            let side = (0..self.nodes.len()).filter(|_| self.rng.random_bool(0.5)).collect();
            self.cut = Some((side, self.now + self.rng.random_range(CUT_MS)));
        }
    }
}

/// A message as its receiver takes it.
fn input_of(message: SignedConsensusMsg<Trellis>) -> Input<Trellis> {
    match message {
        SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
        SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
    }
}
