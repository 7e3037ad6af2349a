//! Which rules of Ethereum hold when: the forks of a chain by its `genesis.json` (block, time and blob parameters).
//!
//! A block is known to be after the merge by its difficulty of zero, which no block before has. So the schedule needs no
//! total difficulty, and a simulated block is as its parent.

use crate::env::{block_env, cfg_env};
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_eips::eip1559::{BaseFeeParams, INITIAL_BASE_FEE, calc_next_block_base_fee};
use alloy_eips::eip7594::MAX_BLOBS_PER_TX_FUSAKA;
use alloy_eips::eip7840::{BLOB_BASE_COST, BlobParams};
use alloy_evm::EvmEnv;
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_evm::spec_by_timestamp_and_block_number;
use alloy_genesis::ChainConfig;
use alloy_hardforks::{EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, B256};
use revm::primitives::hardfork::SpecId;
use trellis_primitives::Header;

/// A gas limit moves by less than the parent's divided by this from block to block.
const GAS_LIMIT_BOUND_DIVISOR: u64 = 1_024;
/// Times that the gas limit grows in the first block of London, so that the target stays.
const LONDON_ELASTICITY: u64 = 2;

/// The forks of an Ethereum chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkSchedule {
    config: ChainConfig,
}

/// The schedule as a block before or after the merge sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForksAt<'a> {
    config: &'a ChainConfig,
    merged: bool,
}

impl EthereumHardforks for ForksAt<'_> {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        use EthereumHardfork as Fork;
        let config = self.config;
        let block = |number: Option<u64>| number.map_or(ForkCondition::Never, ForkCondition::Block);
        let time = |time: Option<u64>| time.map_or(ForkCondition::Never, ForkCondition::Timestamp);
        match fork {
            Fork::Frontier => ForkCondition::ZERO_BLOCK,
            Fork::Homestead => block(config.homestead_block),
            Fork::Dao => block(config.dao_fork_block.filter(|_| config.dao_fork_support)),
            Fork::Tangerine => block(config.eip150_block),
            Fork::SpuriousDragon => block(config.eip158_block),
            Fork::Byzantium => block(config.byzantium_block),
            Fork::Constantinople => block(config.constantinople_block),
            Fork::Petersburg => block(config.petersburg_block),
            Fork::Istanbul => block(config.istanbul_block),
            Fork::MuirGlacier => block(config.muir_glacier_block),
            Fork::Berlin => block(config.berlin_block),
            Fork::London => block(config.london_block),
            Fork::ArrowGlacier => block(config.arrow_glacier_block),
            Fork::GrayGlacier => block(config.gray_glacier_block),
            Fork::Paris if self.merged => ForkCondition::ZERO_BLOCK,
            Fork::Shanghai => time(config.shanghai_time),
            Fork::Cancun => time(config.cancun_time),
            Fork::Prague => time(config.prague_time),
            Fork::Osaka => time(config.osaka_time),
            Fork::Bpo1 => time(config.bpo1_time),
            Fork::Bpo2 => time(config.bpo2_time),
            Fork::Bpo3 => time(config.bpo3_time),
            Fork::Bpo4 => time(config.bpo4_time),
            Fork::Bpo5 => time(config.bpo5_time),
            _ => ForkCondition::Never,
        }
    }
}

impl EthExecutorSpec for ForksAt<'_> {
    fn deposit_contract_address(&self) -> Option<Address> {
        self.config.deposit_contract_address
    }
}

/// A fork that begins at a time: its name in `eth_config`'s words, when, and the blobs' parameters from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedFork {
    /// Seconds since 1970 from which it holds.
    pub time_s: u64,
    /// What blobs cost and how many a block takes.
    pub blobs: BlobParams,
}

impl ForkSchedule {
    /// The forks of a `genesis.json`'s `config`. Forks after Osaka are not known here and never begin.
    #[must_use]
    pub const fn new(config: ChainConfig) -> Self {
        Self { config }
    }

    /// A chain that is at Osaka from its beginning.
    #[must_use]
    pub fn osaka(chain_id: u64) -> Self {
        let (block, time) = (Some(0), Some(0));
        Self::new(ChainConfig {
            chain_id,
            homestead_block: block,
            eip150_block: block,
            eip155_block: block,
            eip158_block: block,
            byzantium_block: block,
            constantinople_block: block,
            petersburg_block: block,
            istanbul_block: block,
            berlin_block: block,
            london_block: block,
            shanghai_time: time,
            cancun_time: time,
            prague_time: time,
            osaka_time: time,
            ..ChainConfig::default()
        })
    }

