//! A load on its way: handed to the servers of one chain as fast as they take it or at a given pace, until all of it is
//! in blocks that a client sees.

use super::load::{Load, Server};
use super::percentile;
use super::usage::{Spent, Usage};
use crate::failure::Failure;
use alloy_primitives::B256;
use eyre::Result;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Connections that send at the same time, over all servers; each server has one at least.
const CONNECTIONS: usize = 4;
/// Between two questions for a new block.
const POLL_MS: u64 = 20;
/// How long no block may bring a transfer before the run fails.
const STALL_SECONDS_MAX: u64 = 60;

/// What became of a load.
pub struct Outcome {
    /// How many transfers.
    pub transactions: usize,
    /// Seconds from the first request to the block with the last transfer.
    pub seconds: f64,
    /// Milliseconds from each transfer's hand-over, or the moment that was due for it, to its block.
    pub waits_ms: Vec<f64>,
    /// Milliseconds from each block with transfers to the one after.
    pub between_ms: Vec<f64>,
    /// Blocks with transfers.
    pub blocks: usize,
    /// Height of the last of them.
    pub last_block: u64,
    /// What each server's process used.
    pub servers: Vec<Spent>,
    /// Resident memory of each at the end, in bytes.
    pub memory_bytes: Vec<u64>,
    /// The most that it ever was, in bytes.
    pub memory_peak_bytes: Vec<u64>,
    /// What the generator used: this process, which also watches.
    pub generator: Spent,
}

impl Outcome {
    /// Transfers in a second.
    pub fn tps(&self) -> f64 {
        count(self.transactions) / self.seconds
    }

    /// Microseconds of CPU for each transfer, of that many seconds.
    pub fn us_per_tx(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / count(self.transactions)
    }

    /// A percentile of the time to a block that a client sees.
    pub fn wait_ms(&self, part: f64) -> f64 {
        percentile(&mut self.waits_ms.clone(), part)
    }

