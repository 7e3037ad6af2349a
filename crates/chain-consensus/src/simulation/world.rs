//! The simulated world: nodes, a queue of events in virtual time, and what must hold.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;

use arc_malachitebft_codec::Codec;
use arc_malachitebft_core_consensus::{
    ConsensusMsg, Effect, Input, LivenessMsg, LocallyProposedValue, Params, ProposedValue, Resumable, Resume,
    SignedConsensusMsg, State, ThresholdParams, ValuePayload, process,
};
use arc_malachitebft_core_types::{
    CommitCertificate, ExtendedCommitCertificate, LinearTimeouts, NilOrVal, Round, Timeout, Validity, ValueOrigin,
    ValueResponse, VoteExtensionPolicy, VoteExtensions,
};
use arc_malachitebft_metrics::Metrics;
use arc_malachitebft_signing::{Signer, Verifier, VerifierExt};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trellis_chain_finality::{Validator, ValidatorSet, VotePublicKey};
use trellis_crypto::VoteKey;
use trellis_primitives::{Address, B256, NodeId, keccak256};

use crate::codec::EngineCodec;
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

type Engine = State<Trellis>;

/// What goes wrong, and how often.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) latency_ms: Range<u64>,
    pub(super) lost_percent: u32,
    /// Chance that some node crashes during a height.
    pub(super) crashes_per_height_percent: u32,
}

