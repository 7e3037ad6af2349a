//! What a genesis executes, in order, so that a chain has the contracts; and where they then are.
//!
//! All steps are sent by one deployer with consecutive nonces: WTRL, FeePool, PaymentChannels, Settlement,
//! ProviderStaking, then `FeePool.initialize`. Addresses follow from deployer and nonce (CREATE).

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolConstructor};

use crate::fee_pool::FeePool;
use crate::payment_channels::PaymentChannels;
use crate::provider_staking::ProviderStaking;
use crate::settlement::Settlement;
use crate::wtrl::WTRL;

/// One TRL in wei.
pub const TRL_WEI: u128 = 1_000_000_000_000_000_000;
/// Fee on payouts of a development chain, in hundredths of a percent.
pub const DEV_FEE_BPS: u16 = 0;
/// Fee on payouts of a test network, in hundredths of a percent.
pub const TESTNET_FEE_BPS: u16 = 100;

/// One tier of providers' stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Least active stake, in wei of WTRL.
    pub min_stake_wei: u128,
    /// Least stake-weighted age, in seconds.
    pub min_age_seconds: u64,
}

/// What the constructors take. Times in seconds, amounts in wei, shares in hundredths of a percent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Owner of FeePool and ProviderStaking: sets the distributor and the slasher. A timelock on a public chain.
    pub owner: Address,
    /// Fee on every payout of a channel.
    pub fee_bps: u16,
    /// Length of FeePool's epoch.
    pub epoch_seconds: u64,
    /// Least bond of an aggregator.
    pub bond_wei: u128,
    /// Bond of a demand.
    pub demand_bond_wei: u128,
    /// How long a receipts root can be challenged.
    pub challenge_seconds: u32,
    /// How long an aggregator has to answer a demand.
    pub reveal_seconds: u32,
    /// How long an aggregator's bond stays after its exit; longer than `challenge_seconds + 2 * reveal_seconds`.
    pub aggregator_unbonding_seconds: u32,
    /// The reporter's part of a slashed bond, at most 5,000.
    pub reporter_bps: u16,
    /// How long providers' stake stays slashable after `unstake`.
    pub stake_unbonding_seconds: u64,
    /// Tiers from low to high.
    pub tiers: Vec<Tier>,
}

/// One transaction of the genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Name of the contract, or of the contract and the function that is called.
    pub name: &'static str,
    /// The called contract; `None` deploys.
    pub to: Option<Address>,
    /// Init code with constructor arguments, or call data.
    pub input: Bytes,
    /// Where the deployed contract is; for a call, `to`.
    pub address: Address,
}

/// Addresses of a chain's contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Wrapped TRL.
    pub wtrl: Address,
    /// Fee pool.
    pub fee_pool: Address,
    /// Payment channels.
    pub payment_channels: Address,
    /// Settlement.
    pub settlement: Address,
    /// Provider stake.
    pub provider_staking: Address,
}

impl Addresses {
    /// The addresses after a deployer whose next nonce is `first_nonce` has executed [`steps`].
    #[must_use]
    pub fn of(deployer: Address, first_nonce: u64) -> Self {
        let at = |n: u64| deployer.create(first_nonce.wrapping_add(n));
        Self { wtrl: at(0), fee_pool: at(1), payment_channels: at(2), settlement: at(3), provider_staking: at(4) }
    }
}

impl Parameters {
    /// Short windows for a development chain: fee 0, challenge 10 s, reveal 10 s, unbonding 120 s.
    #[must_use]
    pub fn dev(owner: Address) -> Self {
        Self {
            owner,
            fee_bps: DEV_FEE_BPS,
            epoch_seconds: 60,
            bond_wei: TRL_WEI.saturating_mul(100),
            demand_bond_wei: TRL_WEI.saturating_div(100),
            challenge_seconds: 10,
            reveal_seconds: 10,
            aggregator_unbonding_seconds: 120,
            reporter_bps: 3_000,
            stake_unbonding_seconds: 120,
            tiers: default_tiers(0),
        }
    }

