//! The shell: streams of peers in, the collector, frames and certificates out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use trellis_chain_finality::CheckpointCommittee;
use trellis_crypto::{CheckpointKey, VotePublicKey};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::inlet::{Inlet, InletFault, InletLimits, InletRefusal, serve};
use trellis_net_peers::{AcceptError, NetworkHandle, PeerState, Protocol};
use trellis_primitives::{B256, NodeId, Role};

use super::fetch::{self, CHECKPOINT_PROOF_PROTOCOL};
use super::state::{Action, Collector, Heard, OPEN_BLOCKS};
use super::wire::{CheckpointVote, FRAME_BYTES_MAX};
use super::{CheckpointDuty, CheckpointKeeper};
use crate::application::AppError;
use crate::metrics::RefusedLabel;

/// Signatures over checkpoints.
pub const CHECKPOINT_PROTOCOL: Protocol = Protocol("/trellis/checkpoint/1");
/// Signatures that one peer may send in a second before it is read more slowly: its own, for a few checkpoints.
const FRAMES_PER_SECOND_MAX: u32 = 16;
/// Signatures that wait to be looked at; whoever brings more waits.
const QUEUE_MAX: usize = 256;
/// Pause after something could not be read or kept, milliseconds: a disk that fails goes on failing for a while.
const ERROR_PAUSE_MS: u64 = 1_000;

/// Who signs here.
pub struct CheckpointSigner {
    /// Signs checkpoints, where the committee has it beside the vote key.
    pub key: CheckpointKey,
    /// Whose seat it should be.
    pub vote_key: VotePublicKey,
}

impl std::fmt::Debug for CheckpointSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointSigner").field("vote_key", &self.vote_key).finish_non_exhaustive()
    }
}

/// What the checkpoints count; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct CheckpointMetrics {
    /// Signatures that this validator sent, each time to everybody.
    pub signed: Counter,
    /// Signatures of others that count.
    pub counted: Counter,
    /// Checkpoints with certificates assembled here.
    pub assembled: Counter,
    /// Height of the newest of them.
    pub height: Gauge<u64, AtomicU64>,
    /// Answers of peers about checkpoints that were missed here.
    pub fetched: Counter,
    /// 1 where this validator sits in the committee, which does not know its checkpoint key; 0 otherwise.
    pub mute: Gauge<u64, AtomicU64>,
    /// What peers sent and was not counted, by reason.
    pub refused: Family<RefusedLabel, Counter>,
}

impl CheckpointMetrics {
    /// Registers everything under `trellis_checkpoint_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("trellis_checkpoint");
        r.register("signed", "Signatures over checkpoints that this validator sent", self.signed.clone());
        r.register("counted", "Signatures of others over checkpoints that count", self.counted.clone());
        r.register("assembled", "Certificates of checkpoints assembled here", self.assembled.clone());
        r.register("height", "Height of the newest checkpoint assembled here", self.height.clone());
        r.register("fetched", "Answers of peers about checkpoints that were missed here", self.fetched.clone());
        r.register("mute", "1 where the committee does not know the checkpoint key of this member", self.mute.clone());
        r.register("refused", "Signatures over checkpoints that were not counted", self.refused.clone());
    }

    pub(super) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }
}

/// Runs until dropped.
#[derive(Debug)]
pub struct Checkpoints {
    _tasks: JoinSet<()>,
}

/// Begins to collect, and to sign where the key is one that a committee knows.
///
/// # Errors
/// Where the protocol has an acceptor already.
pub fn start(
    network: NetworkHandle,
    keeper: Arc<dyn CheckpointKeeper>,
    signer: Option<CheckpointSigner>,
    metrics: CheckpointMetrics,
) -> Result<Checkpoints, AcceptError> {
    let mut tasks = JoinSet::new();
    let rules = keeper.rules();
    if rules.interval_blocks == 0 {
        return Ok(Checkpoints { _tasks: tasks });
    }
    let acceptor = network.accept(CHECKPOINT_PROTOCOL)?;
    let proofs = network.accept(CHECKPOINT_PROOF_PROTOCOL)?;
    tasks.spawn(fetch::serve(network.clone(), proofs, Arc::clone(&keeper), metrics.clone()));
    tasks.spawn(fetch::fetch_missing(network.clone(), Arc::clone(&keeper), metrics.clone()));
    let (sender, heard) = mpsc::channel(QUEUE_MAX);
    let ear = Ear { network: network.clone(), sender, metrics: metrics.clone() };
    let limits = InletLimits { frame_bytes_max: FRAME_BYTES_MAX, messages_per_second_max: FRAMES_PER_SECOND_MAX };
    tasks.spawn(serve(network.clone(), acceptor, limits, Arc::new(ear)));
    // What was left open by a stop is taken up again.
    let from = keeper.height().saturating_sub(OPEN_BLOCKS);
    let seat = signer.as_ref().map(|signer| Seat::new(signer.vote_key.clone(), &signer.key));
    let collector = Arc::new(Mutex::new(Collector::new(rules, signer.map(|signer| signer.key), from)));
    tasks.spawn(Shell { network, keeper, collector, seat, owed: BTreeSet::new(), metrics }.run(heard));
    Ok(Checkpoints { _tasks: tasks })
}

