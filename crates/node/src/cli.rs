//! Every command and flag, declared once: help, completions, man page and CLI reference come from here (OPS-01).

mod benches;
mod chains;
mod quantum;
mod snapshots;
mod validators;

pub use benches::ChainBenchArgs;
pub use chains::{CheckpointArgs, FeesArgs, ImportArgs, ServeArgs};
pub use quantum::{QuantumArgs, QuantumCall, QuantumCommand, RelayArgs};
pub use snapshots::SnapshotCommand;
pub use validators::{LocalnetArgs, StakeArgs, ValidatorCommand};

use crate::settings::{Given, Place};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use trellis_crypto::VoteScheme;

/// A peer-to-peer compute network: sell inference from behind any router, buy it with the OpenAI client you have.
#[derive(Parser)]
#[command(name = "trellis", version, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub place: Place,
    /// Log as JSON lines instead of text.
    #[arg(long, env = "TRELLIS_LOG_JSON", global = true)]
    pub log_json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the whole network on this machine: validator, provider, gateway and aggregator.
    Dev(DevArgs),
    /// Run a chain of several validators on this machine, one process each.
    Localnet(LocalnetArgs),
    /// Run a validator: agree on blocks and serve JSON-RPC. With a subcommand: who has staked what, and staking.
    #[command(args_conflicts_with_subcommands = true)]
    Validator {
        #[command(subcommand)]
        command: Option<ValidatorCommand>,
        #[command(flatten)]
        given: Box<Given>,
    },
    /// Run a full node: follow the chain without a vote and serve JSON-RPC from its own data.
    Full(Box<Given>),
    /// Run a provider: sell a model.
    Provider(Box<Given>),
    /// Run a gateway: serve the OpenAI API and buy from providers.
    Gateway(Box<Given>),
    /// Run an aggregator: settle receipts in batches.
    Aggregator(Box<Given>),
    /// Run a relay: hold a place for nodes that cannot be reached, and carry their traffic.
    Relay(Box<Given>),
    /// Probe the network's nodes and name the good ones in a DNS zone that others can start from.
    #[command(name = "dnsseed")]
    DnsSeed {
        #[command(flatten)]
        args: DnsSeedArgs,
        #[command(flatten)]
        given: Box<Given>,
    },
    /// Show what the nodes of a data folder are doing (online).
    Status(ListArgs),
    /// Find out how others can reach this machine: UDP, addresses, NAT, port mapping, key exchange (offline).
    Netcheck(NetcheckArgs),
    /// Peers of a running node.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Ask a connected peer for echoes; shows the path and time of every reply (online).
    Ping {
        /// The peer's id, or the beginning of it.
        id: String,
        /// How many.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
        count: u32,
        #[command(flatten)]
        asked: Asked,
    },
    /// What flows to and from peers, by class, and how much may; changes the limits of a running node (online).
    Bandwidth {
        /// Mbit/s to peers from now on; 0 is no limit.
        #[arg(long, value_name = "MBIT/S")]
        up: Option<u64>,
        /// Mbit/s from peers from now on; 0 is no limit.
        #[arg(long, value_name = "MBIT/S")]
        down: Option<u64>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Receipts in a node's journal (offline or online).
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Payment channels.
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Accounts and what is locked where.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Run jobs from the command line.
    #[command(subcommand)]
    Job(JobCommand),
    /// Check the ledgers of both sides against the chain.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Keys of a data folder.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Settings and where each value comes from.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Chain specs.
    #[command(subcommand)]
    Chain(ChainCommand),
    /// Snapshots of a chain's state in files.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Print a shell's completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print generated reference documents.
    #[command(hide = true)]
    Reference {
        /// Which one.
        what: ReferenceKind,
    },
}

/// Flags of `trellis dev`.
#[derive(Args, Clone, Default)]
pub struct DevArgs {
    /// How the validator signs its votes: ed25519, or ml-dsa-44 against quantum computers.
    #[arg(long, default_value_t, value_name = "SCHEME")]
    pub vote_scheme: VoteScheme,
    /// A llama-family GGUF file to serve; the small model in the binary otherwise.
    #[arg(long, env = "TRELLIS_MODEL", value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// An OpenAI-compatible server to sell instead of the embedded engine.
    #[arg(long, env = "TRELLIS_UPSTREAM", value_name = "URL")]
    pub upstream: Option<String>,
    /// First p2p port; the roles take this one and the following three. 0 lets the system choose.
    #[arg(long, default_value_t = 9700, value_name = "PORT")]
    pub p2p_port: u16,
    /// Port of the chain's JSON-RPC. 0 lets the system choose.
    #[arg(long, default_value_t = 8545, value_name = "PORT")]
    pub rpc_port: u16,
    /// Port of the OpenAI API. 0 lets the system choose.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub http_port: u16,
    /// First port of `/metrics` and `/health`; the roles take this one and the following three. 0: the system chooses.
    #[arg(long, default_value_t = 9600, value_name = "PORT")]
    pub metrics_port: u16,
}

