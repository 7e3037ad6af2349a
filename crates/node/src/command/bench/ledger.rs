//! What the money's paper costs: receipts signed and verified by both sides, each step durable before the next.

use super::rounded;
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use trellis_crypto::AccountKey;
use trellis_market_journal::{Journal, JournalConfig, ReceiptKept, Record};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{
    FinishReason, InstructionSet, Parameters, RECEIPT_VERSION, Receipt, ReceiptDetails, ReceiptParties, SignedReceipt,
    engine_build_digest, error_digest,
};
use trellis_primitives::{Address, B256, ChannelId, Clock, JobId, NodeId, SystemClock, UnixMs, Wei};

/// Receipts that are measured.
const RECEIPTS: u64 = 8_000;
/// Jobs that end at the same time.
const IN_FLIGHT: u64 = 256;
const CHAIN_ID: u64 = 97_001;

struct Ledger {
    gateway: AccountKey,
    provider: AccountKey,
    gateway_journal: Journal,
    provider_journal: Journal,
    next: AtomicU64,
    until: u64,
}

/// Signs, verifies and journals receipts as a gateway and a provider do, and says how many a second.
pub async fn measure() -> Result<Value> {
    let folder = tempfile::Builder::new().prefix("trellis-bench-ledger-").tempdir()?;
    let together = rate(&folder.path().join("together"), RECEIPTS, IN_FLIGHT).await?;
    let alone = rate(&folder.path().join("alone"), RECEIPTS / 32, 1).await?;
    Ok(json!({
        "receipts_per_second": rounded(together),
        "receipts_per_second_one_at_a_time": rounded(alone),
        "in_flight": IN_FLIGHT,
        "receipts": RECEIPTS,
    }))
}

async fn rate(folder: &Path, receipts: u64, in_flight: u64) -> Result<f64> {
    let open = |name: &str| Journal::open(&JournalConfig::new(folder.join(name)), Arc::new(SystemClock));
    let ledger = Arc::new(Ledger {
        gateway: AccountKey::generate(&mut rand::rng()),
        provider: AccountKey::generate(&mut rand::rng()),
        gateway_journal: open("gateway")?,
        provider_journal: open("provider")?,
        next: AtomicU64::new(1),
        until: receipts,
    });
    let began = Instant::now();
    let workers: Vec<_> = (0..in_flight).map(|_| tokio::spawn(work(Arc::clone(&ledger)))).collect();
    for worker in workers {
        worker.await??;
    }
    let seconds = began.elapsed().as_secs_f64();
    ledger.gateway_journal.close().await;
    ledger.provider_journal.close().await;
    #[allow(clippy::cast_precision_loss, reason = "a count of thousands")]
    let count = receipts as f64;
    Ok(count / seconds)
}

async fn work(ledger: Arc<Ledger>) -> Result<()> {
    let domain = Domain { chain_id: CHAIN_ID, contract: Address::repeat_byte(2) };
    let parties =
        ReceiptParties { gateway_signer: ledger.gateway.address(), provider_payee: ledger.provider.address() };
    loop {
        let number = ledger.next.fetch_add(1, Ordering::Relaxed);
        if number > ledger.until {
            return Ok(());
        }
        let mut signed = unsigned(number);
        signed.sign_as_provider(&domain, &ledger.provider);
        ledger.provider_journal.append(Record::JobReceipt(kept(&signed))).await?;
        signed.verify_provider(&domain, parties.provider_payee)?;
        signed.sign_as_gateway(&domain, &ledger.gateway);
        ledger.gateway_journal.append(Record::JobComplete(kept(&signed))).await?;
        signed.verify(&domain, signed.receipt.channels, &parties)?;
        ledger.provider_journal.append(Record::JobComplete(kept(&signed))).await?;
    }
}

fn kept(signed: &SignedReceipt) -> ReceiptKept {
    ReceiptKept {
        job: signed.receipt.job,
        channel: signed.receipt.channel,
        sequence: signed.receipt.sequence,
        hash: signed.receipt.struct_hash(),
        cost: signed.receipt.cost,
        written_off: signed.receipt.written_off,
        payload: signed.to_bytes().into(),
    }
}

fn unsigned(number: u64) -> SignedReceipt {
    let word = B256::left_padding_from(&number.to_be_bytes());
    let details = ReceiptDetails {
        model: "bench".into(),
        engine: "bench".into(),
        parameters: Parameters { max_tokens: 128, top_p_millionths: 1_000_000, ..Parameters::default() },
        error: String::new(),
    };
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: CHAIN_ID,
        channels: Address::repeat_byte(1),
        aggregator: Address::repeat_byte(3),
        channel: ChannelId(B256::repeat_byte(4)),
        sequence: number,
        job: JobId(word),
        gateway: NodeId([5; 32]),
        provider: NodeId([6; 32]),
        model_digest: B256::repeat_byte(7),
        tokenizer_digest: B256::repeat_byte(8),
        engine_build: engine_build_digest(&details.engine),
        instruction_set: InstructionSet::X86_64_V3,
        request_digest: word,
        parameters_hash: details.parameters.hash(),
        prompt_commitment: word,
        output_digest: word,
        fingerprint_root: word,
        tokens_in: 30,
        tokens_out: 128,
        finish_reason: FinishReason::Length,
        started_at: UnixMs(SystemClock.now().0),
        time_to_first_token_ms: 20,
        duration_ms: 200,
        price_in: Wei::from_trl(1),
        price_out: Wei::from_trl(3),
        cost: Wei(414_000_000_000_000),
        written_off: Wei::ZERO,
        error_hash: error_digest(&details.error),
    };
    SignedReceipt::unsigned(receipt, details)
}
