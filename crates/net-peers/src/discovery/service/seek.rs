//! Kademlia's part of discovery: announcing what this node sells, and finding who sells.

use std::time::Duration;

use futures::StreamExt;
use trellis_primitives::{NodeId, Role};

use super::Finder;
use crate::discovery::address::AddressGroup;
use crate::discovery::book::Told;
use crate::discovery::kad::{KEY_BYTES, PROVIDE_MS, QUERY_TIMEOUT_MS, keys_of, model_key, providers_key};
use crate::discovery::{Outcome, Source};
use crate::service::{Command, FindingCommand, Found};
use tokio::sync::oneshot;
use trellis_crypto::file::replace;
use trellis_primitives::SignedNodeRecord;

/// Between two announcements because somebody entered the table.
const PROVIDE_MS_MIN: u64 = 5_000;
/// Providers that one look-up dials.
const DIALS_MAX: usize = 8;
/// A model that somebody sells is looked up again after this long.
const SEEK_AGAIN_MS: u64 = 15_000;
/// One that nobody was found to sell: a node that has just started knows few whom it can ask.
const SEEK_EMPTY_AGAIN_MS: u64 = 3_000;
/// Models looked up in that time.
const SOUGHT_MAX: usize = 64;
/// A person waits for a look-up of a model, so long at most.
const FIND_MODEL_TIMEOUT_MS: u64 = 5_000;
/// The name of the source in the book's buckets.
const SOURCE_NAME: &str = "kad";
/// Providers that are connected and make the round's look-up needless while the other connections stand.
const PROVIDERS_ENOUGH: usize = 3;

impl Finder {
    /// Announces this node for what it sells and keeps what connected providers sell: when somebody enters the table, and
    /// again before the records run out.
    pub(super) async fn provide(&self) {
        loop {
            tokio::select! {
                () = self.discovery.entered.notified() => {}
                () = tokio::time::sleep(self.discovery.jittered(PROVIDE_MS)) => {}
            }
            let infos = self.shared.table.lock().infos();
            let sells =
                infos.iter().filter(|info| info.connected_since.is_some() && info.roles.contains(Role::Provider));
            let sellers = sells.filter_map(|info| info.peer_id.parse().ok()).collect();
            let _ = self.shared.commands.send(Command::Find(FindingCommand::Refresh(sellers))).await;
            let record = self.shared.own_record(self.shared.clock.now()).ok();
            let record = record.and_then(|signed| SignedNodeRecord::from_rlp(&signed).ok());
            let record = record.and_then(|signed| trellis_primitives::NodeRecord::from_rlp(&signed.record_rlp).ok());
            let keys: Vec<_> = record.iter().flat_map(keys_of).collect();
            if !keys.is_empty() {
                let _ = self.shared.commands.send(Command::Find(FindingCommand::Provide(keys))).await;
            }
            tokio::time::sleep(Duration::from_millis(PROVIDE_MS_MIN)).await;
        }
    }

    /// The round's look-up: a gateway wants providers. Returns how many addresses were new.
    pub(super) async fn ask_table(&self) -> usize {
        let config = &self.shared.config;
        if !self.discovery.config.kad || !config.roles.contains(Role::Gateway) {
            return 0;
        }
        let infos = self.shared.table.lock().infos();
        let sells =
            |info: &&crate::peer::PeerInfo| info.connected_since.is_some() && info.roles.contains(Role::Provider);
        if infos.iter().filter(sells).count() >= PROVIDERS_ENOUGH && !self.is_short() {
            return 0;
        }
        let (found, new) = self.look_up(providers_key()).await;
        self.dial_found(found).await;
        new
    }

    /// Finds who sells a model and connects to some of them. Returns those that are connected now.
    pub(super) async fn find_model(&self, model: &str) -> Vec<NodeId> {
        let (key, now) = (model_key(model), self.shared.clock.now());
        {
            let mut sought = self.discovery.sought.lock();
            sought.retain(|_, again| now < *again);
            if sought.len() >= SOUGHT_MAX || sought.contains_key(&key) {
                return Vec::new();
            }
            sought.insert(key, now.plus_ms(SEEK_AGAIN_MS));
        }
        let limit = Duration::from_millis(FIND_MODEL_TIMEOUT_MS);
        let found = tokio::time::timeout(limit, self.find_key(key)).await.unwrap_or_default();
        if found.is_empty() {
            self.discovery.sought.lock().insert(key, now.plus_ms(SEEK_EMPTY_AGAIN_MS));
        }
        found
    }

    async fn find_key(&self, key: [u8; KEY_BYTES]) -> Vec<NodeId> {
        let (found, new) = self.look_up(key).await;
        if new > 0 {
            self.book_changed();
        }
        self.dial_found(found).await
    }

    async fn look_up(&self, key: [u8; KEY_BYTES]) -> (Vec<Found>, usize) {
        let (reply, answer) = oneshot::channel();
        let asked = self.shared.commands.send(Command::Find(FindingCommand::Providers { key, reply })).await;
        let limit = Duration::from_millis(2 * QUERY_TIMEOUT_MS);
        let now = self.shared.clock.now();
        let Ok(Ok(found)) = tokio::time::timeout(limit, answer).await else {
            let detail = if asked.is_err() { "the network ends" } else { "too many look-ups, or no answer" };
            self.discovery.report(&Source::Kad, Outcome::Failed, 0, detail.to_owned(), now);
            return (Vec::new(), 0);
        };
        let source = AddressGroup::of_name(SOURCE_NAME);
        let mut book = self.discovery.book.lock();
        let addresses = found.iter().flat_map(|found| &found.addresses);
        let told = addresses.clone().map(|address| Told { address: *address, node: None, source });
        let new = told.filter(|told| book.tell(*told, now)).count();
        drop(book);
        let outcome = if found.is_empty() { Outcome::Empty } else { Outcome::Found };
        let detail = format!("{} providers, {new} new addresses", found.len());
        self.discovery.report(&Source::Kad, outcome, addresses.count(), detail, now);
        (found, new)
    }

    /// Connects to providers that are not connected; who is, is one of those found.
    async fn dial_found(&self, found: Vec<Found>) -> Vec<NodeId> {
        let dials = found.into_iter().take(DIALS_MAX).map(|found| async move {
            if let Some(node) = self.shared.table.lock().connected_by_peer_id(&found.peer) {
                return Some(node);
            }
            let connected = || self.shared.table.lock().connected_by_peer_id(&found.peer);
            for address in found.addresses {
                if self.dial(address).await {
                    return connected();
                }
            }
            if found.circuits.is_empty() {
                return None;
            }
            let reached = self.shared.dial_any(Some(found.peer), found.circuits).await;
            reached.ok().and_then(|_| connected())
        });
        futures::stream::iter(dials).buffer_unordered(DIALS_MAX).filter_map(|node| async move { node }).collect().await
    }

    /// Writes the table's records for the next run, if they changed.
    pub(super) async fn save_records(&self) {
        let Some(path) = self.discovery.config.records_file.clone() else { return };
        let Some(store) = self.discovery.store.as_ref().filter(|store| store.take_changed()) else { return };
        let bytes = store.encode(self.shared.config.network_magic, self.shared.clock.now());
        let written = tokio::task::spawn_blocking(move || replace(&path, &bytes).map_err(|error| (path, error)));
        if let Ok(Err((path, error))) = written.await {
            tracing::warn!(path = %path.display(), %error, "the provider records were not saved");
        }
    }
}
