//! Prints the stage table of blocks of transfers: `cargo run --example bench_chain -p trellis-chain-producer native|erc20 [accounts] [blocks]`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use trellis_chain_producer::bench::{BenchConfig, Transfers, run};

fn main() -> ExitCode {
    let erc20 = std::env::args().any(|arg| arg == "erc20");
    let transfers = if erc20 { Transfers::Erc20 } else { Transfers::Native };
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<u32>().ok());
    let default = BenchConfig::default();
    let accounts = numbers.next().unwrap_or(default.accounts);
    let blocks = numbers.next().unwrap_or(default.blocks);
    match run(&BenchConfig { transfers, accounts, blocks, ..default }) {
        Ok(report) => {
            println!(
                "{} {transfers:?} transfers in {} blocks, {} accounts",
                report.transactions, report.blocks, report.accounts
            );
            for stage in &report.stages {
                println!("{:>12} {:8.2} us wall {:8.2} us CPU", stage.name, stage.wall_us_per_tx, stage.cpu_us_per_tx);
            }
            println!("{:>12} {:8.2} us wall {:8.2} us CPU", "sum", report.wall_us_per_tx, report.cpu_us_per_tx);
            println!("{:.0} transfers/s", report.transactions_per_s);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
