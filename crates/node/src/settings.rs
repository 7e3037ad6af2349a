//! Settings: flag over `TRELLIS_*` over `config.toml` over default, each key declared once (OPS-10).

use crate::failure::Failure;
use crate::fees::TRL_PRICE_USD_DEFAULT;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use eyre::Result;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use trellis_net_reach::config::STUN_SERVERS_DEFAULT;

/// What a person can set, for every role; a key that is not given is taken from the next source.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Built-in chain (`dev`) or the path of a chain_spec.toml.
    #[arg(long, env = "TRELLIS_CHAIN", value_name = "NAME|FILE")]
    pub chain: Option<String>,
    /// Addresses that other nodes connect to, comma-separated: `/ip4/IP/udp/PORT/quic-v1`, `/ip4/IP/tcp/PORT`.
    #[arg(long, env = "TRELLIS_LISTEN", value_name = "MULTIADDR", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Option<Vec<String>>,
    /// Addresses to tell other nodes instead of those listened at, comma-separated; such as `/onion3/NAME:PORT`.
    #[arg(long, env = "TRELLIS_EXTERNAL_ADDRESSES", value_name = "MULTIADDR", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub external_addresses: Option<Vec<String>>,
    /// SOCKS5 proxy that every dial goes through, `socks5://IP:PORT`; Tor's for onion names, I2P's for `.b32.i2p`.
    #[arg(long, env = "TRELLIS_PROXY", value_name = "URL")]
    pub proxy: Option<String>,
    /// Dial onion and I2P names only, listen on loopback only, and tell nobody a clear address; needs `--proxy`.
    #[arg(long, env = "TRELLIS_ONION_ONLY", value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub onion_only: Option<bool>,
    /// STUN servers that tell the kind of NAT, comma-separated or repeated, four at most; public ones otherwise, `off` for none.
    /// The port is 3478 where none is given.
    #[arg(long, env = "TRELLIS_STUN", value_name = "HOST:PORT", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub stun: Option<Vec<String>>,
    /// TURN servers for networks that block UDP, comma-separated or repeated, the next where one fails: `turn:HOST:PORT?transport=udp`
    /// (or `tcp`), `turns:HOST:PORT?transport=tcp`. They carry what cannot be dialled otherwise.
    #[arg(long, env = "TRELLIS_TURN", value_name = "URI", value_delimiter = ',')]
    pub turn: Option<Vec<String>>,
    /// The name that the TURN servers know this node by.
    #[arg(long, env = "TRELLIS_TURN_USER", value_name = "NAME")]
    pub turn_user: Option<String>,
    /// File that holds the password for the TURN servers.
    #[arg(long, env = "TRELLIS_TURN_PASSWORD_FILE", value_name = "FILE")]
    pub turn_password_file: Option<PathBuf>,
    /// PEM file of the authorities of TURN servers over TLS; the system's otherwise.
    #[arg(long, env = "TRELLIS_TURN_CA", value_name = "FILE")]
    pub turn_ca: Option<PathBuf>,
    /// Where this node is, as `eu-west`; relays of the same region are asked first.
    #[arg(long, env = "TRELLIS_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// Relays that hold a place for this node while it cannot be reached otherwise; 0 for none.
    #[arg(long, env = "TRELLIS_RELAYS", value_name = "COUNT", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub relays: Option<u8>,
    /// Ask the home router for a port by PCP, NAT-PMP and UPnP where nobody gets in otherwise; given back at the end.
    #[arg(long, env = "TRELLIS_MAP_PORTS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub map_ports: Option<bool>,
    /// Size of a relay: `infra`, `standard` or `home`.
    #[arg(long, env = "TRELLIS_RELAY_PROFILE", value_name = "PROFILE")]
    pub relay_profile: Option<String>,
    /// Addresses of nodes to connect to, comma-separated.
    #[arg(long, env = "TRELLIS_PEERS", value_name = "MULTIADDR", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub peers: Option<Vec<String>>,
    /// Names of DNS seeds to find nodes by, comma-separated or repeated, or `trellis://NODEID@NAME` for a signed tree of that
    /// publisher alone; those of the chain spec otherwise.
    #[arg(long, env = "TRELLIS_DNS_SEED", value_name = "NAME", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub dns_seed: Option<Vec<String>>,
    /// Name servers for the seeds, comma-separated or repeated, the next where one fails: `IP[:PORT]`, `udp://…`, `tcp://…`,
    /// `tls://IP[:PORT]#NAME` or `https://IP[:PORT]/PATH#NAME`; the system's otherwise.
    #[arg(long, env = "TRELLIS_DNS_SERVER", value_name = "ADDR", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub dns_server: Option<Vec<String>>,
    /// PEM file of the authorities of encrypted name servers; the system's otherwise.
    #[arg(long, env = "TRELLIS_DNS_CA", value_name = "FILE")]
    pub dns_ca: Option<PathBuf>,
    /// File of DNSKEY records that are trusted instead of the DNS root's.
    #[arg(long, env = "TRELLIS_DNS_TRUST_ANCHOR", value_name = "FILE")]
    pub dns_trust_anchor: Option<PathBuf>,
    /// Believe no seed that DNSSEC does not vouch for; `false` takes unsigned answers and refuses bogus ones.
    #[arg(long, env = "TRELLIS_REQUIRE_DNSSEC", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub require_dnssec: Option<bool>,
    /// Ways to find nodes beside `--peers`, comma-separated: `book`, `dns`, `pex`, `mdns`, `kad`; `off` for none of them.
    #[arg(long, env = "TRELLIS_DISCOVERY", value_name = "SOURCES", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub discovery: Option<Vec<String>>,
    /// Connections that this node dials and keeps at least, as far as it knows nodes to dial.
    #[arg(long, env = "TRELLIS_OUTBOUND_MIN", value_name = "COUNT")]
    pub outbound_min: Option<u32>,
    /// How many peers at once: `home` 50, `default` 125, `infra` 2,000; `auto` goes by the role.
    #[arg(long, env = "TRELLIS_PROFILE", value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Peers that stay connected however idle they are; 0 for four of five places of the profile.
    #[arg(long, env = "TRELLIS_POOL_PEERS", value_name = "COUNT")]
    pub pool_peers: Option<u32>,
    /// Seconds without a stream after which a peer above `pool_peers` may be let go.
    #[arg(long, env = "TRELLIS_POOL_IDLE_S", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub pool_idle_s: Option<u32>,
    /// MiB of the chain's database kept in memory, by those who hold the chain.
    #[arg(long, env = "TRELLIS_DATABASE_CACHE_MIB", value_name = "MIB", value_parser = clap::value_parser!(u32).range(4..=65_536))]
    pub database_cache_mib: Option<u32>,
    /// Mbit/s that may be sent to peers on the Internet; 0 is no limit.
    #[arg(long, env = "TRELLIS_BANDWIDTH_UP", value_name = "MBIT/S")]
    pub bandwidth_up: Option<u64>,
    /// Mbit/s that may be received from peers on the Internet; 0 is no limit.
    #[arg(long, env = "TRELLIS_BANDWIDTH_DOWN", value_name = "MBIT/S")]
    pub bandwidth_down: Option<u64>,
    /// Networks that are exempt from the limits per address and from the bandwidth's, comma-separated or repeated.
    #[arg(long, env = "TRELLIS_EXEMPT_NETWORKS", value_name = "NETWORK", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub exempt_networks: Option<Vec<String>>,
    /// Seconds between two discovery rounds; while connections are missing they come sooner.
    #[arg(long, env = "TRELLIS_DISCOVERY_INTERVAL_S", value_name = "SECONDS")]
    pub discovery_interval_s: Option<u32>,
    /// Post-quantum policy for links: `require` refuses classical peers, `prefer` lets them in and shows them.
    #[arg(long, env = "TRELLIS_POST_QUANTUM", value_name = "POLICY")]
    pub post_quantum: Option<String>,
    /// JSON-RPC endpoints of the chain, comma-separated; the first that answers is used.
    #[arg(long, env = "TRELLIS_RPC", value_name = "URL", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub rpc: Option<Vec<String>>,
    /// Address of the validator's own JSON-RPC server.
    #[arg(long, env = "TRELLIS_RPC_LISTEN", value_name = "ADDR:PORT")]
    pub rpc_listen: Option<String>,
    /// Address of the gateway's OpenAI API.
    #[arg(long, env = "TRELLIS_HTTP_LISTEN", value_name = "ADDR:PORT")]
    pub http_listen: Option<String>,
    /// Address of `/metrics` and `/health`; `off` closes it.
    #[arg(long, env = "TRELLIS_METRICS_LISTEN", value_name = "ADDR:PORT|off")]
    pub metrics_listen: Option<String>,
    /// A llama-family GGUF file to serve; the small model in the binary otherwise.
    #[arg(long, env = "TRELLIS_MODEL", value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// An OpenAI-compatible server to sell instead of the embedded engine (Ollama, vLLM, llama.cpp).
    #[arg(long, env = "TRELLIS_UPSTREAM", value_name = "URL")]
    pub upstream: Option<String>,
    /// Price per million input tokens, in wei.
    #[arg(long, env = "TRELLIS_PRICE_IN_WEI", value_name = "WEI")]
    pub price_in_wei: Option<String>,
    /// Price per million output tokens, in wei.
    #[arg(long, env = "TRELLIS_PRICE_OUT_WEI", value_name = "WEI")]
    pub price_out_wei: Option<String>,
    /// What either side of a job may owe the other at most, in wei.
    #[arg(long, env = "TRELLIS_RISK_LIMIT_WEI", value_name = "WEI")]
    pub risk_limit_wei: Option<String>,
    /// Deposit of a new channel, in wei.
    #[arg(long, env = "TRELLIS_DEPOSIT_WEI", value_name = "WEI")]
    pub deposit_wei: Option<String>,
    /// Jobs that a provider runs at once.
    #[arg(long, env = "TRELLIS_JOBS_MAX", value_name = "COUNT")]
    pub jobs_max: Option<u32>,
    /// Providers that a gateway keeps connected because they served it well lately; 0 for none.
    #[arg(long, env = "TRELLIS_FAVOURITES", value_name = "COUNT", value_parser = clap::value_parser!(u8).range(0..=64))]
    pub favourites: Option<u8>,
    /// API keys that the gateway accepts, comma-separated; without one it accepts any key from this machine.
    #[arg(long, env = "TRELLIS_API_KEYS", value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
    #[serde(deserialize_with = "one_or_many")]
    pub api_keys: Option<Vec<String>>,
    /// Account of the aggregator that settles receipts; on the chain `dev` its test account.
    #[arg(long, env = "TRELLIS_AGGREGATOR", value_name = "ADDRESS")]
    pub aggregator: Option<String>,
    /// Index of the funded test account that a new keystore on the `dev` chain gets.
    #[arg(long, env = "TRELLIS_DEV_ACCOUNT", value_name = "INDEX")]
    pub dev_account: Option<u32>,
    /// File that holds the keystore's passphrase; `TRELLIS_PASSPHRASE` otherwise.
    #[arg(long, env = "TRELLIS_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Nothing is relayed for peers whose reputation is below this.
    #[arg(long, env = "TRELLIS_RELAY_BELOW", value_name = "0-50", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub relay_below: Option<u8>,
    /// Peers whose reputation is below this get no duties in consensus where the chain lets us choose.
    #[arg(long, env = "TRELLIS_CONSENSUS_BELOW", value_name = "0-50", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub consensus_below: Option<u8>,
    /// Peers whose reputation falls below this are disconnected.
    #[arg(long, env = "TRELLIS_DISCONNECT_BELOW", value_name = "0-50", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub disconnect_below: Option<u8>,
    /// Peers whose reputation falls below this are banned.
    #[arg(long, env = "TRELLIS_BAN_BELOW", value_name = "0-50", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub ban_below: Option<u8>,
    /// What a TRL is assumed to be worth in US dollars, for the fees that are shown in dollars; no market's price.
    #[arg(long, env = "TRELLIS_TRL_PRICE_USD", value_name = "USD")]
    pub trl_price_usd: Option<String>,
}

