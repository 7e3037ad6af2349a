use super::*;
use crate::config::{TX_BYTES_MAX, TX_GAS_MAX};
use alloy_consensus::{SignableTransaction, TxEip1559, TxEip4844, TxEip7702, TxLegacy};
use alloy_primitives::{Bytes, Signature, TxKind};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

const GWEI: u128 = 1_000_000_000;
const CHAIN: u64 = 97_001;

fn signature(salt: u64) -> Signature {
    Signature::new(U256::from(salt.saturating_add(1)), U256::from(1), false)
}

fn address(number: u8) -> Address {
    Address::with_last_byte(number)
}

#[derive(Clone)]
struct Draft {
    sender: u8,
    nonce: u64,
    fee: u128,
    tip: u128,
    gas: u64,
    value: u128,
    input: Bytes,
    salt: u64,
}

fn draft(sender: u8, nonce: u64) -> Draft {
    Draft { sender, nonce, fee: 10 * GWEI, tip: GWEI, gas: 21_000, value: 0, input: Bytes::new(), salt: 0 }
}

impl Draft {
    fn tip(self, tip: u128) -> Self {
        Self { tip, ..self }
    }
    fn fees(self, fee: u128, tip: u128) -> Self {
        Self { fee, tip, ..self }
    }
    fn build(self) -> RecoveredTx {
        let tx = TxEip1559 {
            chain_id: CHAIN,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.fee,
            max_priority_fee_per_gas: self.tip,
            to: TxKind::Call(address(0)),
            value: U256::from(self.value),
            input: self.input,
            ..Default::default()
        };
        RecoveredTx::new(
            tx.into_signed(signature(self.salt * 256 + u64::from(self.sender))).into(),
            address(self.sender),
        )
    }
}

fn rich(nonce: u64) -> AccountState {
    AccountState { nonce, balance: U256::from(10).pow(U256::from(24)) }
}

fn config() -> PoolConfig {
    PoolConfig::new(CHAIN)
}

fn pool() -> PoolState {
    let mut pool = PoolState::new(config());
    pool.set_head(GWEI as u64, 400_000_000);
    pool
}

fn put(pool: &mut PoolState, tx: RecoveredTx) -> Result<Inserted, PoolError> {
    put_at(pool, tx, rich(0), UnixMs(0))
}

fn put_at(pool: &mut PoolState, tx: RecoveredTx, account: AccountState, now: UnixMs) -> Result<Inserted, PoolError> {
    check_stateless(pool.config(), &tx)?;
    pool.insert(tx, account, now)
}

fn nonces(pool: &PoolState) -> Vec<(u8, u64)> {
    use alloy_consensus::Transaction;
    pool.best(pool.base_fee(), pool.gas_limit()).map(|tx| (tx.sender.0[19], tx.tx.nonce())).collect()
}

// row: CHN-24
#[test]
fn the_best_tip_goes_first_and_each_sender_stays_in_nonce_order() {
    let mut pool = pool();
    put(&mut pool, draft(1, 0).tip(2 * GWEI).build()).unwrap();
    put(&mut pool, draft(1, 1).tip(9 * GWEI).build()).unwrap();
    put(&mut pool, draft(2, 0).tip(3 * GWEI).build()).unwrap();
    put(&mut pool, draft(3, 0).tip(2 * GWEI).build()).unwrap();
    assert_eq!(nonces(&pool), [(2, 0), (1, 0), (1, 1), (3, 0)]);
}

