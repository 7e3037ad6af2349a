//! Logs: text or JSON on standard error, by `RUST_LOG` or a default that fits the command (OPS-22).

use crate::cli::Command;
use tracing_subscriber::EnvFilter;

/// What a node logs where `RUST_LOG` says nothing: its own news, and of libraries only what is wrong. That Kademlia knows
/// nobody yet, and that an interface has no multicast yet, `status` says better.
const NODE_FILTER: &str = "warn,trellis=info,libp2p_kad=error,libp2p_mdns=off";
/// What other commands log.
const COMMAND_FILTER: &str = "error";

/// Starts logging.
pub fn start(json: bool, command: &Command) {
    let fallback = match command {
        Command::Validator { .. }
        | Command::Full(_)
        | Command::Provider(_)
        | Command::Gateway(_)
        | Command::Aggregator(_)
        | Command::Relay(_)
        | Command::DnsSeed { .. } => NODE_FILTER,
        _ => COMMAND_FILTER,
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    // A log that cannot be written, as on a full disk, must not end the thread that wrote it: the library would print
    // its complaint to the same place, and that panics.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if json { builder.json().init() } else { builder.with_ansi(false).init() }
}