/// Where the data of a node is; the one setting that cannot be in its own config file.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Folder of the node's keys, data and config.
    #[arg(long, env = "TRELLIS_DATADIR", value_name = "DIR", global = true)]
    pub datadir: Option<PathBuf>,
}

/// Every value, settled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the help texts of `Given` are the documentation of both")]
pub struct Settings {
    pub chain: String,
    pub listen: Vec<String>,
    pub external_addresses: Vec<String>,
    pub proxy: Option<String>,
    pub onion_only: bool,
    pub stun: Vec<String>,
    pub turn: Vec<String>,
    pub turn_user: Option<String>,
    pub turn_password_file: Option<PathBuf>,
    pub turn_ca: Option<PathBuf>,
    pub region: String,
    pub relays: u8,
    pub map_ports: bool,
    pub relay_profile: String,
    pub peers: Vec<String>,
    pub dns_seed: Vec<String>,
    pub dns_server: Vec<String>,
    pub dns_ca: Option<PathBuf>,
    pub dns_trust_anchor: Option<PathBuf>,
    pub require_dnssec: bool,
    pub discovery: Vec<String>,
    pub outbound_min: u32,
    pub profile: String,
    pub pool_peers: u32,
    pub pool_idle_s: u32,
    pub database_cache_mib: u32,
    pub bandwidth_up: u64,
    pub bandwidth_down: u64,
    pub exempt_networks: Vec<String>,
    pub discovery_interval_s: u32,
    pub post_quantum: String,
    pub rpc: Vec<String>,
    pub rpc_listen: String,
    pub http_listen: String,
    pub metrics_listen: String,
    pub model: Option<PathBuf>,
    pub upstream: Option<String>,
    pub price_in_wei: String,
    pub price_out_wei: String,
    pub risk_limit_wei: String,
    pub deposit_wei: String,
    pub jobs_max: u32,
    pub favourites: u8,
    pub api_keys: Vec<String>,
    pub aggregator: Option<String>,
    pub dev_account: Option<u32>,
    pub passphrase_file: Option<PathBuf>,
    pub relay_below: u8,
    pub consensus_below: u8,
    pub disconnect_below: u8,
    pub ban_below: u8,
    pub trl_price_usd: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chain: "dev".into(),
            listen: ["/ip4/0.0.0.0/udp/9700/quic-v1", "/ip4/0.0.0.0/tcp/9700"].map(str::to_owned).to_vec(),
            external_addresses: Vec::new(),
            proxy: None,
            onion_only: false,
            stun: STUN_SERVERS_DEFAULT.map(str::to_owned).to_vec(),
            turn: Vec::new(),
            turn_user: None,
            turn_password_file: None,
            turn_ca: None,
            region: String::new(),
            relays: 2,
            map_ports: true,
            relay_profile: "infra".into(),
            peers: Vec::new(),
            dns_seed: Vec::new(),
            dns_server: Vec::new(),
            dns_ca: None,
            dns_trust_anchor: None,
            require_dnssec: false,
            discovery: ["book", "dns", "pex", "mdns", "kad"].map(str::to_owned).to_vec(),
            outbound_min: 8,
            profile: "auto".into(),
            pool_peers: 0,
            pool_idle_s: 600,
            database_cache_mib: 64,
            bandwidth_up: 100,
            bandwidth_down: 100,
            exempt_networks: Vec::new(),
            discovery_interval_s: 300,
            post_quantum: "require".into(),
            rpc: vec!["http://127.0.0.1:8545".into()],
            rpc_listen: "127.0.0.1:8545".into(),
            http_listen: "127.0.0.1:8080".into(),
            metrics_listen: "127.0.0.1:9600".into(),
            model: None,
            upstream: None,
            price_in_wei: "1000000000000000000".into(),
            price_out_wei: "3000000000000000000".into(),
            risk_limit_wei: "10000000000000000".into(),
            deposit_wei: "10000000000000000000".into(),
            jobs_max: 8,
            favourites: 8,
            api_keys: Vec::new(),
            aggregator: None,
            dev_account: None,
            passphrase_file: None,
            relay_below: 30,
            consensus_below: 50,
            disconnect_below: 20,
            ban_below: 10,
            trl_price_usd: TRL_PRICE_USD_DEFAULT.into(),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The command line.
    Flag,
    /// A `TRELLIS_*` variable.
    Environment,
    /// `config.toml`.
    File,
    /// Built in.
    Default,
}

