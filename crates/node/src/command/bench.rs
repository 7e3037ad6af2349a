//! `trellis bench`: what this machine does, each figure beside what it is compared with (issue 2, item 6; OPS-06).

mod chain;
mod flow;
mod genesis;
mod ledger;
mod load;
mod market;
mod node;
mod payments;
mod shares;
mod transport;
mod usage;
mod validators;

use crate::cli::BenchCommand;
use crate::failure::Failure;
use crate::supervised::until_told_to_end;
use eyre::Result;
use serde_json::Value;

/// Runs one measurement; progress goes to stderr, the result to stdout.
///
/// # Errors
/// Whatever keeps it from measuring, or a result that is not what it must be.
pub async fn run(command: BenchCommand) -> Result<()> {
    // What is dropped here takes its children and folders with it, so an interrupted run leaves nothing behind.
    tokio::select! {
        outcome = measure(command) => outcome,
        cause = until_told_to_end() => Err(Failure::new(format!("ended while measuring ({cause})")).into()),
    }
}

async fn measure(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Transport { json } => transport::run(json).await,
        BenchCommand::Market { json, requests } => market::run(json, requests).await,
        BenchCommand::Chain(args) => chain::run(&args).await,
    }
}

/// The value below which a part of the samples lies (nearest rank); zero where there are none.
fn percentile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (part * samples.len() as f64).ceil() as usize;
    samples.get(index.clamp(1, samples.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// Three digits after the point, as results are read by people too.
fn rounded(number: f64) -> Value {
    Value::from((number * 1_000.0).round() / 1_000.0)
}

/// A figure as a table's cell; a dash where there is none.
fn shown(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&mut samples, 0.5) - 50.0).abs() < f64::EPSILON);
        assert!((percentile(&mut samples, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(&mut [7.0], 0.99) - 7.0).abs() < f64::EPSILON);
        assert!(percentile(&mut [], 0.5).abs() < f64::EPSILON);
    }
}
