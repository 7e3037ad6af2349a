//! Reading a signed tree from DNS: root, keys, and then entries by their hashes.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_resolver::proto::rr::{Name, RecordType};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use trellis_primitives::{NodeId, UnixMs};

use super::resolver::DnsResolver;
use super::tree::{self, Entry, TREE_DEPTH_MAX, TREE_RECORDS_MAX, TreeError, TreePlace};
use super::{SeedAnswer, SeedError, Seeds, below, bounded_ttl_ms, domain, text_of};
use crate::discovery::pex;

/// Entries fetched at once.
const FETCHES_AT_ONCE: usize = 8;
/// Records that are enough of a large tree.
const RECORDS_WANTED: usize = 64;
/// Entries fetched of one tree.
const FETCHES_MAX: usize = 2 * TREE_RECORDS_MAX;
/// Publishers whose newest tree is remembered.
const PUBLISHERS_MAX: usize = super::super::SEEDS_MAX;

/// What a walk has gathered.
#[derive(Default)]
struct Walk {
    records: Vec<Vec<u8>>,
    ttl_s: Option<u32>,
    validated: bool,
    missing: usize,
}

/// One TXT with what came along.
struct Text {
    text: String,
    ttl_s: u32,
    validated: bool,
}

impl Seeds {
    /// Reads the tree of a publisher, `NODEID@NAME`.
    pub(super) async fn ask_tree(
        &self,
        resolver: &DnsResolver,
        pinned: &str,
        now: UnixMs,
        draw: u64,
    ) -> Result<SeedAnswer, SeedError> {
        let bad = || SeedError::BadName(pinned.to_owned());
        let (publisher, zone) = pinned.split_once('@').ok_or_else(bad)?;
        let publisher: NodeId = publisher.parse().map_err(|_| bad())?;
        let (name, zone) = (domain(zone)?, zone.trim_end_matches('.'));
        let reader = Reader { resolver, verified: resolver.verify_anchor().await, name };
        let none = || SeedError::NoAnswer("the name has no signed tree".to_owned());
        let root_text = reader
            .texts(&below(tree::ROOT_LABEL, &reader.name)?)
            .await?
            .into_iter()
            .find(|text| tree::is_root(&text.text));
        let root_text = root_text.ok_or_else(none)?;
        let keys = reader.entry(&tree::keys_label(&root_text.text)?).await?.ok_or_else(none)?;
        let (network_magic, chain_id) = (self.checker.network_magic, self.checker.chain_id);
        let place = TreePlace { zone, network_magic, chain_id };
        let root = tree::verify_root(&root_text.text, &keys.text, publisher, place, now)?;
        self.check_sequence(publisher, root.sequence)?;
        let walk = Walk { ttl_s: Some(root_text.ttl_s), validated: root_text.validated, ..Walk::default() };
        let walk = reader.walk(root.root, walk, draw).await?;
        self.read_records(walk, now).await
    }

    /// A publisher's numbers never go back.
    fn check_sequence(&self, publisher: NodeId, actual: u64) -> Result<(), TreeError> {
        let mut trees = self.trees.lock();
        if trees.len() >= PUBLISHERS_MAX && !trees.contains_key(&publisher) {
            return Ok(());
        }
        let newest = trees.entry(publisher).or_insert(actual);
        if actual < *newest {
            return Err(TreeError::RolledBack { expected: *newest, actual });
        }
        *newest = actual;
        Ok(())
    }

    /// Checks the records off the runtime's threads.
    async fn read_records(&self, walk: Walk, now: UnixMs) -> Result<SeedAnswer, SeedError> {
        let (checker, nearest, count) = (self.checker.clone(), self.nearest, walk.records.len());
        let verify = move || {
            let good = walk.records.iter().filter_map(|record| pex::verify(record, &checker, now).ok());
            let told = good.map(|good| {
                let addresses = pex::usable_addresses(&good.record, nearest);
                (good.id, good.record, addresses)
            });
            told.filter(|(_, _, addresses)| !addresses.is_empty()).collect::<Vec<_>>()
        };
        let ended = |error: tokio::task::JoinError| SeedError::NoAnswer(error.to_string());
        let nodes = tokio::task::spawn_blocking(verify).await.map_err(ended)?;
        let addresses = nodes.iter().flat_map(|(_, _, addresses)| addresses.iter().copied()).collect();
        let left_out = count - nodes.len() + walk.missing;
        let (ttl_ms, validated) = (bounded_ttl_ms(walk.ttl_s), walk.validated);
        Ok(SeedAnswer { addresses, nodes, ttl_ms, left_out, validated })
    }
}

struct Reader<'a> {
    resolver: &'a DnsResolver,
    verified: bool,
    name: Name,
}

impl Reader<'_> {
    async fn texts(&self, name: &Name) -> Result<Vec<Text>, SeedError> {
        let answers = self.resolver.ask(name, RecordType::TXT, self.verified).await?;
        let validated = answers.validated;
        let read = |record: &hickory_resolver::proto::rr::Record| {
            Some(Text { text: text_of(&record.data)?, ttl_s: record.ttl, validated })
        };
        Ok(answers.records.iter().filter_map(read).collect())
    }

    /// The entry of a label; none where the zone has it not.
    async fn entry(&self, label: &str) -> Result<Option<Text>, SeedError> {
        let texts = self.texts(&below(label, &self.name)?).await?;
        Ok(texts.into_iter().find(|text| tree::label(&text.text) == label))
    }

    /// Fetches entries from the root down, in random order, until there are enough records or no more entries.
    async fn walk(&self, root: String, mut walk: Walk, draw: u64) -> Result<Walk, SeedError> {
        let mut rng = ChaCha8Rng::seed_from_u64(draw);
        let mut seen = BTreeSet::from([root.clone()]);
        let mut open = vec![(root, 0)];
        let (mut running, mut fetched) = (FuturesUnordered::new(), 0);
        loop {
            while running.len() < FETCHES_AT_ONCE && fetched < FETCHES_MAX && walk.records.len() < RECORDS_WANTED {
                if open.is_empty() {
                    break;
                }
                let (label, depth) = open.swap_remove(rng.random_range(0..open.len()));
                fetched += 1;
                running.push(async move { (self.entry(&label).await, label, depth) });
            }
            let Some((entry, label, depth)) = running.next().await else { return Ok(walk) };
            let Some(text) = entry? else {
                walk.missing += 1;
                continue;
            };
            walk.ttl_s = walk.ttl_s.min(Some(text.ttl_s));
            walk.validated &= text.validated;
            match tree::read_entry(&label, &text.text)? {
                Entry::Node(record) => walk.records.push(record),
                Entry::Branch(mut labels) if depth < TREE_DEPTH_MAX => {
                    labels.shuffle(&mut rng);
                    let fresh = labels.into_iter().filter(|label| seen.insert(label.clone()));
                    open.extend(fresh.map(|label| (label, depth + 1)));
                }
                Entry::Branch(labels) => walk.missing += labels.len(),
            }
        }
    }
}
