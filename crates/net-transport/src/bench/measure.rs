//! Rounds of measurements over any number of variants, and their medians.

use std::time::Instant;

use futures::{AsyncReadExt, AsyncWriteExt};

use super::listener::{CHUNK_BYTES, ECHO_BYTES, MODE_ECHO, MODE_SWALLOW, thread_cpu_ns};
use super::streams::{self, STREAM_COUNTS, StreamsSamples};
use super::{BenchConnection, BenchError, BenchListener, BenchReport, BenchRow, Variant};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Rounds in which the variants take turns.
    pub rounds: usize,
    /// Echoes per variant and round.
    pub echoes: usize,
    /// Mebibytes on one stream per variant and round.
    pub bulk_mib: usize,
    /// Connections per variant and round.
    pub handshakes: usize,
    /// Refused connections per variant and round.
    pub refusals: usize,
    /// Requests on many streams at once, in all, per variant, round and number of streams.
    pub stream_requests: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { rounds: 5, echoes: 2_000, bulk_mib: 64, handshakes: 50, refusals: 100, stream_requests: 4_000 }
    }
}

#[derive(Default)]
struct Samples {
    echo_us: Vec<f64>,
    echo_cpu_us: Vec<f64>,
    mib_per_s: Vec<f64>,
    mib_cpu_us: Vec<f64>,
    handshake_ms: Vec<f64>,
    fresh_ms: Vec<f64>,
    reused_ms: Vec<f64>,
    refused_cpu_us: Vec<f64>,
    accepted_cpu_us: Vec<f64>,
    dialed_cpu_us: Vec<f64>,
    streams: [StreamsSamples; STREAM_COUNTS.len()],
}

/// The CPU time of both ends since it was started.
pub(super) struct CpuMeter {
    listener_ns: Option<u64>,
    dialer_ns: Option<u64>,
}

impl CpuMeter {
    /// From now on; on the dialers' thread.
    pub(super) fn start(listener: &BenchListener) -> Self {
        Self { listener_ns: listener.cpu_ns(), dialer_ns: thread_cpu_ns() }
    }

    /// The listener's part for each of so many items, microseconds.
    fn listener_us(&self, listener: &BenchListener, items: usize) -> Option<f64> {
        per_item_us(self.listener_ns, listener.cpu_ns(), items)
    }

    /// The dialer's part.
    fn dialer_us(&self, items: usize) -> Option<f64> {
        per_item_us(self.dialer_ns, thread_cpu_ns(), items)
    }

    /// Both together.
    pub(super) fn both_us(&self, listener: &BenchListener, items: usize) -> Option<f64> {
        Some(self.dialer_us(items)? + self.listener_us(listener, items)?)
    }
}

/// Runs every variant in turn, round by round. Everything the dialers do has to happen on the calling thread.
pub(super) async fn run_rounds(mut variants: Vec<Variant>, options: &BenchOptions) -> Result<BenchReport, BenchError> {
    let mut samples: Vec<Samples> = variants.iter().map(|_| Samples::default()).collect();
    for _ in 0..options.rounds.max(1) {
        for (variant, samples) in variants.iter_mut().zip(&mut samples) {
            round(variant, samples, options).await?;
        }
    }
    let rows = variants.iter().zip(&mut samples).map(|(variant, samples)| row(variant.name, samples)).collect();
    Ok(BenchReport { rows })
}

async fn round(variant: &mut Variant, samples: &mut Samples, options: &BenchOptions) -> Result<(), BenchError> {
    one_connection(variant, samples, options).await?;
    handshakes(variant, samples, options.handshakes).await?;
    refusals(variant, samples, options.refusals).await?;
    for (streams, samples) in STREAM_COUNTS.into_iter().zip(&mut samples.streams) {
        streams::run(variant, streams, options.stream_requests, samples).await?;
    }
    Ok(())
}