/// Flags of `trellis dnsseed`.
#[derive(Args, Clone, Default)]
pub struct DnsSeedArgs {
    /// The zone to publish in, as seed.example.
    #[arg(long, value_name = "NAME")]
    pub zone: String,
    /// The zone's primary name server, which takes dynamic updates (RFC 2136) over TCP. Port 53 where none is given.
    #[arg(long, value_name = "IP:PORT", requires = "key")]
    pub update: Option<String>,
    /// TSIG key for the updates, as `tsig-keygen` prints it.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Write the records to a file that the zone's file includes; without this and `--update` they are printed.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Seconds between two rounds of probes.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub interval_s: u32,
    /// Name nodes of private networks too, for a zone of such a network.
    #[arg(long)]
    pub private: bool,
}

/// Flags of `trellis netcheck`.
#[derive(Args, Clone, Default)]
pub struct NetcheckArgs {
    #[command(flatten)]
    pub list: ListArgs,
    /// A STUN server to ask, four at most; public ones otherwise. The port is 3478 where none is given.
    #[arg(long, env = "TRELLIS_STUN", value_name = "HOST:PORT", value_delimiter = ',')]
    pub stun: Vec<String>,
    /// TURN servers to try, as for a node; each gets an address there and gives it back.
    #[arg(long, env = "TRELLIS_TURN", value_name = "URI", value_delimiter = ',')]
    pub turn: Vec<String>,
    /// The name that the TURN servers know this node by.
    #[arg(long, env = "TRELLIS_TURN_USER", value_name = "NAME")]
    pub turn_user: Option<String>,
    /// File that holds the password for the TURN servers.
    #[arg(long, env = "TRELLIS_TURN_PASSWORD_FILE", value_name = "FILE")]
    pub turn_password_file: Option<PathBuf>,
    /// PEM file of the authorities of TURN servers over TLS; the system's otherwise.
    #[arg(long, env = "TRELLIS_TURN_CA", value_name = "FILE")]
    pub turn_ca: Option<PathBuf>,
}

/// How a listing is printed.
#[derive(Args, Clone, Copy, Default)]
pub struct ListArgs {
    /// `table` for people or `json` for programs.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// The same as `--format json`.
    #[arg(long)]
    pub json: bool,
}

impl ListArgs {
    /// True where JSON is wanted.
    pub fn wants_json(self) -> bool {
        self.json || self.format == Format::Json
    }
}

/// A listing's form.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Which peers are listed.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerFilter {
    /// Those with a connection.
    Connected,
    /// Every one that is known.
    #[default]
    All,
    /// Those that are kept out.
    Banned,
}