impl Default for Faults {
    fn default() -> Self {
        Self { latency_ms: 10..50, lost_percent: 0, crashes_per_height_percent: 0 }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Deliver { to: usize, life: u32, input: Box<Input<Trellis>> },
    Timer { node: usize, life: u32, timeout: Timeout, number: u64 },
    StartHeight { node: usize, life: u32, height: u64 },
    CheckSync { node: usize },
    Crash { node: usize },
    Restart { node: usize },
}

struct Node {
    address: VoterAddress,
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
    committee: Committee,
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
    broken: Option<String>,
}

fn key(n: usize) -> VoteKey {
    VoteKey::from_seed(&[u8::try_from(n + 1).unwrap(); 32])
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
    pub(super) fn new(seed: u64, powers: &[u64], faults: Faults) -> Self {
        let members = powers.iter().enumerate().map(|(n, power)| {
            Validator::new(
                VotePublicKey::Ed25519(key(n).public()),
                *power,
                Address::left_padding_from(&n.to_be_bytes()),
            )
        });
        let committee = Committee::new(ValidatorSet::new(members.collect()).unwrap()).unwrap();
        let nodes = (0..powers.len())
            .map(|n| Node {
                address: VoterAddress(key(n).address()),
                signer: EngineSigner::new(Arc::new(key(n)), GENESIS),
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
            committee,
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
            broken: None,
        };
        for node in 0..powers.len() {
            world.at(0, Event::Restart { node });
            world.at(SYNC_EVERY_MS, Event::CheckSync { node });
        }
        world
    }

    /// Runs until every node has decided `heights`.
    pub(super) fn run(&mut self, heights: u64) -> Result<(), String> {
        while self.nodes.iter().any(|node| node.height <= heights) {
            let Some(Reverse((time, id))) = self.queue.pop() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = time;
            if self.now > STUCK_AFTER_MS {
                return Err(format!("no progress for too long, heights {:?}", self.heights()));
            }
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
            }
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        Ok(())
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
                    self.input(to, *input);
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
        this.signer = EngineSigner::new(Arc::new(key(node)), GENESIS);
        let params = Params {
            address: this.address,
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        let height = BlockHeight(this.height);
        this.engine = Some(State::new(Trellis, height, self.committee.clone(), params, 16, 1_024));
        self.start_height(node, height.0);
    }

    fn start_height(&mut self, node: usize, height: u64) {
        if self.nodes[node].height != height || self.nodes[node].engine.is_none() {
            return;
        }
        let log: Vec<Input<Trellis>> = self.nodes[node].log.iter().map(decode_entry).collect();
        let policy = VoteExtensionPolicy::Disabled;
        self.input(node, Input::StartHeight(BlockHeight(height), self.committee.clone(), false, None, policy));
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
        let helper = self.nodes.iter().position(|other| other.engine.is_some() && other.decided.contains_key(&height));
        let Some(helper) = helper else { return };
        let certificate = self.nodes[helper].decided[&height].clone();
        let peer = engine_peer(&NodeId([u8::try_from(helper).unwrap(); 32])).unwrap();
        let certificate =
            ExtendedCommitCertificate::from_commit_certificate_and_extensions(certificate, VoteExtensions::default());
        let bytes = Bytes::copy_from_slice(certificate.value_id.as_slice());
        self.send(node, Input::SyncValueResponse(ValueResponse::new(peer, bytes, certificate)));
    }

    /// Over the network: late, or not at all.
    fn send(&mut self, to: usize, input: Input<Trellis>) {
        let delay = self.rng.random_range(self.faults.latency_ms.clone());
        if self.rng.random_range(0..100) >= self.faults.lost_percent {
            self.at(delay, Event::Deliver { to, life: 0, input: Box::new(input) });
        }
    }

    fn broadcast(&mut self, from: usize, input: &Input<Trellis>) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.send(to, input.clone());
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
            self.broken = Some(format!("node {node}: {error}"));
        }
    }

    fn effect(&mut self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        Ok(match effect {
            Effect::CancelAllTimeouts(r) => {
                self.nodes[node].timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.nodes[node].timers.remove(&timeout.to_string());
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(node, timeout);
                r.resume_with(())
            }
            Effect::StartRound(_, _, _, _, r) => {
                self.sync_log(node);
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                self.build(node, height, round);
                r.resume_with(())
            }
            Effect::RestreamProposal(height, round, valid_round, _, value, r) => {
                self.stream(node, height, (round, valid_round), value);
                r.resume_with(())
            }
            Effect::WalAppend(_, entry, r) => {
                if !self.nodes[node].replaying {
                    self.nodes[node].log.push(encode_entry(&entry));
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.sync_log(node);
                self.publish(node, message);
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                let input = match message {
                    LivenessMsg::Vote(vote) => Input::Vote(vote),
                    LivenessMsg::PolkaCertificate(polka) => Input::PolkaCertificate(polka),
                    LivenessMsg::SkipRoundCertificate(certificate) => Input::RoundCertificate(certificate),
                };
                self.broadcast(node, &input);
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.broadcast(node, &Input::Vote(vote));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.broadcast(node, &Input::RoundCertificate(certificate));
                r.resume_with(())
            }
            other => self.decision_or_signature(node, other)?,
        })
    }

    fn decision_or_signature(&mut self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        Ok(match effect {
            Effect::Decide(certificate, _, r) => {
                self.sync_log(node);
                self.decide(node, certificate);
                r.resume_with(())
            }
            Effect::Finalize(certificate, _, _, r) => {
                self.finalize(node, certificate.height.0);
                r.resume_with(())
            }
            Effect::CertVerifiedSyncValue(response, proposer, r) => {
                let value = ProposedValue {
                    height: response.certificate.height,
                    round: response.certificate.round,
                    valid_round: Round::Nil,
                    proposer,
                    value: BlockId(response.certificate.value_id),
                    validity: Validity::Valid,
                };
                let (to, life) = (node, self.nodes[node].life);
                let input = Box::new(Input::ProposedValue(value, ValueOrigin::Sync));
                self.at(1, Event::Deliver { to, life, input });
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(_, _, error, r) => {
                self.broken = Some(format!("node {node} refused an honest certificate: {error}"));
                r.resume_with(())
            }
            other => self.signature(node, other)?,
        })
    }

    fn signature(&self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        let (signer, verifier) = (&self.nodes[node].signer, &self.verifier);
        Ok(match effect {
            Effect::SignVote(vote, r) => {
                r.resume_with(now_or_never(signer.sign_vote(vote)).map_err(|e| e.to_string())?)
            }
            Effect::SignProposal(proposal, r) => {
                r.resume_with(now_or_never(signer.sign_proposal(proposal)).map_err(|e| e.to_string())?)
            }
            Effect::VerifySignature(message, key, r) => {
                let result = match &message.message {
                    ConsensusMsg::Vote(vote) => {
                        now_or_never(verifier.verify_signed_vote(vote, &message.signature, &key))
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        now_or_never(verifier.verify_signed_proposal(proposal, &message.signature, &key))
                    }
                };
                r.resume_with(result.is_ok_and(|result| result.is_valid()))
            }
            Effect::VerifyCommitCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_commit_certificate(&Trellis, &c, &set, t)))
            }
            Effect::VerifyExtendedCommitCertificate(c, set, t, policy, r) => {
                let verdict = verifier.verify_extended_commit_certificate(&Trellis, &c, &set, t, policy);
                r.resume_with(now_or_never(verdict))
            }
            Effect::VerifyPolkaCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_polka_certificate(&Trellis, &c, &set, t)))
            }
            Effect::VerifyRoundCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_round_certificate(&Trellis, &c, &set, t)))
            }
            other => return Err(format!("unexpected effect {other:?}")),
        })
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
        let value = LocallyProposedValue::new(height, round, BlockId(hash));
        self.at(1, Event::Deliver { to: node, life, input: Box::new(Input::Propose(value)) });
        self.stream(node, height, (round, Round::Nil), hash);
    }

    fn stream(&mut self, node: usize, height: BlockHeight, (round, valid_round): (Round, Round), hash: B256) {
        let proposer = self.nodes[node].address;
        let (value, validity) = (BlockId(hash), Validity::Valid);
        let value = ProposedValue { height, round, valid_round, proposer, value, validity };
        self.broadcast(node, &Input::ProposedValue(value, ValueOrigin::Consensus));
    }

    fn publish(&mut self, node: usize, message: SignedConsensusMsg<Trellis>) {
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
            self.broken = Some(format!("node {node} signed {before} and {value} for {place:?}"));
        }
        let input = match message {
            SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
            SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
        };
        self.broadcast(node, &input);
    }

    fn decide(&mut self, node: usize, certificate: CommitCertificate<Trellis>) {
        let height = certificate.height.0;
        let round = certificate.round.as_u32().unwrap();
        let (hash, _) = *self.decided.entry(height).or_insert((certificate.value_id, round));
        if hash != certificate.value_id {
            self.broken = Some(format!("fork at {height}: {hash} and {} (node {node})", certificate.value_id));
        }
        self.nodes[node].decided.insert(height, certificate);
    }

    /// Durable: the height is committed, its log is done with.
    fn finalize(&mut self, node: usize, height: u64) {
        let this = &mut self.nodes[node];
        this.height = height + 1;
        this.log.clear();
        this.synced = 0;
        let life = this.life;
        self.at(1, Event::StartHeight { node, life, height: height + 1 });
        let crash = self.rng.random_range(0..100) < self.faults.crashes_per_height_percent;
        if crash && self.crashed_at.insert(height) {
            let victim = self.rng.random_range(0..self.nodes.len());
            let delay = self.rng.random_range(1..400);
            self.at(delay, Event::Crash { node: victim });
        }
    }
}

