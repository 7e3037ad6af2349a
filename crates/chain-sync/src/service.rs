//! The thin shell: streams, time, threads. All that is decided is decided in `state.rs`.

use crate::config::{
    BODIES_FRAME_BYTES_MAX, PEERS_MAX, PEERS_REPLACED_MAX, RUN_FRAME_BYTES_MAX, STATUS_WAIT_MS_MAX, SYNC_PROTOCOL,
    SyncConfig,
};
use crate::error::{Fault, SinkError, SyncError};
use crate::metrics::SyncMetrics;
use crate::sink::BlockSink;
use crate::state::{Action, Event, Progress, SyncState};
use crate::wire::{Bodies, PeerStatus, Request, Run};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout};
use trellis_chain_finality::{CommitteeChain, ValidatorSet};
use trellis_net_peers::frame::{FrameError, read_frame, write_frame};
use trellis_net_peers::guard::{Conduct, Pattern};
use trellis_net_peers::{NetStream, NetworkHandle, OpenError, PeerEvent, PeerState};
use trellis_primitives::{B256, NodeId, Role};

/// Events that wait for the core; what brings more waits itself.
const EVENTS_MAX: usize = 64;
/// The core looks at the time so often, in milliseconds.
const TICK_MS: u64 = 200;
/// Peers are looked through so often, whatever the network tells, in milliseconds.
const PEERS_MS: u64 = 2_000;
/// A status is late so long after the time that its sender was given, in milliseconds.
const STATUS_GRACE_MS: u64 = 10_000;
/// Pause before a peer is asked again where it stands after it said nothing new, in milliseconds.
const STATUS_AGAIN_MS: u64 = 2_000;

/// What a chain's clients have to know of it.
#[derive(Clone, Debug)]
pub struct ChainRules {
    /// The hash of block zero.
    pub genesis_hash: B256,
    /// The first committee.
    pub genesis: ValidatorSet,
    /// Blocks of an epoch; none where the first committee sits for ever.
    pub epoch_blocks: Option<u64>,
}

/// A running sync. It ends when the handle is dropped.
#[derive(Debug)]
pub struct SyncHandle {
    progress: watch::Receiver<Progress>,
    ended: watch::Receiver<Option<SyncError>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SyncHandle {
    /// Follows where the sync stands.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Resolves when the sync has ended by itself, with the reason; it then needs an operator.
    pub async fn ended(&self) -> SyncError {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| SyncError::Task("without a reason".to_owned()))
    }

    /// Ends it after the commit that is running, if one is, so that another may write.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // The task ends with the reason told already.
        let _ = self.task.await;
    }
}

/// Begins to follow the chain from where the sink stands.
///
/// # Errors
/// Where the sink does not say where that is.
pub async fn start(
    config: SyncConfig,
    rules: ChainRules,
    network: NetworkHandle,
    sink: Arc<dyn BlockSink>,
    metrics: SyncMetrics,
) -> Result<SyncHandle, SinkError> {
    let head = sink.head().await?;
    let mut committees = CommitteeChain::new(rules.genesis, rules.genesis_hash, rules.epoch_blocks);
    // The head may be the block that names the committee of the block after the next.
    for ahead in 1..=2 {
        let height = head.height.saturating_add(ahead);
        committees.believe(height, sink.committee(height).await?);
    }
    let state = SyncState::new(config, head, committees, rules.epoch_blocks);
    let (progress_sender, progress) = watch::channel(state.progress(0));
    let (ended_sender, ended) = watch::channel(None);
    let (stop, stopped) = watch::channel(false);
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let shell = Shell {
        network,
        sink,
        metrics,
        events,
        began: Instant::now(),
        requests: HashMap::new(),
        watched: HashMap::new(),
        turns: HashMap::new(),
        still: Duration::from_millis(config.still_ms),
        still_since: Instant::now(),
        known: watch::channel(head.height).0,
        committing: None,
        failed: None,
    };
    let task = tokio::spawn(async move {
        if let Err(error) = shell.run(state, inbox, stopped, &progress_sender).await {
            tracing::error!(%error, "the sync ends");
            ended_sender.send_replace(Some(error));
        }
    });
    Ok(SyncHandle { progress, ended, stop, task })
}

