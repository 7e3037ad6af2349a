//! Many streams at once: a small request and its reply on each, again and again (NET-15).

use std::time::Instant;

use futures::{AsyncReadExt, AsyncWriteExt};
use serde::Serialize;
use tokio::task::JoinSet;

use super::listener::{ECHO_BYTES, MODE_ECHO};
use super::measure::{CpuMeter, quantile};
use super::{BenchConnection, BenchError, BenchStream, Variant};

/// How many streams are open at once in each measurement.
pub const STREAM_COUNTS: [usize; 2] = [100, 1_000];
/// Streams on one connection: what every node takes (NET-15). More streams are spread over more connections.
const STREAMS_PER_CONNECTION: usize = 100;

/// How so many streams fared.
#[derive(Clone, Debug, Serialize)]
pub struct StreamsRow {
    /// Open at once.
    pub streams: usize,
    /// Over so many connections.
    pub connections: usize,
    /// Requests of 64 bytes that were replied to on all of them together, per second.
    pub replies_per_s: f64,
    /// From a request to its reply while all the others are asked too, median, microseconds.
    pub reply_us_p50: f64,
    /// The same, 99th percentile.
    pub reply_us_p99: f64,
    /// CPU time of both ends for one request and its reply, microseconds.
    pub reply_cpu_us: f64,
}

/// What was measured with one number of streams.
#[derive(Default)]
pub(super) struct StreamsSamples {
    replies_per_s: Vec<f64>,
    reply_us: Vec<f64>,
    reply_cpu_us: Vec<f64>,
}

impl StreamsSamples {
    /// The medians.
    pub(super) fn row(&mut self, streams: usize) -> StreamsRow {
        StreamsRow {
            streams,
            connections: streams.div_ceil(STREAMS_PER_CONNECTION),
            replies_per_s: quantile(&mut self.replies_per_s, 0.50),
            reply_us_p50: quantile(&mut self.reply_us, 0.50),
            reply_us_p99: quantile(&mut self.reply_us, 0.99),
            reply_cpu_us: quantile(&mut self.reply_cpu_us, 0.50),
        }
    }
}

/// Opens so many streams and asks `requests` in all, spread evenly, one after the other on each.
pub(super) async fn run(
    variant: &mut Variant,
    streams: usize,
    requests: usize,
    samples: &mut StreamsSamples,
) -> Result<(), BenchError> {
    let name = variant.name;
    let mut connections: Vec<Box<dyn BenchConnection>> = Vec::new();
    let mut ready = JoinSet::new();
    for n in 0..streams {
        if n % STREAMS_PER_CONNECTION == 0 {
            connections.push(variant.dialer.dial(variant.listener.address).await?);
        }
        let Some(connection) = connections.last_mut() else { continue };
        let mut stream = connection.open().await?;
        // The first reply shows that the listener has the stream.
        ready.spawn(async move {
            stream.write_all(&[MODE_ECHO]).await?;
            ask(&mut stream).await.map(|_| stream)
        });
    }
    let mut open = Vec::new();
    while let Some(stream) = ready.join_next().await {
        open.push(joined(name, stream)?);
    }
    let each = (requests / streams.max(1)).max(1);
    let (cpu, began) = (CpuMeter::start(&variant.listener), Instant::now());
    let mut asking = JoinSet::new();
    for mut stream in open {
        asking.spawn(async move {
            let mut took_us = Vec::with_capacity(each);
            for _ in 0..each {
                took_us.push(ask(&mut stream).await?);
            }
            Ok((took_us, stream))
        });
    }
    let mut kept = Vec::new();
    while let Some(asked) = asking.join_next().await {
        let (took_us, stream) = joined(name, asked)?;
        samples.reply_us.extend(took_us);
        kept.push(stream);
    }
    let asked = each * streams;
    samples.replies_per_s.push(asked as f64 / began.elapsed().as_secs_f64());
    samples.reply_cpu_us.extend(cpu.both_us(&variant.listener, asked));
    Ok(())
}

/// One request and its reply; gives how long it took, microseconds.
async fn ask(stream: &mut Box<dyn BenchStream>) -> std::io::Result<f64> {
    let mut message = [7u8; ECHO_BYTES];
    let start = Instant::now();
    stream.write_all(&message).await?;
    stream.flush().await?;
    stream.read_exact(&mut message).await?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn joined<T>(
    variant: &'static str,
    outcome: Result<std::io::Result<T>, tokio::task::JoinError>,
) -> Result<T, BenchError> {
    let failed = |detail: String| BenchError::Run { variant, detail };
    outcome.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
