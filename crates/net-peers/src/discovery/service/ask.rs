//! Asking seeds and peers, and answering peers.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use trellis_crypto::SignatureError;
use trellis_primitives::{Bytes, NodeId, UnixMs};

use super::{Finder, group_of, remote_of};
use crate::discovery::address::{AddressClass, AddressGroup};
use crate::discovery::book::Told;
use crate::discovery::dns::{SEED_RETRY_MS, SeedAnswer, SeedError};
use crate::discovery::pex::{
    self, ADDRESSES_BYTES_MAX, ASK_INTERVAL_MS, ASK_SHORT_INTERVAL_MS, Addresses, GET_ADDRESSES_BYTES_MAX,
    GetAddresses, PEX, PEX_TIMEOUT_MS, RECORDS_PER_ANSWER_MAX, Verified,
};
use crate::discovery::{Outcome, SEEDS_MAX, Source};
use crate::frame::{FrameError, read_message, write_message};
use crate::guard::{CLUSTER_TOLD_MAX, Conduct, Pattern, Seen};
use crate::network::NetStream;

/// Peers asked in one round.
const PEERS_ASKED_MAX: usize = 4;

/// Why a question of a peer was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Stream(#[from] FrameError),
    #[error("own record: {0}")]
    Record(#[from] SignatureError),
}

impl Finder {
    /// Asks every DNS seed whose answer has run out, in random order. Returns how many addresses were new.
    pub(super) async fn ask_seeds(&self) -> usize {
        let now = self.shared.clock.now();
        let due = |name: &&String| self.discovery.seeds_due.lock().get(*name).is_none_or(|due| *due <= now);
        let seeds = self.discovery.config.dns_seeds.iter().take(SEEDS_MAX);
        let mut names: Vec<String> = seeds.filter(due).cloned().collect();
        names.shuffle(&mut *self.discovery.rng.lock());
        let mut new = 0;
        for name in names {
            let draw = self.discovery.rng.lock().random();
            let result = self.discovery.seeds.ask(&name, self.shared.clock.now(), draw).await;
            new += self.take_seed(name, result);
        }
        new
    }

    fn take_seed(&self, name: String, result: Result<SeedAnswer, SeedError>) -> usize {
        let now = self.shared.clock.now();
        let source = Source::Dns(name.clone());
        let (wait_ms, new) = match result {
            Ok(answer) => {
                let group = AddressGroup::of_name(&name);
                let mut book = self.discovery.book.lock();
                let mut new = 0;
                for (id, record, addresses) in &answer.nodes {
                    let fresh = || self.discovery.numbers.lock().take(*id, record, now);
                    if *id != self.shared.local_id && self.is_trusted(*id) && fresh() {
                        new += book.tell_record(*id, addresses, group, now);
                    }
                }
                // In a tree every address is of a record, and told with it.
                let bare = answer.addresses.iter().filter(|_| answer.nodes.is_empty());
                let told = bare.map(|address| Told { address: *address, node: None, source: group });
                new += told.filter(|told| book.tell(*told, now)).count();
                drop(book);
                let count = answer.addresses.len();
                let (left_out, ttl_s) = (answer.left_out, answer.ttl_ms / 1_000);
                let signed = if answer.validated { ", DNSSEC" } else { "" };
                let detail = format!("{new} new, {left_out} left out, kept for {ttl_s} s{signed}");
                let outcome = if count > 0 { Outcome::Found } else { Outcome::Empty };
                self.discovery.report(&source, outcome, count, detail, now);
                (answer.ttl_ms, new)
            }
            Err(error) => {
                tracing::info!(seed = name, %error, "the DNS seed gave nothing");
                self.discovery.report(&source, Outcome::Failed, 0, error.to_string(), now);
                (SEED_RETRY_MS, 0)
            }
        };
        self.discovery.seeds_due.lock().insert(name, now.plus_ms(wait_ms));
        new
    }

    /// Asks some of the connected peers. Returns how many addresses were new.
    pub(super) async fn ask_peers(&self) -> usize {
        if !self.discovery.config.pex {
            return 0;
        }
        let infos = self.shared.table.lock().infos();
        let connected = infos.iter().filter(|info| info.connected_since.is_some());
        let mut peers: Vec<NodeId> = connected.filter_map(|info| info.id).collect();
        peers.sort_unstable();
        self.discovery.asked.lock().retain(|peer, _| peers.binary_search(peer).is_ok());
        peers.shuffle(&mut *self.discovery.rng.lock());
        let questions = peers.into_iter().take(PEERS_ASKED_MAX).map(|peer| self.ask_one(peer));
        futures::future::join_all(questions).await.into_iter().flatten().sum()
    }

    /// Asks some of the connected peers whoever was asked lately: this node can be reached now, and so may others be.
    pub(super) async fn ask_again(&self) {
        self.discovery.asked.lock().clear();
        if self.ask_peers().await > 0 {
            self.discovery.wake.notify_one();
        }
    }

