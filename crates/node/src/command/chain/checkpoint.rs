//! `trellis chain checkpoint`: a checkpoint from any node, checked with the committees' keys alone (CHN-15).

use crate::chain::Chain;
use crate::cli::CheckpointArgs;
use crate::failure::Failure;
use crate::table::print_json;
use alloy_primitives::{B256, Bytes, U64};
use eyre::Result;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use trellis_chain_finality::{
    CHECKPOINT_COMMITTEE_BYTES_MAX, CheckpointCertificate, CheckpointCommittee, CheckpointFollower,
    PostQuantumCertificate,
};

/// Seconds that a node has to answer.
const ANSWER_SECONDS_MAX: u64 = 30;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    certificate: Bytes,
    post_quantum: Option<Bytes>,
}

#[derive(Deserialize)]
struct FoundCommittee {
    committee: Bytes,
}

struct Rpc<'a> {
    client: reqwest::Client,
    url: &'a str,
}

impl Rpc<'_> {
    /// The answer to a question; none for `null`.
    async fn ask<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<Option<T>> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let failed = |reason: String| {
            Failure::new(format!("{} does not answer {method}: {reason}", self.url))
                .hint("give --rpc URL of a node of the chain")
        };
        let answer =
            self.client.post(self.url).json(&request).send().await.map_err(|error| failed(error.to_string()))?;
        let mut answer: Value = answer.json().await.map_err(|error| failed(error.to_string()))?;
        if let Some(error) = answer.get("error") {
            return Err(failed(error.to_string()).into());
        }
        Ok(serde_json::from_value(answer["result"].take()).map_err(|error| failed(error.to_string()))?)
    }

    async fn checkpoint(&self, height: Option<u64>) -> Result<Found> {
        let named = height.map_or_else(|| json!("latest"), |height| json!(U64::from(height)));
        self.ask("trellis_getCheckpoint", json!([named])).await?.ok_or_else(|| {
            let what = height.map_or_else(|| "no checkpoint".to_owned(), |height| format!("no checkpoint {height}"));
            Failure::new(format!("{} has {what}", self.url))
                .hint("`trellis chain inspect` shows consensus.checkpoint_blocks; each multiple of it has one, soon after its block")
                .into()
        })
    }

    async fn committee(&self, height: u64) -> Result<CheckpointCommittee> {
        let found: Option<FoundCommittee> =
            self.ask("trellis_getCheckpointCommittee", json!([U64::from(height)])).await?;
        let found =
            found.ok_or_else(|| Failure::new(format!("{} does not know the committee of {height}", self.url)))?;
        Ok(CheckpointCommittee::decode_exact(&found.committee)?)
    }
}

/// Fetches a checkpoint and checks it.
///
/// # Errors
/// A node that does not answer; a checkpoint that does not hold.
pub async fn run(args: &CheckpointArgs) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(ANSWER_SECONDS_MAX)).build()?;
    let rpc = Rpc { client, url: &args.rpc };
    let chain = Chain::load(&args.chain)?;
    let found = rpc.checkpoint(args.height).await?;
    let certificate = CheckpointCertificate::decode_exact(&found.certificate)?;
    if args.height.is_some_and(|height| height != certificate.height) {
        return Err(Failure::new(format!("{} answers with checkpoint {}", args.rpc, certificate.height)).into());
    }
    let follower = trusted(args, &chain, &rpc, &certificate).await?;
    follower.check(&certificate)?;
    let post_quantum = match found.post_quantum {
        Some(bytes) => Some(check_post_quantum(&follower, &bytes, &certificate, chain.genesis_hash)?),
        None if args.post_quantum => {
            return Err(Failure::new(format!("{} has no ML-DSA-44 signatures of it", args.rpc))
                .hint("ask a validator, or a full node that was up when it was signed")
                .into());
        }
        None => None,
    };
    show(args, &certificate, found.certificate.len(), post_quantum);
    Ok(())
}

/// Who checks a checkpoint: with the committee in a file, or from the first committee on.
async fn trusted(
    args: &CheckpointArgs,
    chain: &Chain,
    rpc: &Rpc<'_>,
    certificate: &CheckpointCertificate,
) -> Result<CheckpointFollower> {
    if let Some(file) = &args.committee {
        let unreadable =
            |error: String| Failure::new(format!("cannot read the committee in {}: {error}", file.display()));
        let size = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
        if size > 2 * CHECKPOINT_COMMITTEE_BYTES_MAX as u64 + 16 {
            return Err(unreadable(format!("{size} bytes are more than any committee has")).into());
        }
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        let bytes: Bytes = text.trim().trim_matches('"').parse().map_err(|error| unreadable(format!("{error}")))?;
        let committee = CheckpointCommittee::decode_exact(&bytes)?;
        return Ok(chain.checkpoint_follower().trusting(certificate.height, committee));
    }
    let mut follower = chain.checkpoint_follower();
    while let Some(height) = follower.needed(certificate.height) {
        let over = CheckpointCertificate::decode_exact(&rpc.checkpoint(Some(height)).await?.certificate)?;
        follower.learn(&over, rpc.committee(CheckpointFollower::named_by(height)).await?)?;
    }
    Ok(follower)
}

/// How many signed in ML-DSA-44.
fn check_post_quantum(
    follower: &CheckpointFollower,
    bytes: &Bytes,
    certificate: &CheckpointCertificate,
    genesis_hash: B256,
) -> Result<(usize, usize)> {
    let long = PostQuantumCertificate::decode_exact(bytes)?;
    if long.message(genesis_hash) != certificate.message(genesis_hash) {
        return Err(Failure::new("the ML-DSA-44 signatures are of another checkpoint").into());
    }
    follower.check_post_quantum(&long)?;
    Ok((long.signatures.len(), bytes.len()))
}

fn show(
    args: &CheckpointArgs,
    certificate: &CheckpointCertificate,
    bytes: usize,
    post_quantum: Option<(usize, usize)>,
) {
    let signers: u32 = certificate.signers.iter().map(|byte| byte.count_ones()).sum();
    if args.json {
        return print_json(&json!({
            "height": certificate.height,
            "block_hash": certificate.block_hash,
            "next_committee": certificate.next_committee,
            "bls": { "signers": signers, "bytes": bytes },
            "ml_dsa_44": post_quantum.map(|(signers, bytes)| json!({ "signers": signers, "bytes": bytes })),
        }));
    }
    println!("checkpoint {} holds: block {}", certificate.height, certificate.block_hash);
    println!("  BLS12-381  {signers} signers, {bytes} bytes");
    match post_quantum {
        Some((signers, bytes)) => println!("  ML-DSA-44  {signers} signers, {bytes} bytes"),
        None => println!("  ML-DSA-44  not on this node"),
    }
    println!("  next       committee {}", certificate.next_committee);
}
