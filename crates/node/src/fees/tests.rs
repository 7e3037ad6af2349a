use super::*;
use crate::chain::{Chain, staking_of};
use crate::keys::dev_account;
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy_sol_types::SolCall;
use trellis_chain_execution::{BlockAttributes, Executor};
use trellis_chain_storage::Store;
use trellis_contracts::payment_channels::PaymentChannels;
use trellis_contracts::validator_staking::ValidatorStaking;
use trellis_contracts::wtrl::WTRL;
use trellis_primitives::{ConsensusSection, RecoveredTx, TxEnvelope};

const TRL: u128 = WEI_PER_TRL;
/// Enough for each.
const GAS_LIMIT: u64 = 1_000_000;
/// The account that acts; it has done nothing before.
const ACTOR: u32 = 0;

struct Call {
    to: Address,
    wei: u128,
    input: Bytes,
}

/// A dev chain, and transactions of one account on it.
struct Played {
    chain: Chain,
    store: Store,
    executor: Executor,
    nonce: u64,
}

impl Played {
    fn new() -> Self {
        let chain = Chain::load("dev").unwrap();
        let (store, executor) = (Store::in_memory(&chain.genesis).unwrap(), Executor::new(chain.execution()));
        Self { chain, store, executor, nonce: 0 }
    }