#[test]
fn a_gap_waits_and_what_fills_it_releases_the_rest() {
    let mut pool = pool();
    let third = draft(1, 2).build();
    assert!(put(&mut pool, third.clone()).unwrap().promoted.is_empty());
    put(&mut pool, draft(1, 0).build()).unwrap();
    assert_eq!(nonces(&pool), [(1, 0)]);
    assert_eq!(pool.status(), PoolStatus { pending: 1, queued: 1, bytes: pool.status().bytes });
    assert_eq!(pool.pending_nonce(&address(1)), Some(1));
    let second = draft(1, 1).build();
    assert_eq!(put(&mut pool, second.clone()).unwrap().promoted, [second.hash, third.hash]);
    assert_eq!(nonces(&pool), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(pool.pending_nonce(&address(1)), Some(3));
}

#[test]
fn a_sender_that_the_builder_skips_yields_nothing_more() {
    let mut pool = pool();
    for nonce in 0..3 {
        put(&mut pool, draft(1, nonce).tip(3 * GWEI).build()).unwrap();
    }
    put(&mut pool, draft(2, 0).build()).unwrap();
    let mut best = pool.best(pool.base_fee(), pool.gas_limit());
    assert_eq!(best.next().unwrap().sender, address(1));
    best.skip_sender();
    assert_eq!(best.map(|tx| tx.sender).collect::<Vec<_>>(), [address(2)]);
}

#[test]
fn what_cannot_pay_the_base_fee_is_kept_but_not_offered() {
    let mut pool = pool();
    put(&mut pool, draft(1, 0).fees(5 * GWEI, GWEI).build()).unwrap();
    pool.set_head(6 * GWEI as u64, 400_000_000);
    assert!(nonces(&pool).is_empty());
    pool.set_head(5 * GWEI as u64, 400_000_000);
    assert_eq!(nonces(&pool), [(1, 0)]);
}

// row: CHN-24
#[test]
fn a_replacement_offers_ten_percent_more_in_both_fees() {
    let mut pool = pool();
    let old = draft(1, 0).fees(10 * GWEI, GWEI).build();
    put(&mut pool, old.clone()).unwrap();
    for (fee, tip) in
        [(11 * GWEI, GWEI), (10 * GWEI, 2 * GWEI), (11 * GWEI - 1, 2 * GWEI), (11 * GWEI, 11 * GWEI / 10 - 1)]
    {
        let refused = put(&mut pool, draft(1, 0).fees(fee, tip).build()).unwrap_err();
        assert!(refused.to_string().starts_with("replacement transaction underpriced"), "{refused}");
    }
    let new = draft(1, 0).fees(11 * GWEI, 11 * GWEI / 10).build();
    let inserted = put(&mut pool, new.clone()).unwrap();
    assert_eq!(inserted.replaced, Some(old.hash));
    assert_eq!(inserted.promoted, [new.hash]);
    assert!(pool.get(&old.hash).is_none());
    assert_eq!(pool.status().pending, 1);
    assert_eq!(pool.status().bytes, new.encoded_bytes);
}

// row: CHN-24
#[test]
fn refusals_speak_as_ethereum_does() {
    let refused = |tx: RecoveredTx, account: AccountState| {
        let mut pool = pool();
        put_at(&mut pool, tx, account, UnixMs(0)).unwrap_err().to_string()
    };
    let legacy = |chain_id| {
        let tx = TxLegacy { chain_id, gas_price: GWEI, gas_limit: 21_000, ..Default::default() };
        RecoveredTx::new(tx.into_signed(signature(0)).into(), address(1))
    };
    let poor = AccountState { nonce: 0, balance: U256::from(21_000 * 10 * GWEI - 1) };
    assert_eq!(refused(draft(1, 3).build(), rich(5)), "nonce too low: next nonce 5, tx nonce 3");
    assert_eq!(
        refused(draft(1, 5_000).build(), rich(5)),
        "nonce too high: next nonce 5, tx nonce 5000, at most 1024 ahead"
    );
    assert_eq!(refused(draft(1, u64::MAX).build(), rich(0)), "nonce has max value");
    assert_eq!(
        refused(draft(1, 0).build(), poor),
        "insufficient funds for gas * price + value: balance 209999999999999, tx cost 210000000000000, overshot 1"
    );
    let small = Draft { gas: 20_999, ..draft(1, 0) };
    assert_eq!(refused(small.build(), rich(0)), "intrinsic gas too low: gas 20999, minimum needed 21000");
    let floor = Draft { gas: 30_000, input: vec![1; 500].into(), ..draft(1, 0) };
    assert_eq!(
        refused(floor.build(), rich(0)),
        "insufficient gas for floor data gas cost: gas 30000, minimum needed 41000"
    );
    let thirsty = Draft { gas: TX_GAS_MAX + 1, ..draft(1, 0) };
    assert_eq!(refused(thirsty.build(), rich(0)), "transaction gas limit too high (cap: 16777216, tx: 16777217)");
    assert_eq!(
        refused(draft(1, 0).fees(GWEI, 2 * GWEI).build(), rich(0)),
        "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: 2000000000, maxFeePerGas: 1000000000"
    );
    assert_eq!(
        refused(draft(1, 0).fees(GWEI - 1, 0).build(), rich(0)),
        "transaction underpriced: maxFeePerGas 999999999, minimum needed 1000000000"
    );
    let long = Draft { gas: TX_GAS_MAX, input: vec![0; TX_BYTES_MAX].into(), ..draft(1, 0) };
    assert!(refused(long.build(), rich(0)).starts_with("oversized data: transaction size 1311"));
    assert_eq!(refused(legacy(Some(1)), rich(0)), "invalid chain id for signer: have 1 want 97001");
    assert_eq!(refused(legacy(None), rich(0)), "only replay-protected (EIP-155) transactions allowed over RPC");
    let blob = TxEip4844 { chain_id: CHAIN, ..Default::default() };
    let blob = RecoveredTx::new(
        alloy_consensus::EthereumTxEnvelope::Eip4844(
            alloy_consensus::TxEip4844Variant::from(blob).into_signed(signature(0)),
        ),
        address(1),
    );
    assert_eq!(refused(blob, rich(0)), "transaction type not supported: type 3");
    let empty = TxEip7702 { chain_id: CHAIN, ..Default::default() }.into_signed(signature(0));
    assert_eq!(
        refused(RecoveredTx::new(empty.into(), address(1)), rich(0)),
        "set code transaction with empty auth list"
    );
    let costly = draft(1, 0).fees(u128::MAX, 0).build();
    assert!(refused(costly, rich(0)).starts_with("insufficient funds for gas * price + value: balance"));
}

#[test]
fn a_creation_with_too_long_code_is_refused() {
    let tx = TxEip1559 {
        chain_id: CHAIN,
        gas_limit: TX_GAS_MAX,
        max_fee_per_gas: GWEI,
        to: TxKind::Create,
        input: vec![0; crate::INITCODE_BYTES_MAX + 1].into(),
        ..Default::default()
    };
    let tx = RecoveredTx::new(tx.into_signed(signature(0)).into(), address(1));
    let refused = put(&mut pool(), tx).unwrap_err();
    assert_eq!(refused.to_string(), "max initcode size exceeded: code size 49153, limit 49152");
}

#[test]
fn the_same_transaction_twice_is_already_known() {
    let mut pool = pool();
    put(&mut pool, draft(1, 0).build()).unwrap();
    assert_eq!(put(&mut pool, draft(1, 0).build()).unwrap_err().to_string(), "already known");
}

#[test]
fn a_transaction_over_the_blocks_gas_is_refused() {
    let mut pool = pool();
    pool.set_head(GWEI as u64, 100_000);
    let refused = put(&mut pool, Draft { gas: 100_001, ..draft(1, 0) }.build()).unwrap_err();
    assert!(refused.to_string().starts_with("exceeds block gas limit"));
}

#[test]
fn the_balance_covers_all_that_waits() {
    let mut pool = pool();
    let cost = U256::from(21_000 * 10 * GWEI);
    let account = AccountState { nonce: 0, balance: cost * U256::from(2) };
    put_at(&mut pool, draft(1, 0).build(), account, UnixMs(0)).unwrap();
    put_at(&mut pool, draft(1, 1).build(), account, UnixMs(0)).unwrap();
    let refused = put_at(&mut pool, draft(1, 2).build(), account, UnixMs(0)).unwrap_err();
    assert!(matches!(refused, PoolError::InsufficientFundsQueued { .. }), "{refused}");
    assert!(refused.to_string().starts_with("insufficient funds for gas * price + value"));
    // The money goes elsewhere: what is no longer covered waits, and comes back with the money.
    pool.set_account(address(1), AccountState { nonce: 0, balance: cost });
    assert_eq!(nonces(&pool), [(1, 0)]);
    let (promoted, gone) = pool.set_account(address(1), account);
    assert_eq!((promoted.len(), gone), (1, 0));
}

#[test]
fn a_sender_has_a_limit_of_its_own() {
    let mut pool = PoolState::new(PoolConfig { txs_per_sender_max: 2, ..config() });
    put(&mut pool, draft(1, 0).build()).unwrap();
    put(&mut pool, draft(1, 1).build()).unwrap();
    let refused = put(&mut pool, draft(1, 2).build()).unwrap_err();
    assert!(refused.to_string().starts_with("account limit exceeded"));
    put(&mut pool, draft(1, 1).fees(20 * GWEI, 2 * GWEI).build()).unwrap();
    put(&mut pool, draft(2, 0).build()).unwrap();
}

// row: CHN-24
#[test]
fn a_flood_of_cheap_transactions_does_not_push_out_those_that_pay() {
    let mut pool = PoolState::new(PoolConfig { txs_max: 100, ..config() });
    pool.set_head(GWEI as u64, 400_000_000);
    for sender in 0..50 {
        put(&mut pool, draft(sender, 0).tip(5 * GWEI).build()).unwrap();
    }
    let mut refused = 0;
    for sender in 50..250 {
        for nonce in 0..20 {
            refused += usize::from(put(&mut pool, draft(sender, nonce).tip(GWEI).build()).is_err());
        }
    }
    assert!(refused > 1_000, "{refused}");
    assert!((98..=100).contains(&(pool.status().pending + pool.status().queued)));
    let paying = nonces(&pool).into_iter().take(50).filter(|(sender, _)| *sender < 50).count();
    assert_eq!(paying, 50);
    for nonce in 0..3 {
        put(&mut pool, draft(255, nonce).tip(2 * GWEI).build()).unwrap();
    }
}

// row: CHN-24
#[test]
fn what_is_asked_of_others_follows_what_last_left_a_full_pool() {
    let mut pool = PoolState::new(PoolConfig { txs_max: 10, ..config() });
    pool.set_head(GWEI as u64, 400_000_000);
    let floor = pool.config().min_fee_wei;
    for sender in 0..10 {
        put(&mut pool, draft(sender, 0).fees(100 * GWEI, (2 + u128::from(sender)) * GWEI).build()).unwrap();
    }
    assert_eq!(pool.fee_filter(), FeeFilter { fee_min_wei: floor, tip_min_wei: 0 }, "full, but nobody had to leave");
    put(&mut pool, draft(20, 0).fees(100 * GWEI, 50 * GWEI).build()).unwrap();
    assert_eq!(pool.fee_filter().tip_min_wei, 2 * GWEI + 1);
    // What the filter lets through is taken, what it does not is refused.
    assert!(put(&mut pool, draft(21, 0).tip(2 * GWEI).build()).is_err());
    put(&mut pool, draft(22, 0).fees(100 * GWEI, 3 * GWEI + 1).build()).unwrap();
    assert_eq!(pool.fee_filter().tip_min_wei, 3 * GWEI + 1);
    for sender in [5, 6, 7] {
        pool.set_account(address(sender), rich(1));
    }
    assert_eq!(pool.fee_filter().tip_min_wei, 0, "there is room");
    // What was asked before is forgotten with the room, though the pool fills up again.
    for sender in 30..33 {
        put(&mut pool, draft(sender, 0).tip(GWEI).build()).unwrap();
    }
    assert_eq!((pool.status().pending, pool.fee_filter().tip_min_wei), (10, 0));
}

#[test]
fn gapped_transactions_leave_a_full_pool_before_those_that_can_run() {
    let mut pool = PoolState::new(PoolConfig { txs_max: 10, ..config() });
    pool.set_head(GWEI as u64, 400_000_000);
    for sender in 0..5 {
        put(&mut pool, draft(sender, 7).tip(9 * GWEI).build()).unwrap();
    }
    for sender in 10..20 {
        put(&mut pool, draft(sender, 0).tip(GWEI).build()).unwrap();
    }
    assert_eq!(pool.status().queued, 0);
    assert_eq!(pool.status().pending, 10);
}

#[test]
fn what_waits_too_long_expires() {
    let mut pool = PoolState::new(PoolConfig { lifetime_ms: 1_000, ..config() });
    put_at(&mut pool, draft(1, 0).build(), rich(0), UnixMs(0)).unwrap();
    put_at(&mut pool, draft(1, 1).build(), rich(0), UnixMs(500)).unwrap();
    assert_eq!(pool.expire(UnixMs(999)), 0);
    assert_eq!(pool.expire(UnixMs(1_000)), 1);
    assert_eq!(pool.status(), PoolStatus { pending: 0, queued: 1, bytes: pool.status().bytes });
    assert_eq!(pool.expire(UnixMs(1_500)), 1);
    assert_eq!(pool.status(), PoolStatus::default());
}

#[derive(Clone, Debug)]
enum Step {
    Add { sender: u8, nonce: u64, fee: u64, tip: u64, salt: u64, input: usize },
    Account { sender: u8, nonce: u64, balance: u64 },
    Head { base_fee: u64 },
    Remove { pick: usize },
    Time { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..6, 0u64..12, 1u64..40, 0u64..40, 0u64..3, 0usize..200)
            .prop_map(|(sender, nonce, fee, tip, salt, input)| Step::Add { sender, nonce, fee, tip, salt, input }),
        1 => (0u8..6, 0u64..12, 0u64..20).prop_map(|(sender, nonce, balance)| Step::Account { sender, nonce, balance }),
        1 => (1u64..30).prop_map(|base_fee| Step::Head { base_fee }),
        1 => any::<usize>().prop_map(|pick| Step::Remove { pick }),
        1 => (0u64..400).prop_map(|ms| Step::Time { ms }),
    ]
}