    /// Asks one peer, unless it was asked lately. Returns how many addresses were new, if it answered.
    pub(super) async fn ask_one(&self, peer: NodeId) -> Option<usize> {
        let now = self.shared.clock.now();
        let interval_ms = if self.is_short() { ASK_SHORT_INTERVAL_MS } else { ASK_INTERVAL_MS };
        {
            let mut asked = self.discovery.asked.lock();
            if asked.get(&peer).is_some_and(|last| now.ms_since(*last) < interval_ms) {
                return None;
            }
            asked.insert(peer, now);
        }
        let limit = Duration::from_millis(PEX_TIMEOUT_MS);
        let answer = match tokio::time::timeout(limit, self.question(peer)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(detail)) => return self.no_answer(peer, &detail),
            Err(_) => return self.no_answer(peer, &format!("no answer within {PEX_TIMEOUT_MS} ms")),
        };
        if let Err(error) = pex::check_count(&answer) {
            self.discovery.metrics.records_invalid.inc();
            self.shared.report(peer, Conduct::Invalid { pattern: Pattern::AddressSpam });
            return self.no_answer(peer, &error.to_string());
        }
        if answer.retry_after_ms > 0 {
            return self.no_answer(peer, &format!("asked to wait {} ms", answer.retry_after_ms));
        }
        let count = answer.records.len();
        let (taken, new) = self.take_answer(peer, answer).await;
        let detail = format!("{taken} of {count} records of {} taken, {new} new addresses", peer.short());
        let outcome = if new > 0 { Outcome::Found } else { Outcome::Empty };
        self.discovery.report(&Source::Pex, outcome, new, detail, now);
        Some(new)
    }

    fn no_answer(&self, peer: NodeId, detail: &str) -> Option<usize> {
        let detail = format!("{}: {detail}", peer.short());
        self.discovery.report(&Source::Pex, Outcome::Failed, 0, detail, self.shared.clock.now());
        None
    }

    async fn question(&self, peer: NodeId) -> Result<Addresses, String> {
        let handle = self.shared.table.lock().connection_to(peer).ok_or("not connected")?;
        let mut stream = handle.open(PEX).await.map_err(|error| error.to_string())?;
        drop(handle);
        let records_max = u32::try_from(RECORDS_PER_ANSWER_MAX).unwrap_or(u32::MAX);
        write_message(&mut stream, &GetAddresses { records_max }).await.map_err(|error| error.to_string())?;
        read_message(&mut stream, ADDRESSES_BYTES_MAX).await.map_err(|error| error.to_string())
    }

    /// Verifies the records off the runtime's threads and takes the good ones into the book. Returns how many records were
    /// good and how many addresses new.
    async fn take_answer(&self, peer: NodeId, answer: Addresses) -> (usize, usize) {
        let (checker, now) = (self.shared.checker.clone(), self.shared.clock.now());
        let verify = move || answer.records.iter().map(|record| pex::verify(record, &checker, now)).collect::<Vec<_>>();
        let Ok(results) = tokio::task::spawn_blocking(verify).await else { return (0, 0) };
        let remote = self.info(peer).as_ref().and_then(remote_of);
        let teller = (self.class_of(remote), group_of(remote));
        let public = remote.filter(|remote| remote.class() == Some(AddressClass::Public));
        let source = public.map(|remote| AddressGroup::of(remote.socket));
        let (mut taken, mut new, mut ways, mut violations) = (0, 0, 0, 0);
        for result in results {
            match result {
                Ok(Verified { id, record }) if id != self.shared.local_id && self.is_trusted(id) => {
                    self.shared.guard.seen(id, &record, Seen::Told { source });
                    if let Some((addresses, new_way)) = self.discovery.take_record(id, &record, teller, now) {
                        taken += 1;
                        new += addresses;
                        ways += usize::from(new_way);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(%peer, %error, "a record was not taken");
                    if error.is_violation() {
                        self.discovery.metrics.records_invalid.inc();
                        violations += 1;
                    }
                }
            }
        }
        if violations > 0 {
            // One answer is one message, however much of it is wrong.
            self.shared.report(peer, Conduct::Invalid { pattern: Pattern::AddressSpam });
        }
        self.book_changed();
        if ways > 0 {
            self.follow_ways();
        }
        (taken, new + ways)
    }

    /// Whether a node is told of, and heard of: not one that is banned, nor one whose reputation is so low that nothing
    /// would be relayed for it (NET-34, NET-53).
    fn is_trusted(&self, id: NodeId) -> bool {
        let guard = &self.shared.guard;
        guard.ban_of(id).is_none() && guard.score(id) >= guard.thresholds().relay
    }

    pub(super) async fn answer_one(&self, peer: NodeId, stream: &mut NetStream) -> Result<(), AnswerError> {
        let question: GetAddresses = read_message(stream, GET_ADDRESSES_BYTES_MAX).await?;
        let now = self.shared.clock.now();
        let allowed = self.discovery.limiter.lock().allow(peer, now);
        let answer = match allowed {
            Ok(()) => {
                self.discovery.metrics.answers.inc();
                pex::answer(self.records_for(peer, now)?, question.records_max)
            }
            Err(retry_after_ms) => {
                self.discovery.metrics.answers_refused.inc();
                Addresses { records: Vec::new(), retry_after_ms }
            }
        };
        Ok(write_message(stream, &answer).await?)
    }

    /// This node's own record, then those of others in random order: of nodes connected now, and of nodes that this node
    /// has reached by a dial of its own.
    fn records_for(&self, asker: NodeId, now: UnixMs) -> Result<Vec<Bytes>, SignatureError> {
        let class = self.class_of(self.info(asker).as_ref().and_then(remote_of));
        let mut others = self.discovery.records.lock().tellable(class, now);
        others.retain(|(id, _)| {
            let connected = self.shared.table.lock().is_connected(*id);
            *id != asker && self.is_trusted(*id) && (connected || self.discovery.book.lock().was_reached(*id))
        });
        others.shuffle(&mut *self.discovery.rng.lock());
        self.shared.guard.known_clusters().thin(&mut others, |(id, _)| *id, CLUSTER_TOLD_MAX);
        let own = self.shared.own_record(now)?;
        Ok(std::iter::once(own).chain(others.into_iter().map(|(_, signed)| signed)).collect())
    }
}