#[derive(Subcommand)]
pub enum PeerCommand {
    /// List peers with state, latency, direction, path and key exchange (online).
    List {
        /// Which peers.
        #[arg(long, value_enum, default_value_t = PeerFilter::All)]
        filter: PeerFilter,
        #[command(flatten)]
        asked: Asked,
    },
    /// Connect to an address and remember it (online).
    Add {
        /// IP or name with a port, a multiaddr, or trellis://ID@HOST:PORT, which pins who answers there.
        address: String,
        /// `high` keeps it connected, `normal` dials it at every start, `low` only now.
        #[arg(long, value_enum, default_value_t = PeerPriority::Normal)]
        priority: PeerPriority,
        #[command(flatten)]
        asked: Asked,
    },
    /// Disconnect a peer and forget that it was added (online).
    Remove {
        /// The peer's id, the beginning of it, or one of its addresses.
        peer: String,
        /// Keep it out as well.
        #[arg(long)]
        ban: bool,
        /// For how long, as 24h; for good otherwise.
        #[arg(long = "for", value_name = "DURATION", requires = "ban", value_parser = humantime::parse_duration)]
        length: Option<std::time::Duration>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Keep an identity out, now and after a restart (online).
    Ban {
        /// The peer's id, or the beginning of it where it is known.
        id: String,
        /// For how long, as 24h; for good otherwise.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        length: Option<std::time::Duration>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Let an identity in again (online).
    Unban {
        /// The peer's id, or the beginning of it.
        id: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Everything known about a peer: traffic, score with its inputs, states, addresses (online).
    Info {
        /// The peer's id, or the beginning of it; `self` for this node and its dark addresses.
        id: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Print what is remembered of peers: bans, reputation, addresses (online).
    Export {
        /// Which role of a `trellis dev` folder to ask.
        #[arg(long)]
        role: Option<String>,
    },
    /// Take over bans and addresses from a file that `peer export` printed (online).
    Import {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Which node a command asks and how it prints the answer.
#[derive(Args, Clone, Default)]
pub struct Asked {
    #[command(flatten)]
    pub list: ListArgs,
    /// Which role of a `trellis dev` folder to ask.
    #[arg(long)]
    pub role: Option<String>,
}

/// How much an added peer is wanted.
#[derive(ValueEnum, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerPriority {
    /// Kept connected.
    High,
    /// Dialled at every start.
    #[default]
    Normal,
    /// Dialled once.
    Low,
}

impl PeerPriority {
    /// The word that the node is told.
    pub const fn word(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

#[derive(Subcommand)]
pub enum ReceiptCommand {
    /// List receipts, newest last.
    List {
        #[command(flatten)]
        list: ListArgs,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one receipt, whole.
    Show {
        /// The receipt's hash or the job's id.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Verify the signatures of one receipt, of all, or of a JSON file.
    Verify {
        /// The receipt's hash, the job's id, a JSON file with one receipt or a list, or `all`.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
}

#[derive(Subcommand)]
pub enum ChannelCommand {
    /// List channels with deposit, paid and latest voucher.
    List(ListArgs),
    /// Show one channel as the chain sees it.
    Show {
        /// The channel's id.
        id: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Close a channel: at once by the payee, after the challenge period by the payer (online).
    Close {
        /// The channel's id.
        id: String,
    },
}

#[derive(Subcommand)]
pub enum WalletCommand {
    /// Accounts of the nodes and their balances.
    List(ListArgs),
    /// Every lock: where the money is, why, and when it is free.
    Where(ListArgs),
    /// Post-quantum accounts: only an ML-DSA-44 key can spend from them.
    #[command(subcommand)]
    Pq(Box<QuantumCommand>),
}

#[derive(Subcommand)]
pub enum JobCommand {
    /// Run one prompt: quote, channel, run, receipt (online).
    Run {
        /// Which model.
        #[arg(long, short)]
        model: Option<String>,
        /// Tokens at most.
        #[arg(long, default_value_t = 128)]
        max_tokens: u32,
        /// The prompt.
        prompt: String,
        /// Print the result with its receipt as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Recompute every sum from both sides' journals and the chain; exit 1 where they disagree.
    Ledger {
        /// Print the whole result as JSON.
        #[arg(long)]
        json: bool,
        /// JSON-RPC endpoint of the chain; that of the folder's validator otherwise.
        #[arg(long, value_name = "URL")]
        rpc: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Links: echo, throughput, handshake, refusal and many streams, beside plain quinn and stock libp2p-quic.
    Transport {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The chain: transfers through JSON-RPC and in process, anvil beside it where it is installed; or several validators.
    Chain(ChainBenchArgs),
    /// The market: what gateway, network, receipt and voucher add to a request.
    Market {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Requests of each kind.
        #[arg(long, default_value_t = 100)]
        requests: usize,
    },
}

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make the keys of a data folder.
    New(Box<Given>),
    /// Show the public names of a data folder's keys.
    Show(ListArgs),
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Show every setting, its value and where it comes from.
    Show {
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        given: Box<Given>,
    },
    /// Write a config file with commented defaults where there is none.
    Init,
}

#[derive(Subcommand)]
pub enum ChainCommand {
    /// Execute the genesis deployments and write a spec with the state pinned.
    Init {
        /// Built-in name or file to begin from.
        #[arg(long, default_value = "dev")]
        chain: String,
        /// How the validators sign their votes: ed25519, or ml-dsa-44 against quantum computers. A file's vote keys say it
        /// already; the public ones of a built-in chain are made anew.
        #[arg(long, value_name = "SCHEME")]
        vote_scheme: Option<VoteScheme>,
        /// The file to write.
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print a spec with its identity and genesis hash.
    Inspect {
        /// Built-in name or file.
        #[arg(long, default_value = "dev")]
        chain: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a spec.
    Validate {
        /// Built-in name or file.
        #[arg(long, default_value = "dev")]
        chain: String,
    },
    /// What the commonest actions cost, in gas, TRL and US dollars of an assumed price (offline; online with --rpc).
    Fees(chains::FeesArgs),
    /// Fetch a checkpoint and check it with nothing but the committees' keys (online).
    Checkpoint(chains::CheckpointArgs),
    /// Execute the blocks of a file of one of Ethereum's chains, for its compatibility suite (offline).
    Import(chains::ImportArgs),
    /// Serve JSON-RPC over an imported chain; nothing is ever added to it.
    Serve(chains::ServeArgs),
}

/// A generated document.
#[derive(ValueEnum, Clone, Copy)]
pub enum ReferenceKind {
    /// The CLI reference in Markdown.
    Cli,
    /// The config file with commented defaults.
    Config,
    /// The metrics in Markdown.
    Metrics,
    /// The methods of the JSON-RPC in Markdown.
    Rpc,
    /// The man page.
    Man,
}