    fn signed(&mut self, call: Call) -> RecoveredTx {
        let key = dev_account(ACTOR).unwrap();
        let tx = TxEip1559 {
            chain_id: self.chain.spec.genesis.chain_id,
            nonce: self.nonce,
            gas_limit: if call.input.is_empty() { 21_000 } else { GAS_LIMIT },
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 1_000_000,
            to: TxKind::Call(call.to),
            value: U256::from(call.wei),
            input: call.input,
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let signature = Signature::from_raw(&key.sign_hash(tx.signature_hash())).unwrap();
        let tx: TxEnvelope = tx.into_signed(signature).into();
        RecoveredTx::new(tx, key.address())
    }

    /// Executes a block of these calls; the gas that each used.
    fn block(&mut self, calls: Vec<Call>) -> Vec<u64> {
        let txs: Vec<RecoveredTx> = calls.into_iter().map(|call| self.signed(call)).collect();
        let count = txs.len();
        let time_ms = self.chain.spec.genesis.timestamp_ms + 1_000 * (self.store.height() + 1);
        let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
        let attributes = BlockAttributes { beneficiary: Address::ZERO, section, extra_data: Bytes::new() };
        let mut candidates = txs.into_iter();
        let built = self.executor.build_block(&self.store.head(), attributes, None, &mut candidates).unwrap();
        let receipts = built.executed.receipts.clone();
        assert_eq!(receipts.len(), count, "{:?}", built.skipped.len());
        self.store.commit(built.executed, None).unwrap();
        let mut before = 0;
        receipts
            .iter()
            .map(|receipt| {
                assert!(receipt.success, "a call failed");
                let after = receipt.cumulative_gas_used;
                after - std::mem::replace(&mut before, after)
            })
            .collect()
    }
}

fn gas_of(name: &str) -> u64 {
    ACTIONS.iter().find(|action| action.name == name).unwrap().gas
}

fn channel(payee: Address, token: Address, expiry: u64) -> Bytes {
    let terms = PaymentChannels::Terms {
        payee,
        payout: payee,
        signer: Address::repeat_byte(0x51),
        token,
        challengePeriodSeconds: 10,
        expiry,
        salt: B256::repeat_byte(1),
    };
    PaymentChannels::openCall { terms, deposit: 10 * TRL }.abi_encode().into()
}

// row: CHN-54
#[test]
fn the_gas_of_each_action_is_what_its_transaction_takes() {
    let mut played = Played::new();
    let contracts = played.chain.contracts;
    let staking = staking_of(&played.chain.spec).unwrap();
    let validator = played.chain.spec.genesis.validators[0].account;
    let expiry = played.chain.spec.genesis.timestamp_ms / 1_000 + 1_000_000;
    let approve = WTRL::approveCall { spender: contracts.payment_channels, value: U256::MAX };
    played.block(vec![
        Call { to: contracts.wtrl, wei: 100 * TRL, input: WTRL::depositCall {}.abi_encode().into() },
        Call { to: contracts.wtrl, wei: 0, input: approve.abi_encode().into() },
    ]);
    let stranger = Address::repeat_byte(0xee);
    let transfer = WTRL::transferCall { to: stranger, value: U256::from(TRL) };
    let delegate = ValidatorStaking::delegateCall { validator };
    let gas = played.block(vec![
        Call { to: stranger, wei: TRL, input: Bytes::new() },
        Call { to: contracts.wtrl, wei: 0, input: transfer.abi_encode().into() },
        Call { to: contracts.payment_channels, wei: 0, input: channel(stranger, contracts.wtrl, expiry) },
        Call { to: staking, wei: TRL, input: delegate.abi_encode().into() },
    ]);
    let expected = ["native_transfer", "erc20_transfer", "channel_open", "stake"].map(gas_of);
    assert_eq!(gas, expected, "the executor's figure is the left one; see ACTIONS");
    // Votes are measured by the contracts' own tests, on a governor of the blocks that a DAO will have.
    let snapshot: serde_json::Value =
        serde_json::from_str(include_str!("../../../../contracts/snapshots/vote.json")).unwrap();
    assert_eq!(snapshot["castVote"], gas_of("vote").to_string());
}

// row: CHN-54
#[test]
fn at_the_stated_price_each_action_costs_less_than_a_cent() {
    let spec = trellis_chain_spec::ChainSpec::dev();
    let gas_price_wei = u128::from(spec.gas.base_fee_floor_wei) + trellis_rpc::TIP_WEI_MIN;
    let prices = Prices { gas_price_wei, trl_usd: trl_price_usd(TRL_PRICE_USD_DEFAULT).unwrap() };
    for action in &ACTIONS {
        let usd = prices.usd(action.gas);
        assert!(usd > 0.0 && usd < FEE_USD_MAX, "{}: {usd} dollars", action.name);
    }
    // A hundredfold price, or a hundredfold base fee, and it still holds.
    assert!(prices.trl_usd_max() > 10.0, "{}", prices.trl_usd_max());
}

#[test]
fn a_fee_is_gas_times_its_price_times_the_price_of_a_trl() {
    let prices = Prices { gas_price_wei: 2_000_000_000, trl_usd: 0.5 };
    assert!((prices.trl(21_000) - 0.000_042).abs() < 1e-12);
    assert!((prices.usd(21_000) - 0.000_021).abs() < 1e-12);
    let dearest = ACTIONS.iter().map(|action| action.gas).max().unwrap();
    assert!((Prices { trl_usd: prices.trl_usd_max(), ..prices }.usd(dearest) - FEE_USD_MAX).abs() < 1e-12);
}

#[test]
fn a_price_is_a_number_above_zero() {
    assert!((trl_price_usd("0.25").unwrap() - 0.25).abs() < f64::EPSILON);
    for wrong in ["0", "-1", "nan", "inf", "1e10", "ten", ""] {
        assert!(trl_price_usd(wrong).is_err(), "{wrong}");
    }
}

// row: CHN-54
#[test]
fn the_metric_has_a_figure_for_each_action() {
    let mut registry = Registry::default();
    let gauges = FeeGauges::register(&mut registry);
    gauges.show(&Prices { gas_price_wei: 1_000_000_000, trl_usd: 0.1 });
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for action in &ACTIONS {
        let label = format!("chain_gas_cost_usd{{action=\"{}\"}} ", action.name);
        let figure = text.lines().find_map(|line| line.strip_prefix(&label)).unwrap_or_else(|| panic!("{text}"));
        let expected = 1e-10 * f64::from(u32::try_from(action.gas).unwrap());
        assert!((figure.parse::<f64>().unwrap() - expected).abs() < 1e-12, "{figure}, expected {expected}");
    }
}