    /// A public test network: fee 1 %, challenge 24 h, reveal 1 h, unbonding 21 days.
    #[must_use]
    pub fn testnet(owner: Address) -> Self {
        const DAY_SECONDS: u32 = 86_400;
        const UNBONDING_SECONDS: u32 = 1_814_400;
        Self {
            owner,
            fee_bps: TESTNET_FEE_BPS,
            epoch_seconds: 3_600,
            bond_wei: TRL_WEI.saturating_mul(10_000),
            demand_bond_wei: TRL_WEI.saturating_div(10),
            challenge_seconds: DAY_SECONDS,
            reveal_seconds: 3_600,
            aggregator_unbonding_seconds: UNBONDING_SECONDS,
            reporter_bps: 3_000,
            stake_unbonding_seconds: u64::from(UNBONDING_SECONDS),
            tiers: default_tiers(u64::from(DAY_SECONDS)),
        }
    }

    /// Seconds after an epoch before FeePool pays the aggregators' shares: as long as the epoch's last batch can fall.
    fn claim_delay_seconds(&self) -> u64 {
        u64::from(self.challenge_seconds).saturating_add(u64::from(self.reveal_seconds).saturating_mul(2))
    }
}

/// 100, 1,000, 10,000 and 100,000 TRL; the upper three after 1, 7 and 30 times `day_seconds`.
fn default_tiers(day_seconds: u64) -> Vec<Tier> {
    [(100, 0), (1_000, 1), (10_000, 7), (100_000, 30)]
        .into_iter()
        .map(|(trl, days)| Tier {
            min_stake_wei: TRL_WEI.saturating_mul(trl),
            min_age_seconds: day_seconds.saturating_mul(days),
        })
        .collect()
}

/// The transactions that `deployer`, whose next nonce is `first_nonce`, sends in this order, each with no value.
#[must_use]
pub fn steps(parameters: &Parameters, deployer: Address, first_nonce: u64) -> Vec<Step> {
    let to = Addresses::of(deployer, first_nonce);
    let p = parameters;
    let fee_pool = FeePool::constructorCall {
        epochSeconds: p.epoch_seconds,
        claimDelaySeconds: p.claim_delay_seconds(),
        owner_: p.owner,
    };
    let channels = PaymentChannels::constructorCall { feeBps: p.fee_bps, feePool: to.fee_pool };
    let settlement = Settlement::constructorCall {
        token: to.wtrl,
        channels: to.payment_channels,
        feePool: to.fee_pool,
        p: Settlement::Parameters {
            bond: p.bond_wei,
            demandBond: p.demand_bond_wei,
            challengeSeconds: p.challenge_seconds,
            revealSeconds: p.reveal_seconds,
            unbondingSeconds: p.aggregator_unbonding_seconds,
            reporterBps: p.reporter_bps,
        },
    };
    let staking = ProviderStaking::constructorCall {
        token: to.wtrl,
        feePool: to.fee_pool,
        unbondingSeconds: p.stake_unbonding_seconds,
        table: p
            .tiers
            .iter()
            .map(|t| ProviderStaking::Tier { minStake: t.min_stake_wei, minAgeSeconds: t.min_age_seconds })
            .collect(),
        owner_: p.owner,
    };
    let initialize = FeePool::initializeCall {
        channels_: to.payment_channels,
        settlement_: to.settlement,
        staking_: to.provider_staking,
    };
    vec![
        create("WTRL", to.wtrl, &WTRL::BYTECODE, &WTRL::constructorCall {}),
        create("FeePool", to.fee_pool, &FeePool::BYTECODE, &fee_pool),
        create("PaymentChannels", to.payment_channels, &PaymentChannels::BYTECODE, &channels),
        create("Settlement", to.settlement, &Settlement::BYTECODE, &settlement),
        create("ProviderStaking", to.provider_staking, &ProviderStaking::BYTECODE, &staking),
        Step {
            name: "FeePool.initialize",
            to: Some(to.fee_pool),
            input: initialize.abi_encode().into(),
            address: to.fee_pool,
        },
    ]
}

pub(crate) fn create<C: SolConstructor>(name: &'static str, address: Address, code: &Bytes, arguments: &C) -> Step {
    let mut input = code.to_vec();
    input.extend_from_slice(&arguments.abi_encode());
    Step { name, to: None, input: input.into(), address }
}

/// Wei of a whole number of TRL.
#[must_use]
pub fn trl(amount: u64) -> U256 {
    U256::from(amount).saturating_mul(U256::from(TRL_WEI))
}
