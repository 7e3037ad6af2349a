//! Answers: what others ask of the chain that this node has. One stream per request, bounded in number, bytes and pace.

use crate::config::{
    ANSWER_BYTES_MAX, ANSWER_TIMEOUT_MS, BODIES_FRAME_BYTES, REQUEST_BYTES_MAX, REQUEST_TIMEOUT_MS,
    REQUESTS_PER_SECOND_MAX, SERVED_FRAMES_PER_PEER_MAX, SERVED_MAX, SERVED_PER_PEER_MAX, STREAMS_MAX, SYNC_PROTOCOL,
    WAITING_FRAME_BYTES_MAX, WRITE_TIMEOUT_MS,
};
use crate::metrics::SyncMetrics;
use crate::wire::{Bodies, Body, PeerStatus, Request, Run};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use trellis_chain_storage::{ReadError, Store};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{AcceptError, Acceptor, NetStream, NetworkHandle, Witness};
use trellis_primitives::NodeId;

/// Runs until dropped.
#[derive(Debug)]
pub struct SyncServer {
    _tasks: JoinSet<()>,
}

struct World {
    store: Store,
    network: NetworkHandle,
    metrics: SyncMetrics,
    places: Places,
}

/// Places to read frames at, for all peers together.
struct Places(Semaphore);

/// A place of both: of one peer's, and of all.
struct Place<'a> {
    _own: SemaphorePermit<'a>,
    _shared: SemaphorePermit<'a>,
}

impl Places {
    /// Waits for a place. Whoever has all of its own waits without keeping one from others.
    async fn take<'a>(&'a self, own: &'a Semaphore) -> Result<Place<'a>, &'static str> {
        let own = own.acquire().await.map_err(|_| "too_many")?;
        let shared = self.0.acquire().await.map_err(|_| "too_many")?;
        Ok(Place { _own: own, _shared: shared })
    }
}

/// Begins to answer.
///
/// # Errors
/// Where the protocol has an acceptor already.
pub fn serve(network: NetworkHandle, store: Store, metrics: SyncMetrics) -> Result<SyncServer, AcceptError> {
    let acceptor = network.accept(SYNC_PROTOCOL)?;
    let world = Arc::new(World { store, network, metrics, places: Places(Semaphore::new(SERVED_MAX)) });
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(world, acceptor));
    Ok(SyncServer { _tasks: tasks })
}

/// Requests of one peer that are being answered, and how many came lately.
struct Guest {
    served: usize,
    since: Instant,
    requests: u32,
    /// Its own places to read frames at.
    places: Arc<Semaphore>,
}

impl Guest {
    const WINDOW: Duration = Duration::from_secs(1);

    fn new() -> Self {
        let places = Arc::new(Semaphore::new(SERVED_FRAMES_PER_PEER_MAX));
        Self { served: 0, since: Instant::now(), requests: 0, places }
    }

    /// When the next request may be answered.
    fn pace(&mut self) -> Instant {
        let now = Instant::now();
        if now.duration_since(self.since) >= Self::WINDOW {
            (self.since, self.requests) = (now, 0);
        }
        self.requests = self.requests.saturating_add(1);
        if self.requests > REQUESTS_PER_SECOND_MAX { self.since + Self::WINDOW } else { now }
    }
}

async fn accept(world: Arc<World>, mut acceptor: Acceptor) {
    let mut guests: HashMap<NodeId, Guest> = HashMap::new();
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            Some(done) = served.join_next(), if !served.is_empty() => {
                let Ok(peer) = done else { continue };
                if let Some(guest) = guests.get_mut(&peer) {
                    guest.served = guest.served.saturating_sub(1);
                }
                let window = Guest::WINDOW;
                guests.retain(|_, guest| guest.served > 0 || guest.since.elapsed() < window);
            }
            next = acceptor.next() => {
                let Some((peer, stream)) = next else { return };
                let guest = guests.entry(peer).or_insert_with(Guest::new);
                if guest.served >= SERVED_PER_PEER_MAX || served.len() >= STREAMS_MAX {
                    world.metrics.refuse("too_many");
                    continue;
                }
                guest.served += 1;
                let not_before = guest.pace();
                let places = Arc::clone(&guest.places);
                served.spawn(one(Arc::clone(&world), (peer, places), stream, not_before));
            }
        }
    }
}