struct Shell {
    network: NetworkHandle,
    sink: Arc<dyn BlockSink>,
    metrics: SyncMetrics,
    events: mpsc::Sender<Event>,
    began: Instant,
    requests: HashMap<u64, AbortHandle>,
    /// Peers that are connected, and the tasks that ask them where they stand.
    watched: HashMap<NodeId, AbortHandle>,
    /// When each of those who are connected had its last turn to be watched, as a number that only grows.
    turns: HashMap<NodeId, u64>,
    /// How long nothing new may come from those who are watched.
    still: Duration,
    /// When something came, or others were let in because nothing did.
    still_since: Instant,
    /// The newest block committed, for those tasks.
    known: watch::Sender<u64>,
    committing: Option<JoinHandle<Result<crate::sink::Head, SinkError>>>,
    failed: Option<SyncError>,
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.requests.values().chain(self.watched.values()).for_each(AbortHandle::abort);
    }
}

impl Shell {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn run(
        mut self,
        mut state: SyncState,
        mut inbox: mpsc::Receiver<Event>,
        mut stopped: watch::Receiver<bool>,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), SyncError> {
        let mut network_events = self.network.events();
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        let mut peers = tokio::time::interval(Duration::from_millis(PEERS_MS));
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = stopped.changed() => return self.end().await,
                committed = committed(&mut self.committing) => {
                    self.committing = None;
                    let head = committed.map_err(|error| SyncError::Task(error.to_string()))??;
                    self.still_since = Instant::now();
                    let before = self.known.send_replace(head.height);
                    self.metrics.committed.inc_by(head.height.saturating_sub(before));
                    batch.push(Event::Committed(head));
                }
                Some(event) = inbox.recv() => batch.push(event),
                event = network_events.recv() => match event {
                    Err(broadcast::error::RecvError::Closed) => return self.end().await,
                    Ok(PeerEvent::Connected { .. } | PeerEvent::Disconnected { .. }) | Err(_) => {
                        self.refresh(&state, &mut batch);
                    }
                    Ok(_) => continue,
                },
                _ = peers.tick() => self.refresh(&state, &mut batch),
                _ = tick.tick() => {}
            }
            while let Ok(event) = inbox.try_recv() {
                batch.push(event);
            }
            let actions;
            (state, actions) = self.think(state, std::mem::take(&mut batch)).await?;
            for action in actions {
                self.act(action);
            }
            let now = state.progress(self.now_ms());
            self.metrics.show(&now);
            progress.send_if_modified(|before| std::mem::replace(before, now) != now);
            if let Some(error) = self.failed.take() {
                self.end().await?;
                return Err(error);
            }
        }
    }

    /// Lets a commit that is running come to its end.
    async fn end(&mut self) -> Result<(), SyncError> {
        if let Some(commit) = self.committing.take() {
            commit.await.map_err(|error| SyncError::Task(error.to_string()))??;
        }
        Ok(())
    }

    /// Hashes and signatures are checked in the core: off the runtime with it.
    async fn think(&mut self, mut state: SyncState, batch: Vec<Event>) -> Result<(SyncState, Vec<Action>), SyncError> {
        let now = self.now_ms();
        let thought = tokio::task::spawn_blocking(move || {
            for event in batch {
                state.on(now, event);
            }
            let actions = state.step(now);
            (state, actions)
        });
        let (state, actions) = thought.await.map_err(|error| SyncError::Task(error.to_string()))?;
        match actions {
            Ok(actions) => Ok((state, actions)),
            Err(error) => {
                self.failed = Some(error);
                Ok((state, Vec::new()))
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask { request, peer, what } => {
                self.metrics.requests.inc();
                let asker =
                    Asker { network: self.network.clone(), events: self.events.clone(), metrics: self.metrics.clone() };
                let task = tokio::spawn(async move { asker.exchange(request, peer, what).await });
                self.requests.retain(|_, task| !task.is_finished());
                self.requests.insert(request, task.abort_handle());
            }
            Action::Cancel { request } => {
                if let Some(task) = self.requests.remove(&request) {
                    task.abort();
                }
            }
            Action::Commit(blocks) => {
                let sink = Arc::clone(&self.sink);
                self.committing = Some(tokio::spawn(async move { sink.commit(blocks).await }));
            }
            Action::Dropped { peer, fault } => {
                self.metrics.drop_peer(fault);
                tracing::warn!(%peer, fault = fault.name(), "a peer is not asked for blocks any more");
                match fault {
                    Fault::ForgedCertificate => self.network.report(peer, Conduct::Forged),
                    Fault::Undecodable => self.network.report(peer, Conduct::Invalid { pattern: Pattern::Malformed }),
                    Fault::WrongHeaders | Fault::WrongBody => {
                        self.network.report(peer, Conduct::Invalid { pattern: Pattern::Unverified });
                    }
                    // No lies: the line may be bad, or this machine busy. A member of the committee is never let go for that.
                    Fault::Slow | Fault::Withheld | Fault::Broken | Fault::Unsupported => {}
                }
            }
        }
    }

    /// Compares who is connected with who is watched.
    fn refresh(&mut self, state: &SyncState, batch: &mut Vec<Event>) {
        let serves = |roles: trellis_primitives::RoleSet| roles.contains(Role::Validator) || roles.contains(Role::Full);
        let peers = self.network.peers().into_iter();
        let here: HashSet<NodeId> = peers
            .filter(|peer| peer.state == PeerState::Connected && serves(peer.roles))
            .filter_map(|peer| peer.id)
            .collect();
        self.turns.retain(|peer, _| here.contains(peer));
        let mut strangers: Vec<NodeId> = here.iter().filter(|peer| !self.watched.contains_key(peer)).copied().collect();
        // Those who never had a turn first.
        strangers.sort_unstable_by_key(|peer| (self.turns.get(peer).copied(), *peer));
        let free = PEERS_MAX.saturating_sub(self.watched.len());
        let useless = state.useless(self.now_ms()).into_iter().filter(|peer| here.contains(peer));
        // Nobody keeps a place for nothing while somebody waits for one.
        let wanted = strangers.len().saturating_sub(free);
        let mut leaving: HashSet<NodeId> = useless.take(wanted).collect();
        if leaving.is_empty() && wanted > 0 && self.stands_still(state) {
            leaving = self.longest_watched(wanted.min(PEERS_REPLACED_MAX));
            self.still_since = Instant::now();
        }
        self.watched.retain(|peer, task| {
            let stays = here.contains(peer) && !leaving.contains(peer);
            if !stays {
                task.abort();
                batch.push(Event::Left(*peer));
            }
            stays
        });
        let free = PEERS_MAX.saturating_sub(self.watched.len());
        for peer in strangers.into_iter().take(free) {
            let turn = self.turns.values().max().map_or(0, |last| last.saturating_add(1));
            self.turns.insert(peer, turn);
            batch.push(Event::Joined(peer));
            let (network, events) = (self.network.clone(), self.events.clone());
            let known = self.known.subscribe();
            self.watched.insert(peer, tokio::spawn(watch_status(network, peer, events, known)).abort_handle());
        }
    }

    /// Whether nobody who is watched has had a new block for long. They may all repeat the height that is known here, while
    /// those who wait for a place know more.
    fn stands_still(&self, state: &SyncState) -> bool {
        self.still_since.elapsed() >= self.still && state.progress(self.now_ms()).left() == 0
    }

    /// So many of those who are watched, whose turn is the oldest.
    fn longest_watched(&self, count: usize) -> HashSet<NodeId> {
        let mut watched: Vec<NodeId> = self.watched.keys().copied().collect();
        watched.sort_unstable_by_key(|peer| (self.turns.get(peer).copied(), *peer));
        watched.into_iter().take(count).collect()
    }
}

