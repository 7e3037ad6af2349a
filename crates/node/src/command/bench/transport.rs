//! `trellis bench transport`: our link, plain quinn and stock libp2p-quic, in turns in one run (NET-15, NET-80, NET-81).

use super::rounded;
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use trellis_net_transport::bench::{BenchOptions, BenchRow, StreamsRow, run as measure};

/// A figure's key in JSON, and its value.
type Figure = (&'static str, f64);

/// Measures and prints.
pub async fn run(json: bool) -> Result<()> {
    let options = BenchOptions::default();
    eprintln!("{} rounds of trellis, quinn and libp2p-quic in turns; this takes about a minute", options.rounds);
    let report = measure(&options).await?;
    if json {
        print_json(&as_json(&report.rows, options.rounds));
        return Ok(());
    }
    println!("One stream of one connection. CPU is that of both ends together, beside the time on the clock.");
    let heads = ["VARIANT", "ECHO p50 us", "p99 us", "CPU us", "MiB/s", "CPU us/MiB"];
    print(&heads, &table(&report.rows, one_stream));
    println!("\nConnections. CPU is the listener's for one that it accepts or refuses, and the dialer's.");
    let heads = [
        "VARIANT",
        "HANDSHAKE p50 ms",
        "FRESH REPLY ms",
        "REUSED ms",
        "ACCEPTED CPU us",
        "REFUSED CPU us",
        "DIALED CPU us",
    ];
    print(&heads, &table(&report.rows, connections));
    for (place, streams) in report.rows.first().map(|row| row.streams.as_slice()).unwrap_or_default().iter().enumerate()
    {
        println!("\n{} streams at once, over {} connections.", streams.streams, streams.connections);
        let heads = ["VARIANT", "REPLIES/s", "REPLY p50 us", "p99 us", "CPU us"];
        print(&heads, &table(&report.rows, |row| row.streams.get(place).map_or_else(Vec::new, many_streams)));
    }
    for row in &report.rows {
        let share = 100.0 * row.refused_cpu_us / row.accepted_cpu_us;
        eprintln!("{}: a refused connection costs {share:.1} % of an accepted one", row.variant);
    }
    Ok(())
}

/// The first row as multiples of each other one, then the rows.
fn table(rows: &[BenchRow], figures: impl Fn(&BenchRow) -> Vec<Figure>) -> Vec<Vec<String>> {
    let cells = |name: String, figures: Vec<String>| std::iter::once(name).chain(figures).collect();
    let mut table = Vec::new();
    if let [ours, others @ ..] = rows {
        for other in others {
            let ratios = ratios(&figures(ours), &figures(other));
            let name = format!("{} / {}", ours.variant, other.variant);
            table.push(cells(name, ratios.iter().map(|(_, ratio)| format!("{ratio:.2} x")).collect()));
        }
    }
    for row in rows {
        let shown = figures(row).iter().map(|(_, figure)| format!("{figure:.1}")).collect();
        table.push(cells(row.variant.to_owned(), shown));
    }
    table
}

/// Figures as multiples of others measured in the same run: they hold on any machine.
fn ratios(ours: &[Figure], theirs: &[Figure]) -> Vec<Figure> {
    ours.iter().zip(theirs).map(|((key, ours), (_, theirs))| (*key, ours / theirs)).collect()
}

fn one_stream(row: &BenchRow) -> Vec<Figure> {
    vec![
        ("echo_us_p50", row.echo_us_p50),
        ("echo_us_p99", row.echo_us_p99),
        ("echo_cpu_us", row.echo_cpu_us),
        ("mib_per_s", row.mib_per_s),
        ("mib_cpu_us", row.mib_cpu_us),
    ]
}

fn connections(row: &BenchRow) -> Vec<Figure> {
    vec![
        ("handshake_ms_p50", row.handshake_ms_p50),
        ("fresh_reply_ms_p50", row.fresh_reply_ms_p50),
        ("reused_reply_ms_p50", row.reused_reply_ms_p50),
        ("accepted_cpu_us", row.accepted_cpu_us),
        ("refused_cpu_us", row.refused_cpu_us),
        ("dialed_cpu_us", row.dialed_cpu_us),
    ]
}

fn many_streams(row: &StreamsRow) -> Vec<Figure> {
    vec![
        ("replies_per_s", row.replies_per_s),
        ("reply_us_p50", row.reply_us_p50),
        ("reply_us_p99", row.reply_us_p99),
        ("reply_cpu_us", row.reply_cpu_us),
    ]
}

/// The form of OPS-06, with our figures as multiples of each other variant's beside it.
fn as_json(rows: &[BenchRow], rounds: usize) -> Value {
    let mut report = json!({"rows": rows.iter().map(row_json).collect::<Vec<_>>(), "rounds": rounds});
    let [ours, others @ ..] = rows else { return report };
    for other in others {
        let all = |row: &BenchRow| [one_stream(row), connections(row)].concat();
        let mut against = object(ratios(&all(ours), &all(other)));
        let streams = ours.streams.iter().zip(&other.streams).map(|(ours, theirs)| {
            let mut row = object(ratios(&many_streams(ours), &many_streams(theirs)));
            row["streams"] = ours.streams.into();
            row
        });
        against["streams"] = streams.collect();
        report[format!("trellis_over_{}", other.variant.replace('-', "_"))] = against;
    }
    report
}

fn row_json(row: &BenchRow) -> Value {
    let mut value = object([one_stream(row), connections(row)].concat());
    value["variant"] = row.variant.into();
    value["refused_over_accepted"] = rounded(row.refused_cpu_us / row.accepted_cpu_us);
    let streams = row.streams.iter().map(|streams| {
        let mut row = object(many_streams(streams));
        (row["streams"], row["connections"]) = (streams.streams.into(), streams.connections.into());
        row
    });
    value["streams"] = streams.collect();
    value
}

fn object(figures: Vec<Figure>) -> Value {
    Value::Object(figures.into_iter().map(|(key, figure)| (key.to_owned(), rounded(figure))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(variant: &'static str, all: f64) -> BenchRow {
        let streams = StreamsRow {
            streams: 100,
            connections: 1,
            replies_per_s: all,
            reply_us_p50: all,
            reply_us_p99: all,
            reply_cpu_us: all,
        };
        BenchRow {
            variant,
            echo_us_p50: all,
            echo_us_p99: all,
            echo_cpu_us: all,
            mib_per_s: all,
            mib_cpu_us: all,
            handshake_ms_p50: all,
            fresh_reply_ms_p50: all,
            reused_reply_ms_p50: all,
            refused_cpu_us: all,
            accepted_cpu_us: all,
            dialed_cpu_us: all,
            streams: vec![streams],
        }
    }

    // row: OPS-06
    #[test]
    fn the_json_has_the_keys_of_the_specification_and_ratios_against_each_other_variant() {
        let value = as_json(&[row("trellis", 3.0), row("quinn", 2.0), row("libp2p-quic", 4.0)], 5);
        let rows = value["rows"].as_array().unwrap();
        for (row, variant) in rows.iter().zip(["trellis", "quinn", "libp2p-quic"]) {
            assert_eq!(row["variant"], variant);
            for key in ["echo_us_p50", "echo_us_p99", "mib_per_s", "handshake_ms_p50", "refused_cpu_us"] {
                assert!(row[key].is_number(), "{key} of {row}");
            }
        }
        assert_eq!((&value["trellis_over_quinn"]["mib_per_s"], &value["rounds"]), (&1.5.into(), &5.into()));
        assert_eq!(value["trellis_over_libp2p_quic"]["streams"][0]["replies_per_s"], 0.75);
    }

    #[test]
    fn the_table_begins_with_the_ratios() {
        let rows = table(&[row("trellis", 3.0), row("quinn", 2.0)], one_stream);
        assert_eq!((rows[0][0].as_str(), rows[0][1].as_str()), ("trellis / quinn", "1.50 x"));
        assert_eq!((rows[1][0].as_str(), rows[2][0].as_str()), ("trellis", "quinn"));
    }
}