async fn one(
    world: Arc<World>,
    (peer, places): (NodeId, Arc<Semaphore>),
    mut stream: NetStream,
    not_before: Instant,
) -> NodeId {
    tokio::time::sleep_until(not_before).await;
    let mut witness = Witness::new(world.network.clone(), peer);
    let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
    let frame = match timeout(limit, read_frame(&mut stream, REQUEST_BYTES_MAX)).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => {
            witness.failed(&error);
            world.metrics.refuse("frame");
            return peer;
        }
        Err(_) => {
            world.metrics.refuse("no_request");
            return peer;
        }
    };
    let Ok(request) = Request::from_bytes(&frame) else {
        witness.invalid(Pattern::Malformed);
        world.metrics.refuse("undecodable");
        return peer;
    };
    witness.valid();
    let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
    match timeout(limit, answer(&world, &places, &mut stream, request)).await.unwrap_or(Err("unread")) {
        Ok(()) => {
            world.metrics.served.inc();
        }
        Err(reason) => {
            tracing::debug!(%peer, reason, "a request for blocks was not answered");
            world.metrics.refuse(reason);
        }
    }
    peer
}

/// Answers, or says why not: the stream then ends without a frame.
async fn answer(
    world: &Arc<World>,
    own: &Semaphore,
    stream: &mut NetStream,
    request: Request,
) -> Result<(), &'static str> {
    match request {
        Request::Status { above, wait_ms } => {
            wait_above(&world.store, above, wait_ms).await;
            let frame = read(world, |store| Ok(status(store)?.map(|status| status.to_bytes()))).await?;
            send(world, stream, &frame.ok_or("nothing")?).await?;
        }
        Request::Headers { first, last } => {
            let place = world.places.take(own).await?;
            let frame = read(world, move |store| Ok(run(store, first, last)?.map(|run| run.to_bytes()))).await?;
            send_from(world, stream, &frame.ok_or("nothing")?, place).await?;
        }
        Request::Bodies { first, last } => send_bodies(world, own, stream, (first, last)).await?,
    }
    let limit = Duration::from_millis(WRITE_TIMEOUT_MS);
    match timeout(limit, stream.shutdown()).await {
        Ok(Ok(())) => Ok(()),
        _ => Err("unread"),
    }
}

async fn send_bodies(
    world: &Arc<World>,
    own: &Semaphore,
    stream: &mut NetStream,
    (first, last): (u64, u64),
) -> Result<(), &'static str> {
    let (mut next, mut sent) = (first, 0usize);
    while next <= last && sent < ANSWER_BYTES_MAX {
        let place = world.places.take(own).await?;
        let part = read(world, move |store| bodies(store, next, last)).await?;
        if part.bodies.is_empty() {
            return if next == first { Err("nothing") } else { Ok(()) };
        }
        next = next.saturating_add(part.bodies.len() as u64);
        let frame = part.to_bytes();
        sent = sent.saturating_add(frame.len());
        send_from(world, stream, &frame, place).await?;
    }
    Ok(())
}

/// Sends a frame that was read with a place. Whoever reads slowly does not keep the place from others, as long as the frame is
/// small.
async fn send_from(world: &World, stream: &mut NetStream, frame: &[u8], place: Place<'_>) -> Result<(), &'static str> {
    let place = (frame.len() > WAITING_FRAME_BYTES_MAX).then_some(place);
    let sent = send(world, stream, frame).await;
    drop(place);
    sent
}

/// Reads on a thread that may block.
async fn read<T: Send + 'static>(
    world: &Arc<World>,
    read: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, &'static str> {
    let store = world.store.clone();
    match tokio::task::spawn_blocking(move || read(&store)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => {
            tracing::error!(%error, "the chain cannot be read for a peer");
            Err("storage")
        }
        Err(_) => Err("storage"),
    }
}