/// The outcome of the commit that is running; never, where none is.
async fn committed<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Asks a peer where it stands, again and again; it answers when it has something new, or after a while.
async fn watch_status(network: NetworkHandle, peer: NodeId, events: mpsc::Sender<Event>, known: watch::Receiver<u64>) {
    let mut told = 0;
    let mut wait_ms = 0;
    loop {
        let above = told.max(*known.borrow());
        let limit = Duration::from_millis(wait_ms + STATUS_GRACE_MS);
        let asked = timeout(limit, ask_status(&network, peer, Request::Status { above, wait_ms })).await;
        let mut pause = false;
        let event = match asked {
            Ok(Ok(status)) => {
                // Nothing new, though it was to wait: whoever answers so at once would be asked without end.
                pause = status.height <= above;
                told = status.height;
                wait_ms = STATUS_WAIT_MS_MAX;
                Event::Status { peer, status }
            }
            Ok(Err(fault)) => Event::NoStatus { peer, fault },
            Err(_) => Event::NoStatus { peer, fault: Fault::Withheld },
        };
        pause |= matches!(event, Event::NoStatus { .. });
        if events.send(event).await.is_err() {
            return;
        }
        if pause {
            tokio::time::sleep(Duration::from_millis(STATUS_AGAIN_MS)).await;
        }
    }
}