/// Validators that are connected.
pub(super) fn validators(network: &NetworkHandle) -> Vec<NodeId> {
    let connected = network.peers().into_iter().filter(|peer| peer.state == PeerState::Connected);
    connected.filter(|peer| peer.roles.contains(Role::Validator)).filter_map(|peer| peer.id).collect()
}

struct Ear {
    network: NetworkHandle,
    sender: mpsc::Sender<(NodeId, CheckpointVote)>,
    metrics: CheckpointMetrics,
}

#[async_trait]
impl Inlet for Ear {
    type Message = CheckpointVote;

    fn hears(&self, peer: &NodeId) -> bool {
        validators(&self.network).contains(peer)
    }

    fn decode(&self, peer: NodeId, frame: Bytes) -> Result<(CheckpointVote, u32), InletFault> {
        let vote = CheckpointVote::from_bytes(frame).map_err(|error| {
            tracing::debug!(%peer, %error, "a checkpoint's signature is not understood");
            InletFault::Invalid(Pattern::Malformed)
        })?;
        Ok((vote, 1))
    }

    async fn take(&self, peer: NodeId, vote: CheckpointVote) -> Result<(), InletFault> {
        self.sender.send((peer, vote)).await.map_err(|_| InletFault::Closing)
    }

    fn refused(&self, _: NodeId, why: InletRefusal) {
        self.metrics.refuse(if why == InletRefusal::Unheard { "not_a_validator" } else { why.word() });
    }
}

/// The seat of whoever signs here: says once for each committee that it cannot sign for it.
struct Seat {
    vote_key: VotePublicKey,
    bls: Vec<u8>,
    /// The committee looked at last.
    seen: Option<B256>,
}

impl Seat {
    fn new(vote_key: VotePublicKey, key: &CheckpointKey) -> Self {
        Self { vote_key, bls: key.bls_public().to_vec(), seen: None }
    }

    /// Whether the vote key sits in this committee, and the checkpoint key is not the one beside it. None where the committee
    /// is the one looked at last.
    fn mute_in(&mut self, committee: &CheckpointCommittee) -> Option<bool> {
        let hash = committee.hash();
        if self.seen.replace(hash) == Some(hash) {
            return None;
        }
        let holder = committee.holder(&self.bls).map(|member| member.account);
        Some(committee.account_of(&self.vote_key).is_some_and(|account| holder != Some(account)))
    }
}

struct Shell {
    network: NetworkHandle,
    keeper: Arc<dyn CheckpointKeeper>,
    collector: Arc<Mutex<Collector>>,
    seat: Option<Seat>,
    /// Checkpoints that could not be read; tried again at the next block.
    owed: BTreeSet<u64>,
    metrics: CheckpointMetrics,
}

impl Shell {
    async fn run(mut self, mut heard: mpsc::Receiver<(NodeId, CheckpointVote)>) {
        loop {
            let known = self.collector.lock().height();
            let done = tokio::select! {
                vote = heard.recv() => match vote {
                    Some((peer, vote)) => self.hear(peer, vote).await,
                    None => return,
                },
                height = self.keeper.above(known) => self.advance(known, height).await,
            };
            if let Err(error) = done {
                tracing::error!(%error, "a checkpoint is not signed or not kept");
                tokio::time::sleep(Duration::from_millis(ERROR_PAUSE_MS)).await;
            }
        }
    }