async fn send(world: &World, stream: &mut NetStream, frame: &[u8]) -> Result<(), &'static str> {
    let limit = Duration::from_millis(WRITE_TIMEOUT_MS);
    match timeout(limit, write_frame(stream, frame)).await {
        Ok(Ok(())) => {
            world.metrics.sent.inc_by(frame.len() as u64);
            Ok(())
        }
        Ok(Err(_)) => Err("broken"),
        Err(_) => Err("unread"),
    }
}

async fn wait_above(store: &Store, above: u64, wait_ms: u64) {
    let mut committed = store.subscribe();
    let wait = async {
        while store.height() <= above {
            if matches!(committed.recv().await, Err(RecvError::Closed)) {
                return;
            }
        }
    };
    let _ = timeout(Duration::from_millis(wait_ms), wait).await;
}

fn status(store: &Store) -> Result<Option<PeerStatus>, ReadError> {
    let height = store.height();
    let first_height = store.first_height()?;
    Ok(run(store, height, height)?.map(|tip| PeerStatus { first_height, height, tip }))
}

/// Headers from a height on, as many as there are.
fn run(store: &Store, first: u64, last: u64) -> Result<Option<Run>, ReadError> {
    let last = last.min(store.height());
    let mut headers = Vec::new();
    for height in first..=last {
        let Some(header) = store.header(height)? else { break };
        headers.push(alloy_rlp::encode(&header).into());
    }
    let Some(last) = (headers.len() as u64).checked_sub(1).map(|more| first.saturating_add(more)) else {
        return Ok(None);
    };
    let certificate = store.certificate(last)?;
    let block = store.block(last)?;
    let named = block.filter(|block| block.block.section.epoch.is_some());
    let section = named.map(|block| alloy_rlp::encode(&block.block.section).into());
    Ok(Some(Run { headers, certificate, section }))
}

/// Bodies from a height on, as many as make a frame.
fn bodies(store: &Store, first: u64, last: u64) -> Result<Bodies, ReadError> {
    let (mut bodies, mut bytes) = (Vec::new(), 0usize);
    for height in first..=last.min(store.height()) {
        let Some(block) = store.block(height)? else { break };
        let body = Body::rlp_of(&block.block);
        // A frame has one body at least, and another only where it fits.
        if !bodies.is_empty() && bytes.saturating_add(body.len()) > BODIES_FRAME_BYTES {
            break;
        }
        bytes = bytes.saturating_add(body.len());
        bodies.push(body);
    }
    Ok(Bodies { first, bodies })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    // row: NET-60
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_keeps_its_own_places_and_no_others() {
        let places = Places(Semaphore::new(SERVED_FRAMES_PER_PEER_MAX + 2));
        let (slow, other) = (Guest::new(), Guest::new());
        let mut held = Vec::new();
        for _ in 0..SERVED_FRAMES_PER_PEER_MAX {
            held.push(places.take(&slow.places).await.unwrap());
        }
        let wait = Duration::from_secs(60);
        assert!(timeout(wait, places.take(&slow.places)).await.is_err(), "it has all of its own");
        // Whoever waits for a place of its own keeps none meanwhile.
        let both = async { (places.take(&other.places).await.unwrap(), places.take(&other.places).await.unwrap()) };
        let (waits, taken) = tokio::join!(timeout(wait, places.take(&slow.places)), timeout(wait / 2, both));
        assert!(waits.is_err() && taken.is_ok());
        drop(taken);
        held.pop();
        places.take(&slow.places).await.unwrap();
    }
}
