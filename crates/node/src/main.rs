//! The binary: CLI, config, wiring, telemetry. The only place where the planes meet.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's result is what it prints")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![allow(missing_docs, reason = "a binary has no public items; its commands are documented in cli.rs")]

mod amount;
mod bridge;
mod chain;
mod cli;
mod command;
mod control;
mod datadir;
mod dev;
mod failure;
mod fees;
mod holder;
mod keys;
mod ledger;
mod localnet;
mod monitor;
mod role;
mod settings;
mod supervised;
mod supervisor;
mod table;
mod telemetry;
mod view;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Command};
use eyre::Result;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A reader that goes away, as `| head` does, ends a command quietly instead of with a panic's report.
fn end_quietly_on_a_closed_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        if message.starts_with("failed printing to stdout") {
            std::process::exit(0);
        }
        report(panic);
    }));
}

/// Keeps the system from giving this process memory in pieces of 2 MiB.
///
/// The kernel turns 2 MiB around any used page into one piece, used or not, and a node that runs for days grows by what it never
/// asked for. Only who holds a chain's whole state gains more by fewer page-table walks than that costs.
#[cfg(target_os = "linux")]
fn take_memory_in_small_pages(command: &Command) {
    let holds_a_chain = matches!(command, Command::Validator { .. } | Command::Full(_) | Command::Bench(_));
    if !holds_a_chain && let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "the system decides about huge pages");
    }
}

fn main() -> ExitCode {
    end_quietly_on_a_closed_pipe();
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    telemetry::start(cli.log_json, &cli.command);
    #[cfg(target_os = "linux")]
    take_memory_in_small_pages(&cli.command);
    let outcome = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(eyre::Report::new).and_then(
        |runtime| {
            let outcome = runtime.block_on(run(cli, &matches));
            // A blocking read of standard input must not keep the process alive.
            runtime.shutdown_background();
            outcome
        },
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failure::report(&error)),
    }
}

async fn run(cli: Cli, matches: &clap::ArgMatches) -> Result<()> {
    let datadir = cli.place.datadir.as_deref();
    let settle = |given: &settings::Given, role: &str| {
        let file = datadir.map_or_else(|| datadir::default_for(role), std::path::Path::to_path_buf).join("config.toml");
        settings::settle(given, matches.subcommand().map(|(_, sub)| sub), &file).map(|settled| settled.values)
    };
    match cli.command {
        Command::Dev(args) => dev::run(&args, datadir).await,
        Command::Localnet(args) => localnet::run(&args, datadir).await,
        Command::Validator { command: Some(command), .. } => command::validator::run(command, datadir).await,
        Command::Validator { command: None, given } => {
            role::validator::run(settle(&given, "validator")?, datadir).await
        }
        Command::Full(given) => role::full::run(settle(&given, "full")?, datadir).await,
        Command::Provider(given) => role::provider::run(settle(&given, "provider")?, datadir).await,
        Command::Gateway(given) => role::gateway::run(settle(&given, "gateway")?, datadir).await,
        Command::Aggregator(given) => role::aggregator::run(settle(&given, "aggregator")?, datadir).await,
        Command::Relay(given) => role::relay::run(settle(&given, "relay")?, datadir).await,
        Command::DnsSeed { args, given } => role::dnsseed::run(settle(&given, "dnsseed")?, &args, datadir).await,
        Command::Status(list) => command::status::run(list, datadir).await,
        Command::Netcheck(args) => command::netcheck::run(&args, datadir).await,
        Command::Peer(peer) => command::peer::run(peer, datadir).await,
        Command::Bandwidth { up, down, asked } => command::bandwidth::run(up, down, &asked, datadir).await,
        Command::Ping { id, count, asked } => command::ping::run(&id, count, &asked, datadir).await,
        Command::Receipt(receipt) => command::receipt::run(receipt, datadir).await,
        Command::Channel(channel) => command::channel::run(channel, datadir).await,
        Command::Wallet(wallet) => command::wallet::run(wallet, datadir).await,
        Command::Job(job) => command::job::run(job, datadir).await,
        Command::Audit(audit) => command::audit::run(audit, datadir).await,
        Command::Bench(bench) => command::bench::run(bench).await,
        Command::Key(key) => command::key::run(key, datadir),
        Command::Config(config) => command::config::run(config, datadir, matches),
        Command::Chain(chain) => command::chain::run(chain, datadir).await,
        Command::Snapshot(snapshot) => command::snapshot::run(snapshot, datadir),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "trellis", &mut std::io::stdout());
            Ok(())
        }
        Command::Reference { what } => command::reference::run(what),
    }
}