    /// The chain id that transactions are signed for.
    #[must_use]
    pub const fn chain_id(&self) -> u64 {
        self.config.chain_id
    }

    /// The contract whose events are deposits (EIP-6110).
    #[must_use]
    pub const fn deposit_contract(&self) -> Option<Address> {
        self.config.deposit_contract_address
    }

    pub(crate) fn at(&self, header: &Header) -> ForksAt<'_> {
        ForksAt { config: &self.config, merged: header.difficulty.is_zero() }
    }

    /// The rules of the machine in a block.
    #[must_use]
    pub fn spec(&self, header: &Header) -> SpecId {
        spec_by_timestamp_and_block_number(&self.at(header), header.timestamp, header.number)
    }

    /// What blobs cost at a time; `None` before there are any.
    #[must_use]
    pub fn blob_params(&self, time_s: u64) -> Option<BlobParams> {
        let config = &self.config;
        let begins = [
            (config.bpo5_time, "bpo5"),
            (config.bpo4_time, "bpo4"),
            (config.bpo3_time, "bpo3"),
            (config.bpo2_time, "bpo2"),
            (config.bpo1_time, "bpo1"),
            (config.osaka_time, "osaka"),
            (config.prague_time, "prague"),
            (config.cancun_time, "cancun"),
        ];
        let active = |begin: Option<u64>| begin.is_some_and(|begin| time_s >= begin);
        if !active(config.cancun_time) {
            return None;
        }
        let named = begins.into_iter().filter(|(begin, _)| active(*begin));
        let scheduled = named.filter_map(|(_, name)| config.blob_schedule.get(name)).next().copied();
        let default = if active(config.prague_time) { BlobParams::prague() } else { BlobParams::cancun() };
        let params = scheduled.unwrap_or(default);
        Some(if active(config.osaka_time) {
            let per_tx = MAX_BLOBS_PER_TX_FUSAKA.min(params.max_blob_count);
            params.with_max_blobs_per_tx(per_tx).with_blob_base_cost(BLOB_BASE_COST)
        } else {
            params.with_max_blobs_per_tx(params.max_blob_count).with_blob_base_cost(0)
        })
    }

    /// The forks from Cancun on that begin at a time, in order; several that begin at one time count as one.
    #[must_use]
    pub fn timed_forks(&self) -> Vec<TimedFork> {
        let config = &self.config;
        let begins = [
            config.cancun_time,
            config.prague_time,
            config.osaka_time,
            config.bpo1_time,
            config.bpo2_time,
            config.bpo3_time,
            config.bpo4_time,
            config.bpo5_time,
        ];
        let mut times: Vec<u64> = begins.into_iter().flatten().collect();
        times.sort_unstable();
        times.dedup();
        let fork = |time_s| Some(TimedFork { time_s, blobs: self.blob_params(time_s)? });
        times.into_iter().filter_map(fork).collect()
    }

    /// Every block and then every time at which a fork begins, as EIP-2124 adds them up: sorted, each once, without zero
    /// and without times up to the genesis.
    #[must_use]
    pub fn fork_id_steps(&self, genesis_time_s: u64) -> (Vec<u64>, Vec<u64>) {
        let config = &self.config;
        let mut blocks: Vec<u64> = [
            config.homestead_block,
            config.dao_fork_block,
            config.eip150_block,
            config.eip155_block,
            config.eip158_block,
            config.byzantium_block,
            config.constantinople_block,
            config.petersburg_block,
            config.istanbul_block,
            config.muir_glacier_block,
            config.berlin_block,
            config.london_block,
            config.arrow_glacier_block,
            config.gray_glacier_block,
            config.merge_netsplit_block,
        ]
        .into_iter()
        .flatten()
        .filter(|number| *number > 0)
        .collect();
        let mut times: Vec<u64> = self.timed_forks().into_iter().map(|fork| fork.time_s).collect();
        times.extend(config.shanghai_time);
        times.retain(|time_s| *time_s > genesis_time_s);
        for list in [&mut blocks, &mut times] {
            list.sort_unstable();
            list.dedup();
        }
        (blocks, times)
    }

    /// The machine's settings in a block.
    #[must_use]
    pub fn env(&self, header: &Header) -> EvmEnv {
        let spec = self.spec(header);
        let mut cfg = cfg_env(spec, self.config.chain_id);
        let mut block = block_env(spec, header);
        if let Some(blobs) = self.blob_params(header.timestamp) {
            let fraction = u64::try_from(blobs.update_fraction).unwrap_or(u64::MAX);
            cfg.max_blobs_per_tx = Some(blobs.max_blobs_per_tx);
            cfg.blob_base_fee_update_fraction = Some(fraction);
            block.set_blob_excess_gas_and_price(header.excess_blob_gas.unwrap_or_default(), fraction);
        }
        EvmEnv { cfg_env: cfg, block_env: block }
    }

    /// The base fee of a block by its parent, in wei; `None` before London.
    #[must_use]
    pub fn base_fee(&self, parent: &Header, number: u64) -> Option<u64> {
        let london = |number| self.config.london_block.is_some_and(|begin| number >= begin);
        if !london(number) {
            return None;
        }
        Some(match parent.base_fee_per_gas {
            Some(base_fee) if london(parent.number) => {
                calc_next_block_base_fee(parent.gas_used, parent.gas_limit, base_fee, BaseFeeParams::ethereum())
            }
            _ => INITIAL_BASE_FEE,
        })
    }

    /// Blob gas beyond the target that a block at a time inherits; `None` before there are blobs.
    #[must_use]
    pub fn excess_blob_gas(&self, parent: &Header, time_s: u64) -> Option<u64> {
        let params = self.blob_params(time_s)?;
        let (Some(excess), Some(used)) = (parent.excess_blob_gas, parent.blob_gas_used) else { return Some(0) };
        let base_fee = parent.base_fee_per_gas.unwrap_or_default();
        Some(params.next_block_excess_blob_gas_osaka(excess, used, base_fee))
    }

    /// Whether a gas limit may follow on the parent's.
    #[must_use]
    pub fn gas_limit_follows(&self, parent: &Header, number: u64, gas_limit: u64) -> bool {
        let before = if self.config.london_block == Some(number) {
            parent.gas_limit.saturating_mul(LONDON_ELASTICITY)
        } else {
            parent.gas_limit
        };
        gas_limit >= crate::GAS_LIMIT_MIN && gas_limit.abs_diff(before) < before.div_euclid(GAS_LIMIT_BOUND_DIVISOR)
    }

    /// The gas limit nearest to a wish that may follow on the parent's.
    #[must_use]
    pub fn gas_limit_towards(&self, parent: &Header, wish: u64) -> u64 {
        let step = parent.gas_limit.div_euclid(GAS_LIMIT_BOUND_DIVISOR).saturating_sub(1);
        let (lowest, highest) = (parent.gas_limit.saturating_sub(step), parent.gas_limit.saturating_add(step));
        wish.clamp(lowest.max(crate::GAS_LIMIT_MIN), highest.max(crate::GAS_LIMIT_MIN))
    }

    /// The header that a block on top of `parent` would have at a time; its roots are empty.
    #[must_use]
    pub fn pending_header(&self, parent: &Header, parent_hash: B256, time_s: u64) -> Header {
        let header = Header {
            parent_hash,
            beneficiary: parent.beneficiary,
            difficulty: parent.difficulty,
            number: parent.number.saturating_add(1),
            gas_limit: parent.gas_limit,
            timestamp: time_s.max(parent.timestamp.saturating_add(1)),
            ..Header::default()
        };
        self.dress(parent, header)
    }

    /// The fields of a block that are there from some fork on, empty, as far as number, time and parent decide them.
    #[must_use]
    pub fn dress(&self, parent: &Header, header: Header) -> Header {
        let at = self.at(&header);
        let (number, time_s) = (header.number, header.timestamp);
        let cancun = at.is_cancun_active_at_timestamp(time_s);
        Header {
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            base_fee_per_gas: header.base_fee_per_gas.or_else(|| self.base_fee(parent, number)),
            withdrawals_root: at.is_shanghai_active_at_timestamp(time_s).then_some(EMPTY_WITHDRAWALS),
            blob_gas_used: cancun.then_some(0),
            excess_blob_gas: self.excess_blob_gas(parent, time_s),
            parent_beacon_block_root: cancun.then(|| header.parent_beacon_block_root.unwrap_or_default()),
            requests_hash: at.is_prague_active_at_timestamp(time_s).then_some(alloy_eips::eip7685::EMPTY_REQUESTS_HASH),
            ..header
        }
    }
}