/// Settled values and where each came from.
pub struct Settled {
    /// The values.
    pub values: Settings,
    /// Each key's source.
    pub sources: BTreeMap<String, Source>,
}

/// Settles every key.
///
/// # Errors
/// A [`Failure`] where the file is unreadable, has an unknown key, or a value has the wrong form.
pub fn settle(given: &Given, matches: Option<&ArgMatches>, file: &Path) -> Result<Settled> {
    let mut merged = object(&Settings::default())?;
    let mut sources: BTreeMap<String, Source> = merged.keys().map(|key| (key.clone(), Source::Default)).collect();
    for (key, value) in read_file(file)? {
        sources.insert(key.clone(), Source::File);
        merged.insert(key, value);
    }
    for (key, value) in object(given)?.into_iter().filter(|(_, value)| !value.is_null()) {
        let from_environment = matches.and_then(|m| m.value_source(&key)) == Some(ValueSource::EnvVariable);
        sources.insert(key.clone(), if from_environment { Source::Environment } else { Source::Flag });
        merged.insert(key, value);
    }
    let values = serde_json::from_value(Value::Object(merged))
        .map_err(|error| Failure::usage(format!("a setting has the wrong form: {error}")))?;
    Ok(Settled { values, sources })
}

fn object<T: Serialize>(value: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

fn read_file(file: &Path) -> Result<Map<String, Value>> {
    if !file.exists() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
    let given: Given = toml::from_str(&text).map_err(|error| unknown_key(file, &error.to_string()))?;
    Ok(object(&given)?.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

/// A list of texts, or one text for a list of one; commas stand between several, as in flags.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Option<Vec<String>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            Ok(Some(words.map(str::to_owned).collect()))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(text) = texts.next_element()? {
                all.push(text);
            }
            Ok(Some(all))
        }
    }

    deserializer.deserialize_any(OneOrMany)
}

