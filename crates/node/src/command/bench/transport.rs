//! `trellis bench transport`: our link and plain quinn, in turns in one run (NET-80, NET-81).
//!
//! The stock libp2p-quic is a dev-dependency only, so its row comes from the transport crate's example
//! `bench_transport`, which measures all three in one run.

use super::rounded;
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use trellis_net_transport::bench::{BenchOptions, BenchRow, run as measure};

/// Measures and prints.
pub async fn run(json: bool) -> Result<()> {
    let options = BenchOptions::default();
    eprintln!("{} rounds of trellis and quinn in turns; this takes about a minute", options.rounds);
    let report = measure(&options).await?;
    let rows: Vec<Value> = report.rows.iter().map(row).collect();
    if json {
        let note = "libp2p-quic is measured by `cargo run -p trellis-net-transport --example bench_transport`";
        print_json(&json!({"rows": rows, "rounds": options.rounds, "note": note}));
        return Ok(());
    }
    let heads = ["VARIANT", "ECHO p50 us", "p99 us", "MiB/s", "HANDSHAKE p50 ms", "REFUSED CPU us", "ACCEPTED CPU us"];
    let cells: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.variant.to_owned()];
            cells.extend(figures(row).map(|(_, figure)| format!("{figure:.1}")));
            cells
        })
        .collect();
    print(&heads, &cells);
    Ok(())
}

fn figures(row: &BenchRow) -> [(&'static str, f64); 6] {
    [
        ("echo_us_p50", row.echo_us_p50),
        ("echo_us_p99", row.echo_us_p99),
        ("mib_per_s", row.mib_per_s),
        ("handshake_ms_p50", row.handshake_ms_p50),
        ("refused_cpu_us", row.refused_cpu_us),
        ("accepted_cpu_us", row.accepted_cpu_us),
    ]
}

fn row(row: &BenchRow) -> Value {
    let mut value = json!({"variant": row.variant});
    for (key, figure) in figures(row) {
        value[key] = rounded(figure);
    }
    value
}
