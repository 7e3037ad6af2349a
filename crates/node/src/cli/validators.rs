//! `trellis localnet` and `trellis validator …`.

use super::ListArgs;
use clap::{Args, Subcommand};
use trellis_chain_spec::LOCAL_VALIDATORS_MAX;
use trellis_crypto::VoteScheme;
use trellis_primitives::{Address, Bytes};

/// Flags of `trellis localnet`.
#[derive(Args, Clone, Default)]
pub struct LocalnetArgs {
    /// How many validators the chain begins with.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(LOCAL_VALIDATORS_MAX)))]
    pub validators: u32,
    /// Milliseconds from block to block; 500 where none is given. Only when the chain is made.
    #[arg(long, value_name = "MS")]
    pub block_time_ms: Option<u64>,
    /// Blocks of an epoch, after which the committee changes; 60 where none is given. Only when the chain is made.
    #[arg(long, value_name = "BLOCKS")]
    pub epoch_blocks: Option<u64>,
    /// Blocks from one checkpoint to the next; 64 where none is given. Only when the chain is made.
    #[arg(long, value_name = "BLOCKS")]
    pub checkpoint_blocks: Option<u64>,
    /// How the validators sign their votes: ed25519, or ml-dsa-44 against quantum computers. Only when the chain is made.
    #[arg(long, default_value_t, value_name = "SCHEME")]
    pub vote_scheme: VoteScheme,
    /// First p2p port; each validator takes the next. 0 lets the system choose.
    #[arg(long, default_value_t = 9700, value_name = "PORT")]
    pub p2p_port: u16,
    /// First port of the chain's JSON-RPC. 0 lets the system choose.
    #[arg(long, default_value_t = 8545, value_name = "PORT")]
    pub rpc_port: u16,
    /// First port of `/metrics` and `/health`. 0 lets the system choose.
    #[arg(long, default_value_t = 9600, value_name = "PORT")]
    pub metrics_port: u16,
}

/// How a staking command finds the chain and the account that it acts for.
#[derive(Args, Clone, Default)]
pub struct StakeArgs {
    /// The chain, `dev` or a chain spec's file; that of the data folder's nodes otherwise.
    #[arg(long, value_name = "NAME|FILE")]
    pub chain: Option<String>,
    /// JSON-RPC endpoint of the chain; that of the folder's validator otherwise.
    #[arg(long, value_name = "URL")]
    pub rpc: Option<String>,
    /// Act for this account of the public test mnemonic, on `dev` and `local` only; for the account of the folder's
    /// validator otherwise.
    #[arg(long, value_name = "INDEX")]
    pub dev_account: Option<u32>,
}

#[derive(Subcommand)]
pub enum ValidatorCommand {
    /// Registered validators, their stake, and their power in the committee that sits (online).
    List {
        #[command(flatten)]
        stake: StakeArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// How many are registered, may be chosen, and sit (online).
    Count {
        #[command(flatten)]
        stake: StakeArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// One validator (online).
    Show {
        /// Its account.
        validator: Address,
        #[command(flatten)]
        stake: StakeArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Make the folder's account a validator: its vote key and its checkpoint keys are registered with a stake (online). The
    /// node sits in the committee from the next epoch on, if its stake is among the highest.
    Register {
        /// How much it stakes, in TRL.
        #[arg(long, value_name = "TRL")]
        stake: String,
        /// Its part of what delegators will earn, in hundredths of a percent.
        #[arg(long, default_value_t = 500, value_name = "BPS")]
        commission: u16,
        #[command(flatten)]
        args: StakeArgs,
    },
    /// Stake coins with a validator; it counts from the next epoch on and is slashed with the validator's own (online).
    Delegate {
        /// The validator's account.
        validator: Address,
        /// How much, in TRL.
        trl: String,
        #[command(flatten)]
        stake: StakeArgs,
    },
    /// Take back staked coins; `withdraw` pays them out when they have unbonded (online).
    Undelegate {
        /// The validator's account.
        validator: Address,
        /// How much, in TRL.
        trl: String,
        #[command(flatten)]
        stake: StakeArgs,
    },
    /// Pay out what has unbonded (online).
    Withdraw {
        /// The validator's account.
        validator: Address,
        #[command(flatten)]
        stake: StakeArgs,
    },
    /// Set the own validator's part of what its delegators earn (online).
    Commission {
        /// In hundredths of a percent.
        bps: u16,
        #[command(flatten)]
        stake: StakeArgs,
    },
    /// Hand in two messages that a validator signed for one place; it is slashed and out for ever, and the account is paid a
    /// part of it (online). Validators hand in by themselves what they see.
    Report {
        /// One message, in the chain's wire form.
        #[arg(value_name = "0x…")]
        first: Bytes,
        /// The other.
        #[arg(value_name = "0x…")]
        second: Bytes,
        #[command(flatten)]
        stake: StakeArgs,
    },
    /// Pay out what reports have earned the account (online).
    Claim(StakeArgs),
    /// Make new vote and checkpoint keys in the folder and register them (online). The node that runs there signs with the old
    /// ones until a committee has the new ones, then with those; let it run.
    RotateKey(StakeArgs),
    /// Let the own validator be chosen again after its time in jail (online).
    Unjail(StakeArgs),
    /// Take the own validator out for good; its stake unbonds (online).
    Leave(StakeArgs),
}