async fn ask_status(network: &NetworkHandle, peer: NodeId, what: Request) -> Result<PeerStatus, Fault> {
    let mut stream = open(network, peer, what).await?;
    let frame = read_frame(&mut stream, RUN_FRAME_BYTES_MAX).await.map_err(|error| fault_of(&error))?;
    PeerStatus::from_bytes(frame).map_err(|_| Fault::Undecodable)
}

async fn open(network: &NetworkHandle, peer: NodeId, what: Request) -> Result<NetStream, Fault> {
    let mut stream = network.open(peer, SYNC_PROTOCOL).await.map_err(|error| match error {
        OpenError::Unsupported { .. } => Fault::Unsupported,
        _ => Fault::Broken,
    })?;
    write_frame(&mut stream, &what.to_bytes()).await.map_err(|_| Fault::Broken)?;
    Ok(stream)
}

fn fault_of(error: &FrameError) -> Fault {
    match error {
        FrameError::TooLarge { .. } | FrameError::Decode(_) => Fault::Undecodable,
        FrameError::End => Fault::Withheld,
        FrameError::Truncated { .. } | FrameError::Io(_) => Fault::Broken,
    }
}

/// One request and its answer. How long it may take, the core decides.
struct Asker {
    network: NetworkHandle,
    events: mpsc::Sender<Event>,
    metrics: SyncMetrics,
}

impl Asker {
    async fn exchange(self, request: u64, peer: NodeId, what: Request) {
        let last = match self.try_exchange(request, peer, what).await {
            Ok(event) => event,
            Err(fault) => Event::Failed { request, fault },
        };
        // Nobody waits any more when the sync has ended.
        let _ = self.events.send(last).await;
    }

    async fn try_exchange(&self, request: u64, peer: NodeId, what: Request) -> Result<Event, Fault> {
        let mut stream = open(&self.network, peer, what).await?;
        if !matches!(what, Request::Bodies { .. }) {
            let frame = read_frame(&mut stream, RUN_FRAME_BYTES_MAX).await.map_err(|error| fault_of(&error))?;
            self.count(frame.len());
            let run = Run::from_bytes(frame).map_err(|_| Fault::Undecodable)?;
            return Ok(Event::Run { request, run });
        }
        loop {
            match read_frame(&mut stream, BODIES_FRAME_BYTES_MAX).await {
                Ok(frame) => {
                    let bytes = self.count(frame.len());
                    let bodies = Bodies::from_bytes(frame).map_err(|_| Fault::Undecodable)?;
                    let _ = self.events.send(Event::Bodies { request, bodies, bytes }).await;
                }
                Err(FrameError::End) => return Ok(Event::Ended { request }),
                Err(error) => return Err(fault_of(&error)),
            }
        }
    }

    fn count(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.metrics.received.inc_by(bytes);
        bytes
    }
}
