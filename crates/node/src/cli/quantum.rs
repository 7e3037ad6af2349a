//! `trellis wallet pq …`.

use super::ListArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use trellis_primitives::{Address, Bytes};

/// Which key and which chain.
#[derive(Args, Clone, Default)]
pub struct QuantumArgs {
    /// The account's keystore; `keys/quantum.key` in the data folder otherwise.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// File that holds the keystore's passphrase; `TRELLIS_PASSPHRASE` otherwise.
    #[arg(long, env = "TRELLIS_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The chain, `dev` or a chain spec's file; that of the data folder's nodes otherwise.
    #[arg(long, value_name = "NAME|FILE")]
    pub chain: Option<String>,
    /// JSON-RPC endpoint of the chain; that of the folder's validator otherwise.
    #[arg(long, value_name = "URL")]
    pub rpc: Option<String>,
}

/// Who brings signed calls to the chain and pays the gas. It decides nothing: it need not be trusted.
#[derive(Args, Clone, Default)]
pub struct RelayArgs {
    /// Keystore of the account that pays the gas, with the same passphrase; the account of a node of the data folder
    /// otherwise.
    #[arg(long, value_name = "FILE", conflicts_with = "dev_account")]
    pub relay_key: Option<PathBuf>,
    /// Let this account of the public test mnemonic pay the gas, on `dev` and `local` only.
    #[arg(long, value_name = "INDEX")]
    pub dev_account: Option<u32>,
}

/// What the owner of a post-quantum account signs.
#[derive(Args, Clone)]
pub struct QuantumCall {
    /// Who is paid or called.
    pub to: Address,
    /// How much, in TRL.
    pub trl: String,
    /// Call data, where a contract is called.
    #[arg(long, value_name = "0x…", default_value = "0x")]
    pub data: Bytes,
    /// Gas that must be left when the call begins, so that whoever brings it cannot starve it.
    #[arg(long, default_value_t = 0, value_name = "GAS")]
    pub gas: u64,
    /// What the account pays to whoever brings the call, in TRL.
    #[arg(long, default_value = "0", value_name = "TRL")]
    pub fee: String,
    /// The only account that may bring the call; anybody otherwise.
    #[arg(long, value_name = "ADDRESS")]
    pub relayer: Option<Address>,
    /// Seconds after which the signature is worth nothing.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub within_s: u32,
}

#[derive(Subcommand)]
pub enum QuantumCommand {
    /// Make a key and show the address of its account (offline). The address can be paid at once; the account itself is made
    /// with its first call.
    Create {
        /// Two keys that must both sign, ML-DSA-44 and secp256k1: safe as long as one of the two schemes is.
        #[arg(long)]
        hybrid: bool,
        #[command(flatten)]
        args: QuantumArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// The account: its address, what it has, whether it is made (online).
    Show {
        #[command(flatten)]
        args: QuantumArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Sign a payment or a call and bring it to the chain, making the account where it is not there yet (online).
    Send {
        #[command(flatten)]
        call: QuantumCall,
        #[command(flatten)]
        args: QuantumArgs,
        #[command(flatten)]
        relay: RelayArgs,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Sign a payment or a call and print it, for `relay` (online).
    Sign {
        #[command(flatten)]
        call: QuantumCall,
        #[command(flatten)]
        args: QuantumArgs,
    },
    /// Bring to the chain what somebody signed (online). Its owner's key is not needed.
    Relay {
        /// What `sign` printed.
        file: PathBuf,
        #[command(flatten)]
        args: QuantumArgs,
        #[command(flatten)]
        relay: RelayArgs,
        #[command(flatten)]
        list: ListArgs,
    },
}