/// Echoes and bulk on one stream, and new streams on a connection that stands.
async fn one_connection(
    variant: &mut Variant,
    samples: &mut Samples,
    options: &BenchOptions,
) -> Result<(), BenchError> {
    let name = variant.name;
    let mut connection = variant.dialer.dial(variant.listener.address).await?;
    let cpu = CpuMeter::start(&variant.listener);
    echo(name, connection.as_mut(), options.echoes, &mut samples.echo_us).await?;
    samples.echo_cpu_us.extend(cpu.both_us(&variant.listener, options.echoes));
    let cpu = CpuMeter::start(&variant.listener);
    samples.mib_per_s.push(bulk(name, connection.as_mut(), options.bulk_mib).await?);
    samples.mib_cpu_us.extend(cpu.both_us(&variant.listener, options.bulk_mib));
    for _ in 0..options.handshakes {
        let start = Instant::now();
        echo(name, connection.as_mut(), 1, &mut Vec::new()).await?;
        samples.reused_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

async fn handshakes(variant: &mut Variant, samples: &mut Samples, count: usize) -> Result<(), BenchError> {
    let cpu = CpuMeter::start(&variant.listener);
    for _ in 0..count {
        let start = Instant::now();
        let mut connection = variant.dialer.dial(variant.listener.address).await?;
        samples.handshake_ms.push(start.elapsed().as_secs_f64() * 1e3);
        // One echo shows that the listener has finished its part too.
        echo(variant.name, connection.as_mut(), 1, &mut Vec::new()).await?;
        samples.fresh_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    samples.dialed_cpu_us.extend(cpu.dialer_us(count));
    samples.accepted_cpu_us.extend(cpu.listener_us(&variant.listener, count));
    Ok(())
}

async fn refusals(variant: &mut Variant, samples: &mut Samples, count: usize) -> Result<(), BenchError> {
    variant.listener.set_refuse(true);
    let cpu = CpuMeter::start(&variant.listener);
    for _ in 0..count {
        if let Ok(mut connection) = variant.dialer.dial(variant.listener.address).await {
            // Stock libp2p finishes the handshake of connections that it then drops; wait until it has.
            let mut dropped = connection.open().await;
            if let Ok(stream) = &mut dropped {
                let _ = stream.write_all(&[MODE_ECHO]).await;
                let _ = stream.read(&mut [0u8; 1]).await;
            }
        }
    }
    samples.refused_cpu_us.extend(cpu.listener_us(&variant.listener, count));
    variant.listener.set_refuse(false);
    Ok(())
}

async fn echo(
    variant: &'static str,
    connection: &mut dyn BenchConnection,
    count: usize,
    samples: &mut Vec<f64>,
) -> Result<(), BenchError> {
    let failed = |error: std::io::Error| BenchError::Run { variant, detail: error.to_string() };
    let mut stream = connection.open().await?;
    stream.write_all(&[MODE_ECHO]).await.map_err(failed)?;
    let mut message = [7u8; ECHO_BYTES];
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(&message).await.map_err(failed)?;
        stream.read_exact(&mut message).await.map_err(failed)?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    stream.close().await.map_err(failed)
}

async fn bulk(variant: &'static str, connection: &mut dyn BenchConnection, mib: usize) -> Result<f64, BenchError> {
    let failed = |error: std::io::Error| BenchError::Run { variant, detail: error.to_string() };
    let mut stream = connection.open().await?;
    let chunk = vec![7u8; CHUNK_BYTES];
    let start = Instant::now();
    stream.write_all(&[MODE_SWALLOW]).await.map_err(failed)?;
    for _ in 0..mib.saturating_mul(1024 * 1024 / CHUNK_BYTES) {
        stream.write_all(&chunk).await.map_err(failed)?;
    }
    stream.close().await.map_err(failed)?;
    // The listener answers when it has read everything.
    stream.read_exact(&mut [0u8; 1]).await.map_err(failed)?;
    Ok(mib as f64 / start.elapsed().as_secs_f64())
}

fn per_item_us(before: Option<u64>, after: Option<u64>, items: usize) -> Option<f64> {
    let spent_ns = after?.checked_sub(before?)?;
    Some(spent_ns as f64 / 1e3 / items.max(1) as f64)
}

fn row(variant: &'static str, samples: &mut Samples) -> BenchRow {
    BenchRow {
        variant,
        echo_us_p50: quantile(&mut samples.echo_us, 0.50),
        echo_us_p99: quantile(&mut samples.echo_us, 0.99),
        echo_cpu_us: quantile(&mut samples.echo_cpu_us, 0.50),
        mib_per_s: quantile(&mut samples.mib_per_s, 0.50),
        mib_cpu_us: quantile(&mut samples.mib_cpu_us, 0.50),
        handshake_ms_p50: quantile(&mut samples.handshake_ms, 0.50),
        fresh_reply_ms_p50: quantile(&mut samples.fresh_ms, 0.50),
        reused_reply_ms_p50: quantile(&mut samples.reused_ms, 0.50),
        refused_cpu_us: quantile(&mut samples.refused_cpu_us, 0.50),
        accepted_cpu_us: quantile(&mut samples.accepted_cpu_us, 0.50),
        dialed_cpu_us: quantile(&mut samples.dialed_cpu_us, 0.50),
        streams: STREAM_COUNTS.iter().zip(&mut samples.streams).map(|(count, samples)| samples.row(*count)).collect(),
    }
}

/// The value below which this share of the samples lies; zero without samples.
pub(super) fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    samples.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred_samples_are_where_they_should_be() {
        let mut samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut samples, 0.5), 50.0);
        assert_eq!(quantile(&mut samples, 0.99), 99.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }

    // row: NET-15, NET-80, NET-81, OPS-06
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_run_measures_every_variant_and_a_refusal_is_cheap() {
        let options =
            BenchOptions { rounds: 1, echoes: 50, bulk_mib: 2, handshakes: 10, refusals: 40, stream_requests: 2_000 };
        let report = super::super::run(&options).await.unwrap();
        let names: Vec<&str> = report.rows.iter().map(|row| row.variant).collect();
        assert_eq!(names, ["trellis", "quinn", "libp2p-quic"]);
        for row in &report.rows {
            assert!(row.echo_us_p50 > 0.0 && row.mib_per_s > 0.0 && row.handshake_ms_p50 > 0.0, "{row:?}");
            assert!(row.echo_cpu_us > 0.0 && row.mib_cpu_us > 0.0, "{row:?}");
            assert!(row.reused_reply_ms_p50 > 0.0 && row.fresh_reply_ms_p50 > row.handshake_ms_p50, "{row:?}");
            assert_eq!(row.streams.iter().map(|row| row.streams).collect::<Vec<_>>(), STREAM_COUNTS);
            for many in &row.streams {
                assert!(many.replies_per_s > 0.0 && many.reply_us_p99 >= many.reply_us_p50, "{row:?}");
                assert!(many.reply_us_p50 > 0.0 && many.reply_cpu_us > 0.0, "{row:?}");
            }
        }
        let ours = &report.rows[0];
        // The bar is 5 %; a debug build on a busy machine gets some room here, the benchmark itself shows the figure.
        assert!(ours.refused_cpu_us < ours.accepted_cpu_us * 0.2, "{ours:?}");
    }
}
