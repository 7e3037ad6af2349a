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
use trellis_chain_finality::{Equivocation, ValidatorSet};
use trellis_chain_producer::Committees;
use trellis_chain_storage::Store;
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
        loop {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            self.look(&mut cases, &mut closed);
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

    /// Takes up what consensus has kept since.
    fn look(&self, cases: &mut BTreeMap<B256, Case>, closed: &mut BTreeSet<B256>) {
        let kept = match self.store.evidence() {
            Ok(kept) => kept,
            Err(error) => return tracing::warn!(%error, "the evidence kept cannot be read"),
        };
        for rlp in kept {
            let id = keccak256(&rlp);
            if cases.contains_key(&id) || closed.contains(&id) {
                continue;
            }
            let case = alloy_rlp::decode_exact::<Equivocation>(&rlp).ok().and_then(|found| {
                let committee = self.committees.of(found.height()).ok()?;
                let accused = committee.get(&found.validator())?.account;
                let turn_ms = turn(&committee, self.wallet.address(), &id).min(TURNS_MAX).saturating_mul(TURN_MS);
                let due = self.clock.now().plus_ms(turn_ms);
                Some(Case { accused, messages: found.testimony(&committee)?, due, attempts: 0 })
            });
            match case {
                // A plea of guilty is for the others to write.
                Some(case) if case.accused == self.wallet.address() => {
                    tracing::error!(
                        "this validator's vote key has signed two messages for one place: does another node use it?"
                    );
                    closed.insert(id);
                }
                Some(case) => {
                    tracing::warn!(accused = %case.accused, "a validator has signed two messages for one place");
                    cases.insert(id, case);
                }
                None => {}
            }
        }
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

    #[test]
    fn a_listener_at_every_address_is_dialled_at_loopback() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:8545"), "127.0.0.1:8545");
        assert_eq!(of("[::]:8545"), "[::1]:8545");
        assert_eq!(of("10.0.0.1:8545"), "10.0.0.1:8545");
    }
}