/// The log holds what a real one would: encoded entries, decoded again at replay.
fn encode_entry(entry: &Input<Trellis>) -> (u8, Bytes) {
    match entry {
        Input::Vote(vote) => (1, EngineCodec.encode(&SignedConsensusMsg::Vote(vote.clone())).unwrap()),
        Input::Proposal(proposal) => (1, EngineCodec.encode(&SignedConsensusMsg::Proposal(proposal.clone())).unwrap()),
        Input::ProposedValue(value, _) => (2, EngineCodec.encode(value).unwrap()),
        Input::PolkaCertificate(polka) => (3, EngineCodec.encode(polka).unwrap()),
        Input::TimeoutElapsed(timeout) => {
            use arc_malachitebft_core_types::TimeoutKind::{Precommit, Prevote, Propose, Rebroadcast};
            let kind = match timeout.kind {
                Propose => 4,
                Prevote => 5,
                Precommit => 6,
                Rebroadcast => 7,
                other => panic!("{other:?} is not logged"),
            };
            (kind, Bytes::copy_from_slice(&timeout.round.as_u32().unwrap().to_be_bytes()))
        }
        other => panic!("{other:?} is not logged"),
    }
}

fn decode_entry((kind, bytes): &(u8, Bytes)) -> Input<Trellis> {
    let round = || Round::new(u32::from_be_bytes(bytes.as_ref().try_into().unwrap()));
    match kind {
        1 => match Codec::<SignedConsensusMsg<Trellis>>::decode(&EngineCodec, bytes.clone()).unwrap() {
            SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
            SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
        },
        2 => Input::ProposedValue(EngineCodec.decode(bytes.clone()).unwrap(), ValueOrigin::Consensus),
        3 => Input::PolkaCertificate(EngineCodec.decode(bytes.clone()).unwrap()),
        4 => Input::TimeoutElapsed(Timeout::propose(round())),
        5 => Input::TimeoutElapsed(Timeout::prevote(round())),
        6 => Input::TimeoutElapsed(Timeout::precommit(round())),
        _ => Input::TimeoutElapsed(Timeout::rebroadcast(round())),
    }
}
