//! `trellis audit ledger`: every sum of money.md, recomputed (OPS-06).

use crate::bridge::connect;
use crate::cli::AuditCommand;
use crate::command::wallet::chain_endpoint;
use crate::command::{chain_of, node_of};
use crate::control::ask;
use crate::failure::Failure;
use crate::ledger::ledgers;
use crate::table::print;
use eyre::Result;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use trellis_market_settlement::{AuditReport, Contracts, LedgerSide, audit_ledger};
use trellis_primitives::SystemClock;

/// Runs an audit command; exit 1 where the ledgers disagree.
pub async fn run(command: AuditCommand, datadir: Option<&Path>) -> Result<()> {
    let AuditCommand::Ledger { json, rpc } = command;
    // A running gateway first tells its providers what they lack, so that a crash's half-finished words are finished.
    if let Ok(gateway) = node_of(datadir, "gateway") {
        let _ = ask(&gateway, "admin_sync", Value::Null).await;
    }
    let chain = chain_of(datadir)?;
    let ledgers = ledgers(datadir)?;
    let sides: Vec<LedgerSide<'_>> =
        ledgers.iter().map(|ledger| LedgerSide { name: ledger.role.clone(), index: ledger.reader.index() }).collect();
    let endpoint = match rpc {
        Some(endpoint) => endpoint,
        None => chain_endpoint(datadir).await?,
    };
    let client = connect(&chain, &[endpoint], Arc::new(SystemClock)).await?;
    let report = audit_ledger(&sides, client.as_ref(), &Contracts::from(&chain.contracts)).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        show(&report);
    }
    if report.agrees {
        return Ok(());
    }
    Err(Failure::new(format!("the ledgers disagree in {} places", report.faults.len())).into())
}

fn show(report: &AuditReport) {
    let rows: Vec<Vec<String>> = report
        .channels
        .iter()
        .flat_map(|channel| {
            channel.sides.iter().map(|side| {
                let id: String = channel.channel.to_string().chars().take(18).collect();
                vec![
                    id,
                    side.side.clone(),
                    side.role.to_owned(),
                    side.jobs.to_string(),
                    channel.deposit.to_string(),
                    channel.paid.to_string(),
                    channel.status.to_owned(),
                ]
            })
        })
        .collect();
    print(&["CHANNEL", "JOURNAL", "AS", "JOBS", "DEPOSIT", "PAID", "STATE"], &rows);
    let totals = &report.totals;
    println!(
        "\nblock {}: deposits {} = paid {} + fees {} + locked {} + returned {}",
        report.block, totals.deposits, totals.paid, totals.fees, totals.locked, totals.returned
    );
    println!("{} complete jobs, {} half-signed", report.complete_jobs, report.half_signed.len());
    for fault in &report.faults {
        println!("DISAGREES {}: expected {}, found {} ({})", fault.what, fault.expected, fault.actual, fault.side);
    }
    println!("{}", if report.agrees { "the ledgers agree" } else { "the ledgers do not agree" });
}
