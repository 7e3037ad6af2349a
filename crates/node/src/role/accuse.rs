//! Hands evidence of equivocation in (CHN-13): what consensus found and kept becomes a transaction of this validator's account.
//!
//! Every validator finds much the same. One transaction is enough, so each waits its turn, in an order that differs from one
//! piece of evidence to the next, and hands nothing in about somebody who is out already. What nobody handed in while this
//! node was down is handed in when it is up again.

use crate::bridge::{connect, wallet};
use crate::chain::staking_of;
use crate::role::Base;
use eyre::Result;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use trellis_chain_finality::{Equivocation, ValidatorSet};
use trellis_chain_producer::Committees;
use trellis_chain_storage::{ReadError, Store};
use trellis_market_chain::{RpcChainClient, ValidatorsContract, Wallet};
use trellis_primitives::{Address, B256, Bytes, SharedClock, UnixMs, keccak256};

/// Between two looks at what consensus kept, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// How long each validator leaves the one before it in the order, in milliseconds: a block or two.
const TURN_MS: u64 = 3_000;
/// Turns after which a validator does not wait any longer.
const TURNS_MAX: u64 = 100;
/// Attempts to hand one piece in; what the contract refuses so often it will not take.
const ATTEMPTS_MAX: u32 = 5;

/// What the accuser counts.
#[derive(Clone, Default)]
pub struct AccuserMetrics {
    handed_in: Counter,
    failed: Counter,
}

impl AccuserMetrics {
    /// Adds every figure to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("chain_evidence_handed_in", "Evidence that this node handed in", self.handed_in.clone());
        registry.register("chain_evidence_failed", "Attempts to hand in that failed", self.failed.clone());
    }
}

/// What is needed to hand evidence in.
pub struct Accuser {
    store: Store,
    committees: Committees,
    contract: ValidatorsContract,
    client: Arc<RpcChainClient>,
    wallet: Wallet,
    clock: SharedClock,
    metrics: AccuserMetrics,
}

/// Evidence as it is kept: all that is there at the beginning, then only what is new.
struct Inbox {
    store: Store,
    fresh: Receiver<Bytes>,
    /// Whether all that is kept is to be read: at the beginning, and after more came at once than was held for this reader.
    all: bool,
    /// What could not be taken up yet.
    again: Vec<Bytes>,
}

impl Inbox {
    fn new(store: Store) -> Self {
        Self { fresh: store.subscribe_evidence(), store, all: true, again: Vec::new() }
    }

