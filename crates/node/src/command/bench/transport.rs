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
    let ratios = ratios(&report.rows);
    if json {
        let note = "libp2p-quic is measured by `cargo run -p trellis-net-transport --example bench_transport`";
        let ratios = object(ratios);
        print_json(&json!({"trellis_over_quinn": ratios, "rows": rows, "rounds": options.rounds, "note": note}));
        return Ok(());
    }
    let heads = [
        "VARIANT",
        "ECHO p50 us",
        "p99 us",
        "MiB/s",
        "HANDSHAKE p50 ms",
        "REFUSED CPU us",
        "ACCEPTED CPU us",
        "DIALED CPU us",
    ];
    let mut cells = vec![cells_of("trellis / quinn", ratios.iter().map(|(_, ratio)| format!("{ratio:.2} x")))];
    cells.extend(
        report.rows.iter().map(|row| cells_of(row.variant, figures(row).map(|(_, figure)| format!("{figure:.1}")))),
    );
    print(&heads, &cells);
    Ok(())
}

fn cells_of(name: &str, figures: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(figures).collect()
}

/// Trellis' figures as multiples of plain quinn's, measured in the same run: they hold on any machine.
fn ratios(rows: &[BenchRow]) -> Vec<(&'static str, f64)> {
    let [trellis, quinn, ..] = rows else { return Vec::new() };
    figures(trellis).into_iter().zip(figures(quinn)).map(|((key, ours), (_, theirs))| (key, ours / theirs)).collect()
}

fn figures(row: &BenchRow) -> [(&'static str, f64); 7] {
    [
        ("echo_us_p50", row.echo_us_p50),
        ("echo_us_p99", row.echo_us_p99),
        ("mib_per_s", row.mib_per_s),
        ("handshake_ms_p50", row.handshake_ms_p50),
        ("refused_cpu_us", row.refused_cpu_us),
        ("accepted_cpu_us", row.accepted_cpu_us),
        ("dialed_cpu_us", row.dialed_cpu_us),
    ]
}

fn row(row: &BenchRow) -> Value {
    let mut value = object(figures(row));
    value["variant"] = row.variant.into();
    value
}

fn object(figures: impl IntoIterator<Item = (&'static str, f64)>) -> Value {
    Value::Object(figures.into_iter().map(|(key, figure)| (key.to_owned(), rounded(figure))).collect())
}