struct World {
    pool: PoolState,
    accounts: BTreeMap<u8, AccountState>,
    now: UnixMs,
}

impl World {
    fn account(&self, sender: u8) -> AccountState {
        self.accounts.get(&sender).copied().unwrap_or_else(|| rich(0))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add { sender, nonce, fee, tip, salt, input } => {
                let draft = Draft {
                    fee: u128::from(fee) * GWEI,
                    tip: u128::from(tip.min(fee)) * GWEI,
                    gas: 100_000,
                    input: vec![0; input].into(),
                    salt,
                    ..draft(sender, nonce)
                };
                let tx = draft.build();
                let held_before = self.pool.get(&tx.hash).is_some();
                let account = self.account(sender);
                match put_at(&mut self.pool, tx.clone(), account, self.now) {
                    Ok(inserted) => {
                        assert!(self.pool.get(&tx.hash).is_some());
                        assert!(inserted.replaced.is_none_or(|old| self.pool.get(&old).is_none()));
                    }
                    Err(PoolError::AlreadyKnown) => assert!(held_before),
                    Err(_) => assert!(held_before || self.pool.get(&tx.hash).is_none()),
                }
            }
            Step::Account { sender, nonce, balance } => {
                let balance = U256::from(balance) * U256::from(100_000 * 10 * GWEI);
                let account = AccountState { nonce, balance };
                self.accounts.insert(sender, account);
                self.pool.set_account(address(sender), account);
            }
            Step::Head { base_fee } => self.pool.set_head(base_fee * GWEI as u64, 400_000_000),
            Step::Remove { pick } => {
                let hashes: Vec<B256> = self.pool.by_hash.keys().copied().collect();
                if let Some(hash) = hashes.get(pick % hashes.len().max(1)) {
                    self.pool.remove(hash);
                }
            }
            Step::Time { ms } => {
                self.now = self.now.plus_ms(ms);
                self.pool.expire(self.now);
            }
        }
    }

    fn check(&self) {
        use alloy_consensus::Transaction;
        let (pool, config) = (&self.pool, self.pool.config());
        let status = pool.status();
        let all: Vec<Arc<PooledTx>> = pool.senders.values().flat_map(|queue| queue.all().cloned()).collect();
        assert_eq!(all.len(), pool.by_hash.len());
        assert!(all.len() <= config.txs_max);
        assert_eq!(status.bytes, all.iter().map(|tx| tx.tx.encoded_bytes).sum::<usize>());
        assert!(status.bytes <= config.bytes_max);
        assert!(pool.senders.values().all(|queue| !queue.is_empty() && queue.len() <= config.txs_per_sender_max));
        assert!(all.iter().all(|tx| self.now.ms_since(tx.arrived) < config.lifetime_ms));
        assert!(pool.arrivals.len() <= 2 * all.len() + ARRIVALS_SLACK_ENTRIES + 1);
        let runs: usize = pool.senders.values().map(|queue| queue.run().count()).sum();
        assert_eq!(runs, status.pending);

        // What is offered: never a gap, never under the base fee, never more than the balance, nothing twice.
        let mut next: BTreeMap<Address, u64> = BTreeMap::new();
        let mut spent: BTreeMap<Address, U256> = BTreeMap::new();
        let mut seen = HashSet::new();
        for tx in pool.best(pool.base_fee(), pool.gas_limit()) {
            assert!(seen.insert(tx.hash));
            assert!(pool.get(&tx.hash).is_some());
            let account = self.account(tx.sender.0[19]);
            let expected = next.entry(tx.sender).or_insert(account.nonce);
            assert_eq!(tx.tx.nonce(), *expected);
            *expected += 1;
            assert!(tx.tx.max_fee_per_gas() >= u128::from(pool.base_fee()));
            let cost = U256::from(tx.tx.max_fee_per_gas()) * U256::from(tx.tx.gas_limit());
            let spent = spent.entry(tx.sender).or_default();
            *spent += cost;
            assert!(*spent <= account.balance);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    // row: CHN-24
    #[test]
    fn no_history_makes_the_pool_offer_a_gap_or_pass_a_bound(steps in proptest::collection::vec(step(), 1..120)) {
        let config = PoolConfig {
            txs_max: 24, bytes_max: 4_000, txs_per_sender_max: 6, nonce_ahead_max: 10, lifetime_ms: 1_000, ..config()
        };
        let mut pool = PoolState::new(config);
        pool.set_head(GWEI as u64, 400_000_000);
        let mut world = World { pool, accounts: BTreeMap::new(), now: UnixMs(0) };
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}