    /// What there is to take up; a piece may come more than once.
    fn look(&mut self) -> Vec<Bytes> {
        let mut found = std::mem::take(&mut self.again);
        loop {
            match self.fresh.try_recv() {
                Ok(rlp) => found.push(rlp),
                Err(TryRecvError::Lagged(_)) => self.all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if self.all {
            match self.store.evidence() {
                Ok(kept) => {
                    self.all = false;
                    found = kept;
                }
                Err(error) => tracing::warn!(%error, "the evidence kept cannot be read"),
            }
        }
        found
    }
}

/// A piece of evidence on its way.
struct Case {
    accused: Address,
    messages: (Bytes, Bytes),
    due: UnixMs,
    attempts: u32,
}

impl Accuser {
    /// For the validator that these belong to, with its own JSON-RPC; none on a chain without stake.
    ///
    /// # Errors
    /// Where the own JSON-RPC does not answer.
    pub async fn new(
        base: &Base,
        (store, committees): (Store, Committees),
        rpc: SocketAddr,
        metrics: AccuserMetrics,
    ) -> Result<Option<Self>> {
        let Some(address) = staking_of(&base.chain.spec) else { return Ok(None) };
        let client = connect(&base.chain, &[format!("http://{}", reachable(rpc))], Arc::clone(&base.clock)).await?;
        Ok(Some(Self {
            store,
            committees,
            contract: ValidatorsContract::new(address),
            wallet: wallet(client.clone(), &base.account)?,
            client,
            clock: Arc::clone(&base.clock),
            metrics,
        }))
    }

    /// Runs until dropped.
    pub async fn run(self) {
        let (mut cases, mut closed) = (BTreeMap::<B256, Case>::new(), BTreeSet::<B256>::new());
        let mut inbox = Inbox::new(self.store.clone());
        loop {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            for rlp in inbox.look() {
                let id = keccak256(&rlp);
                if cases.contains_key(&id) || closed.contains(&id) {
                    continue;
                }
                match self.case(&rlp, &id) {
                    Ok(Some(case)) => {
                        cases.insert(id, case);
                    }
                    Ok(None) => {
                        closed.insert(id);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the committee that evidence is about cannot be read");
                        inbox.again.push(rlp);
                    }
                }
            }
            let now = self.clock.now();
            let due: Vec<B256> = cases.iter().filter(|(_, case)| case.due <= now).map(|(id, _)| *id).collect();
            for id in due {
                let Some(case) = cases.get_mut(&id) else { continue };
                if self.hand_in(case).await {
                    cases.remove(&id);
                    closed.insert(id);
                }
            }
        }
    }

    /// What there is to do about a piece of evidence, if anything.
    fn case(&self, rlp: &[u8], id: &B256) -> Result<Option<Case>, ReadError> {
        let Ok(found) = alloy_rlp::decode_exact::<Equivocation>(rlp) else { return Ok(None) };
        let committee = match self.committees.of(found.height()) {
            Ok(committee) => committee,
            Err(error) if is_before(&error, self.store.first_height()?) => return Ok(None),
            Err(error @ ReadError::Damaged { .. }) => {
                tracing::error!(%error, height = found.height(), "evidence is left to others: its committee is lost here");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(accused) = committee.get(&found.validator()).map(|member| member.account) else { return Ok(None) };
        if accused == self.wallet.address() {
            // A plea of guilty is for the others to write.
            tracing::error!(
                "this validator's vote key has signed two messages for one place: does another node use it?"
            );
            return Ok(None);
        }
        let Some(messages) = found.testimony(&committee) else { return Ok(None) };
        tracing::warn!(%accused, "a validator has signed two messages for one place");
        let turn_ms = turn(&committee, self.wallet.address(), id).min(TURNS_MAX).saturating_mul(TURN_MS);
        Ok(Some(Case { accused, messages, due: self.clock.now().plus_ms(turn_ms), attempts: 0 }))
    }

    /// `true` when there is nothing left to do about a case.
    async fn hand_in(&self, case: &mut Case) -> bool {
        match self.contract.show(self.client.as_ref(), case.accused).await {
            Ok(Some(validator)) if validator.tombstoned => return true,
            Ok(None) => return true,
            Ok(Some(_)) => {}
            Err(error) => {
                tracing::debug!(%error, "the accused cannot be looked up");
                return false;
            }
        }
        let (first, second) = case.messages.clone();
        match self.contract.report_equivocation(&self.wallet, first, second).await {
            Ok(_) => {
                self.metrics.handed_in.inc();
                tracing::warn!(accused = %case.accused, "evidence handed in: the validator is slashed");
                true
            }
            Err(error) => {
                self.metrics.failed.inc();
                case.attempts = case.attempts.saturating_add(1);
                case.due = self.clock.now().plus_ms(TURN_MS);
                tracing::warn!(accused = %case.accused, %error, attempt = case.attempts, "evidence not taken");
                case.attempts >= ATTEMPTS_MAX
            }
        }
    }
}

/// Whether what cannot be read is of a block before the first that is held here: the chain began with a snapshot after it.
fn is_before(error: &ReadError, first_height: u64) -> bool {
    matches!(error, ReadError::Damaged { height, .. } if *height < first_height)
}

/// A socket to dial for a listener at any address.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

/// How many of a committee come before an account in handing a piece of evidence in. Who is not in it comes after all.
fn turn(committee: &ValidatorSet, account: Address, id: &B256) -> u64 {
    let place = |account: &Address| keccak256([account.as_slice(), id.as_slice()].concat());
    let own = place(&account);
    let sits = committee.validators().iter().any(|validator| validator.account == account);
    let before = committee.validators().iter().filter(|validator| !sits || place(&validator.account) < own).count();
    u64::try_from(before).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use trellis_chain_finality::Validator;

    // row: CHN-13
    #[test]
    fn each_validator_has_a_turn_of_its_own_and_strangers_come_last() {
        let account = |number: u8| Address::repeat_byte(number);
        let one = |number: u8| {
            let seed = [number; 32];
            Validator::new(trellis_crypto::VoteKey::from_seed(&seed).public(), 1, account(number))
        };
        let committee = ValidatorSet::new((1..=4).map(one).collect()).unwrap();
        let turns = |id: &B256| (1..=4).map(|number| turn(&committee, account(number), id)).collect::<Vec<_>>();
        let (first, second) = (turns(&B256::repeat_byte(1)), turns(&B256::repeat_byte(2)));
        for turns in [&first, &second] {
            let mut sorted = turns.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
        assert_ne!(first, second, "the order is another one each time");
        assert_eq!(turn(&committee, account(9), &B256::repeat_byte(1)), 4);
    }

    // row: CHN-13
    #[test]
    fn evidence_is_read_once_and_then_only_what_is_new() {
        use trellis_chain_storage::{Genesis, StateDiff, state_root_of};
        use trellis_primitives::{Block, CommitCertificate, ConsensusSection, Header};
        let header = Header { state_root: state_root_of(&StateDiff::default()), ..Header::default() };
        let block = Block { header, transactions: Vec::new(), section: ConsensusSection::default() };
        let genesis = Genesis { block, state: StateDiff::default() };
        let store = Store::in_memory(&genesis).unwrap();
        let keep = |pieces: std::ops::Range<u64>| {
            let block_hash = genesis.hash();
            let certificate = CommitCertificate { height: 0, round: 0, block_hash, signatures: Vec::new() };
            let pieces: Vec<Bytes> = pieces.map(|number| number.to_be_bytes().to_vec().into()).collect();
            store.amend(&certificate, &pieces).unwrap();
        };
        keep(0..2);
        let mut inbox = Inbox::new(store.clone());
        assert_eq!(inbox.look().len(), 2);
        assert!(inbox.look().is_empty());
        keep(0..3);
        assert_eq!(inbox.look(), [Bytes::from(2u64.to_be_bytes().to_vec())], "what was kept before is not new");
        inbox.again.push(Bytes::from_static(b"later"));
        assert_eq!(inbox.look(), [Bytes::from_static(b"later")]);
        keep(3..1_003);
        assert_eq!(inbox.look().len(), 1_003, "a reader that was left behind reads all of it");
        assert!(inbox.look().is_empty());
    }

    // row: CHN-13
    #[test]
    fn only_what_is_older_than_the_first_block_held_here_is_missing_rightly() {
        let damaged = |height| ReadError::Damaged { height, what: "missing".to_owned() };
        assert!(is_before(&damaged(99), 100));
        assert!(!is_before(&damaged(100), 100), "a block that was held and is damaged is told of");
        assert!(!is_before(&damaged(1), 0), "a chain held from its beginning lacks nothing");
        assert!(!is_before(&ReadError::Database("full".to_owned()), 100));
    }

    #[test]
    fn a_listener_at_every_address_is_dialled_at_loopback() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:8545"), "127.0.0.1:8545");
        assert_eq!(of("[::]:8545"), "[::1]:8545");
        assert_eq!(of("10.0.0.1:8545"), "10.0.0.1:8545");
    }
}