fn unknown_key(file: &Path, reason: &str) -> Failure {
    let failure = Failure::usage(format!("{} is not valid: {}", file.display(), reason.trim()));
    let Some(word) = reason.split('`').nth(1) else { return failure };
    let known = Map::from_iter(object(&Settings::default()).unwrap_or_default());
    match known.keys().min_by_key(|key| distance(key, word)) {
        Some(near) if reason.contains("unknown field") => failure.hint(format!("did you mean `{near}`?")),
        _ => failure,
    }
}

/// Levenshtein's distance, for suggestions only.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(diagonal + usize::from(left != *right));
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The config file with every default and its help text, commented out.
pub fn commented_defaults() -> Result<String> {
    let command = Given::augment_args(clap::Command::new("trellis"));
    let mut text = String::from(
        "# Settings of a Trellis node. A flag or a TRELLIS_* variable wins over this file.\n\
         # Every line below is the default; take the `#` away to change it. No secret belongs here.\n",
    );
    for (key, value) in object(&Settings::default())? {
        let help = command.get_arguments().find(|arg| arg.get_id().as_str() == key).and_then(clap::Arg::get_help);
        let shown = match value {
            Value::Null => "\"\"".to_owned(),
            other => other.to_string(),
        };
        text.push_str(&format!("\n# {}\n# {key} = {shown}\n", help.map(ToString::to_string).unwrap_or_default()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: OPS-10
    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "chain = \"from-file\"\njobs_max = 3\n").expect("write");
        let given = Given { jobs_max: Some(5), ..Given::default() };
        let settled = settle(&given, None, &file).expect("settled");
        assert_eq!((settled.values.chain.as_str(), settled.values.jobs_max), ("from-file", 5));
        assert_eq!(settled.sources["chain"], Source::File);
        assert_eq!(settled.sources["jobs_max"], Source::Flag);
        assert_eq!(settled.sources["listen"], Source::Default);
    }

    // row: OPS-10
    #[test]
    fn one_text_in_the_file_is_a_list_of_one_and_a_number_is_none() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("config.toml");
        let listen = |text: &str| {
            std::fs::write(&file, format!("listen = {text}\n")).expect("write");
            settle(&Given::default(), None, &file).map(|settled| settled.values.listen)
        };
        assert_eq!(listen("\"/ip4/0.0.0.0/tcp/1\"").expect("one"), ["/ip4/0.0.0.0/tcp/1"]);
        assert_eq!(
            listen("\"/ip4/0.0.0.0/tcp/1, /ip6/::/tcp/1\"").expect("two"),
            ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"]
        );
        assert_eq!(listen("[\"/ip4/0.0.0.0/tcp/1\"]").expect("a list"), ["/ip4/0.0.0.0/tcp/1"]);
        assert_eq!(listen("\"\"").expect("nothing"), Vec::<String>::new());
        let error = listen("9700").expect_err("a number").to_string();
        assert!(error.contains("a text or a list of texts"), "{error}");
    }

    // row: OPS-10
    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "job_max = 3\n").expect("write");
        let error = settle(&Given::default(), None, &file).err().expect("refused");
        assert!(error.to_string().contains("did you mean `jobs_max`?"), "{error}");
    }

    #[test]
    fn the_commented_defaults_are_a_valid_file_once_uncommented() {
        let text = commented_defaults().expect("text");
        let live: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = ") && !line.contains(" = \"\""))
            .fold(String::new(), |all, line| all + line + "\n");
        toml::from_str::<Given>(&live).expect("valid");
    }
}