    /// A percentile of the time from block to block.
    pub fn between_blocks_ms(&self, part: f64) -> f64 {
        percentile(&mut self.between_ms.clone(), part)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of at most millions")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Hands a load to the servers, at so many transfers a second where a rate is given, and waits until all of it is in
/// blocks of the first server.
///
/// # Errors
/// A transfer that is refused or fails, and a chain that stands still.
pub async fn run(servers: &Arc<[Server]>, load: &Arc<Load>, rate: Option<f64>) -> Result<Outcome> {
    let Some(first) = servers.first() else { return Err(Failure::new("no server to measure").into()) };
    let head = first.height().await?;
    let before: Vec<Usage> = servers.iter().map(Server::usage).collect();
    let own_before = Usage::own();
    let sending = Arc::new(Sending::new(Arc::clone(servers), Arc::clone(load), rate));
    let mut senders = JoinSet::new();
    for server in 0..servers.len() {
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..(CONNECTIONS / servers.len()).max(1) {
            senders.spawn(send(Arc::clone(&sending), server, Arc::clone(&next)));
        }
    }
    let seen = tokio::select! {
        seen = watch(first, load, head) => seen?,
        Err(error) = first_failure(&mut senders) => return Err(error),
    };
    let after: Vec<Usage> = servers.iter().map(Server::usage).collect();
    let generator = Usage::own().since(&own_before);
    first.check_receipts(load).await?;
    let handed = sending.handed.lock().clone();
    let waits = seen.transfers.iter().enumerate().filter_map(|(place, at)| {
        Some(at.saturating_duration_since(*handed.get(place / load.batch)?).as_secs_f64() * 1e3)
    });
    let last = seen.transfers.iter().max().copied().unwrap_or(sending.began);
    Ok(Outcome {
        transactions: load.hashes.len(),
        seconds: last.duration_since(sending.began).as_secs_f64(),
        waits_ms: waits.collect(),
        between_ms: seen.blocks.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect(),
        blocks: seen.blocks.len(),
        last_block: seen.last_block,
        servers: after.iter().zip(&before).map(|(after, before)| after.since(before)).collect(),
        memory_bytes: after.iter().map(|usage| usage.memory_bytes).collect(),
        memory_peak_bytes: after.iter().map(|usage| usage.memory_peak_bytes).collect(),
        generator,
    })
}

struct Sending {
    servers: Arc<[Server]>,
    load: Arc<Load>,
    began: Instant,
    /// When each request is due; none where it is when its turn comes.
    pace: Option<Duration>,
    handed: Mutex<Vec<Instant>>,
}

impl Sending {
    fn new(servers: Arc<[Server]>, load: Arc<Load>, rate: Option<f64>) -> Self {
        let began = Instant::now();
        let pace = rate.map(|rate| Duration::from_secs_f64(count(load.batch) / rate));
        let due = |index: usize| pace.map_or(began, |pace| began + pace * u32::try_from(index).unwrap_or(u32::MAX));
        let handed = Mutex::new((0..load.bodies.len()).map(due).collect());
        Self { servers, load, began, pace, handed }
    }

    /// The n-th request of a server. A sender's transfers all go to one, so that its nonces come in order.
    fn request_of(&self, server: usize, nth: usize) -> usize {
        let (round, servers) = (self.load.round, self.servers.len());
        let of_each_round = (round + servers - 1 - server) / servers;
        // Fewer requests in a round than servers: then those of later rounds go on with the next server.
        if of_each_round == 0 || round < servers {
            return server + nth * servers;
        }
        (nth / of_each_round) * round + server + (nth % of_each_round) * servers
    }
}

/// One connection: takes request after request of its server, each when it is due, until there are no more.
async fn send(sending: Arc<Sending>, server: usize, next: Arc<AtomicUsize>) -> Result<()> {
    loop {
        let index = sending.request_of(server, next.fetch_add(1, Ordering::Relaxed));
        let Some(body) = sending.load.bodies.get(index).cloned() else { return Ok(()) };
        let Some(server) = sending.servers.get(server) else { return Ok(()) };
        if sending.pace.is_some() {
            // What is handed over late is counted from when it was due: whoever waits for the generator waits too.
            let due = sending.handed.lock().get(index).copied();
            tokio::time::sleep_until(due.unwrap_or(sending.began).into()).await;
        } else if let Some(entry) = sending.handed.lock().get_mut(index) {
            *entry = Instant::now();
        }
        server.send(body).await?;
    }
}

/// Ends with the first failure; never where there is none.
async fn first_failure(senders: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    std::future::pending().await
}

/// When a client saw what.
struct Seen {
    /// Each transfer.
    transfers: Vec<Instant>,
    /// Each block that has some.
    blocks: Vec<Instant>,
    /// Height of the last.
    last_block: u64,
}

/// Looks at every new block until it has seen every transfer.
async fn watch(server: &Server, load: &Load, head: u64) -> Result<Seen> {
    let places: HashMap<B256, usize> = load.hashes.iter().enumerate().map(|(place, hash)| (*hash, place)).collect();
    let mut seen: Vec<Option<Instant>> = vec![None; load.hashes.len()];
    let (mut missing, mut next, mut blocks, mut progress) = (seen.len(), head + 1, Vec::new(), Instant::now());
    while missing > 0 {
        let block = server.block(next).await?;
        let now = Instant::now();
        if now.duration_since(progress) > Duration::from_secs(STALL_SECONDS_MAX) {
            return Err(Failure::new(format!("{missing} of {} transfers got into no block", seen.len())).into());
        }
        let Some(hashes) = block else {
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
            continue;
        };
        next += 1;
        let mut found = 0;
        for hash in hashes {
            let Some(entry) = places.get(&hash).and_then(|place| seen.get_mut(*place)) else { continue };
            found += usize::from(entry.replace(now).is_none());
        }
        missing -= found;
        if found > 0 {
            blocks.push(now);
            progress = now;
        }
    }
    Ok(Seen { transfers: seen.into_iter().flatten().collect(), blocks, last_block: next - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn sending(servers: u32, requests: usize, round: usize) -> Sending {
        let servers: Vec<Server> = (0..servers).map(|_| Server::new("127.0.0.1:1", 0).unwrap()).collect();
        let load = Load { hashes: Vec::new(), bodies: vec![bytes::Bytes::new(); requests], batch: 1, round };
        Sending::new(servers.into(), Arc::new(load), None)
    }

    fn requests_of(sending: &Sending, server: usize, requests: usize) -> Vec<usize> {
        (0..requests).map(|nth| sending.request_of(server, nth)).filter(|index| *index < requests).collect()
    }

    #[test]
    fn every_request_goes_to_one_server_and_a_sender_always_to_the_same() {
        for (servers, round) in [(1, 1), (1, 100), (4, 100), (7, 100), (20, 100), (20, 20), (100, 101)] {
            let sending = sending(servers, 350, round);
            let mut all = HashSet::new();
            for server in 0..servers as usize {
                let own = requests_of(&sending, server, 350);
                assert!(own.iter().all(|index| index % round % servers as usize == server), "{servers} {round}");
                assert!(own.is_sorted());
                all.extend(own);
            }
            assert_eq!(all.len(), 350, "{servers} servers, a round of {round}");
        }
    }

    #[test]
    fn where_there_are_more_servers_than_requests_in_a_round_none_is_left_out() {
        let sending = sending(20, 350, 3);
        let all: HashSet<usize> = (0..20).flat_map(|server| requests_of(&sending, server, 350)).collect();
        assert_eq!(all.len(), 350);
    }

    #[test]
    fn a_paced_request_is_due_in_its_turn() {
        let server = Server::new("127.0.0.1:1", 0).unwrap();
        let load = Load { hashes: Vec::new(), bodies: vec![bytes::Bytes::new(); 3], batch: 50, round: 4 };
        let sending = Sending::new(vec![server].into(), Arc::new(load), Some(1_000.0));
        let due: Vec<_> = sending.handed.lock().iter().map(|at| at.duration_since(sending.began).as_millis()).collect();
        assert_eq!(due, [0, 50, 100]);
    }
}