    /// Signatures take milliseconds to check: not where everybody's I/O runs.
    async fn apart<T: Send + 'static>(&self, work: impl FnOnce(&mut Collector) -> T + Send + 'static) -> Option<T> {
        let collector = Arc::clone(&self.collector);
        tokio::task::spawn_blocking(move || work(&mut collector.lock())).await.ok()
    }

    async fn hear(&self, peer: NodeId, vote: CheckpointVote) -> Result<(), AppError> {
        let Some((heard, actions)) = self.apart(move |collector| collector.hear(peer, vote)).await else {
            return Ok(());
        };
        match heard {
            Heard::Counted => {
                self.metrics.counted.inc();
            }
            Heard::Known | Heard::Early => {}
            Heard::Unasked => self.metrics.refuse("unasked"),
            Heard::OtherBlock => self.metrics.refuse("other_block"),
            Heard::Wrong => self.metrics.refuse("signature"),
            Heard::Ignored => self.metrics.refuse("too_many_wrong"),
        }
        self.act(actions).await
    }

    /// Blocks after `known` up to `height` are final. The collector hears of them whatever cannot be read: otherwise the same
    /// ones would be looked at for ever.
    async fn advance(&mut self, known: u64, height: u64) -> Result<(), AppError> {
        let rules = self.keeper.rules();
        let oldest = height.saturating_sub(OPEN_BLOCKS).saturating_add(1);
        let mut looked_at = std::mem::take(&mut self.owed).split_off(&oldest);
        looked_at.extend((oldest.max(known.saturating_add(1))..=height).filter(|height| rules.has(*height)));
        let mut failed = None;
        let mut duties: Vec<CheckpointDuty> = Vec::new();
        for checkpoint in looked_at {
            match self.duty(checkpoint).await {
                Ok(duty) => duties.extend(duty),
                Err(error) => {
                    self.owed.insert(checkpoint);
                    failed = Some(error);
                }
            }
        }
        let mut settled = Vec::new();
        let unsettled = self.collector.lock().unsettled();
        for checkpoint in unsettled {
            match self.keeper.stands(checkpoint).await {
                Ok(true) => settled.push(checkpoint),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        duties.iter().for_each(|duty| self.look_at_seat(duty));
        let actions = self.apart(move |collector| {
            let mut actions = collector.advance(height, &settled);
            actions.extend(duties.into_iter().flat_map(|duty| collector.begin(duty)));
            actions
        });
        let actions = actions.await.unwrap_or_default();
        self.act(actions).await?;
        failed.map_or(Ok(()), Err)
    }

    /// What is still to be signed of a checkpoint, or to be collected.
    async fn duty(&self, checkpoint: u64) -> Result<Option<CheckpointDuty>, AppError> {
        let (_, post_quantum) = self.keeper.kept(checkpoint).await?;
        if post_quantum.is_some() && self.keeper.stands(checkpoint).await? {
            return Ok(None);
        }
        self.keeper.duty(checkpoint).await
    }

    fn look_at_seat(&mut self, duty: &CheckpointDuty) {
        let Some(mute) = self.seat.as_mut().and_then(|seat| seat.mute_in(&duty.committee)) else { return };
        self.metrics.mute.set(u64::from(mute));
        if mute {
            tracing::warn!(
                height = duty.message.height,
                "this validator signs no checkpoints: the committee does not have its checkpoint key; put the key of this \
                 data directory into the chain's stake contract, it counts from the committee after the next"
            );
        }
    }

    async fn act(&self, actions: Vec<Action>) -> Result<(), AppError> {
        for action in actions {
            match action {
                Action::Say(vote) => {
                    self.metrics.signed.inc();
                    let report =
                        self.network.broadcast(&validators(&self.network), CHECKPOINT_PROTOCOL, vote.to_bytes()).await;
                    for (peer, error) in report.failed {
                        tracing::debug!(%peer, %error, "a checkpoint's signature is not queued; it is said again");
                    }
                }
                Action::Keep { height, certificate, post_quantum } => {
                    self.keeper.keep(height, Some(certificate), Some(post_quantum)).await?;
                    self.metrics.assembled.inc();
                    self.metrics.height.set(height);
                    tracing::info!(height, "checkpoint certified");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::state::fixtures::{committee, key};
    use trellis_crypto::VoteKey;

    // row: CHN-15
    #[test]
    fn a_member_whose_checkpoint_key_the_committee_does_not_have_is_told_so_once() {
        let vote = |n: u8| VoteKey::from_seed(&[n; 32]).public();
        for (vote_key, checkpoint_key, mute) in [(1, 1, false), (1, 9, true), (1, 2, true), (9, 9, false)] {
            let mut seat = Seat::new(vote(vote_key), &key(checkpoint_key));
            assert_eq!(seat.mute_in(&committee()), Some(mute), "{vote_key} {checkpoint_key}");
            assert_eq!(seat.mute_in(&committee()), None, "once for each committee");
        }
    }
}
