//! `trellis bench market`: what gateway, network, receipt and vouchers add to a request.
//!
//! The same greedy request goes in turns to the gateway of a whole `trellis dev` network and straight to the embedded
//! engine in this process, with as many inference threads; both must answer with the same text. One request at a time gives
//! the first token's delay, several at once give what of the engine's throughput is left.

use super::node::Node;
use super::shares::{self, Roles};
use super::{ledger, percentile, rounded, shown};
use crate::failure::Failure;
use crate::supervised;
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};
use trellis_market_inference::{
    ChatMessage, Engine, EngineConfig, GenerateRequest, LoadOptions, Model, Prompt, Role, Sampling, THREADS_ENV,
    TokenEvent,
};

/// The small default model answers this with as many tokens as it may. Nothing on the way remembers prompts, so the same
/// one can be asked again.
const PROMPT: &str = "Tell me a long story about a fox.";
/// Tokens of an answer at most.
const TOKENS_MAX: u32 = 128;
/// Requests before the measured ones: the first opens the channel.
const WARM_UP: usize = 3;
/// Requests at once when throughput is measured.
const STREAMS: usize = 8;
/// How often the two sides take turns then.
const TURNS: usize = 4;
/// How long the network may take to start, in seconds.
const READY_SECONDS_MAX: u64 = 120;
/// How long one answer may take, in seconds.
const ANSWER_SECONDS_MAX: u64 = 120;
/// Inference threads on both sides: the workers spin, and the cores are shared.
const THREADS: &str = "1";

/// One answered request.
struct Sample {
    ttft_ms: f64,
    total_ms: f64,
    tokens: u64,
    text: String,
}

/// Measures and prints.
pub async fn run(json: bool, requests: usize) -> Result<()> {
    if std::env::var_os(THREADS_ENV).is_none() {
        return again_with_threads().await;
    }
    let folder = tempfile::Builder::new().prefix("trellis-bench-market-").tempdir()?;
    eprintln!("starting a network in {}", folder.path().display());
    let mut arguments: Vec<std::ffi::OsString> = vec!["dev".into(), "--datadir".into(), folder.path().into()];
    for flag in ["--p2p-port", "--rpc-port", "--http-port", "--metrics-port"] {
        arguments.extend([flag.into(), "0".into()]);
    }
    let mut network = Node::start_own(folder.path(), &arguments)?;
    let outcome = measure(&mut network, folder.path(), requests.max(1)).await;
    network.end().await;
    let (overhead, chain) = outcome?;
    eprintln!("measuring the ledger");
    let result = json!({"overhead": overhead, "chain": chain, "ledger": ledger::measure().await?});
    if json {
        print_json(&result);
    } else {
        print_table(&result);
    }
    Ok(())
}

/// The number of inference threads is fixed when a process starts, so this one starts again with it set.
async fn again_with_threads() -> Result<()> {
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(THREADS_ENV, THREADS)
        .env(supervised::VARIABLE, "1")
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // Waiting would close it, and the child ends when it is closed.
    let _input = child.stdin.take();
    match child.wait().await? {
        status if status.success() => Ok(()),
        status => Err(Failure::new(format!("the measurement failed ({status})")).into()),
    }
}

async fn measure(network: &mut Node, folder: &std::path::Path, requests: usize) -> Result<(Value, Value)> {
    let status = network.until_ready(&folder.join("gateway"), READY_SECONDS_MAX).await?;
    let address = status["endpoints"]["http"].as_str().unwrap_or_default().to_owned();
    let model = tokio::task::spawn_blocking(|| Model::builtin(&LoadOptions::default())).await??;
    let name = model.manifest().name.clone();
    let engine = Engine::start(model, EngineConfig::default())?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(ANSWER_SECONDS_MAX)).build()?;
    let url = format!("http://{address}/v1/chat/completions");
    until_served(network, &client, &address, &name).await?;
    let client = Asker { client, url, model: name, engine };
    // The first job opens the channel: the one time that a job waits for the chain.
    let first = client.gateway().await?;
    let mut overhead = one_at_a_time(&client, requests).await?;
    let together = at_once(&client, requests).await?;
    overhead["throughput_loss_pct"] = together["throughput_loss_pct"].clone();
    overhead["at_once"] = together;
    let jobs = async { Ok::<_, eyre::Report>(clients(requests.div_ceil(STREAMS), || client.gateway()).await?.0.len()) };
    let mut chain = Roles::find(folder).await?.watch(jobs).await?;
    chain["first_job_ms"] = rounded(first.total_ms);
    chain["job_ms_p50"] = overhead["gateway"]["total_ms_p50"].clone();
    // All that stands between the engine and the client, the chain's paper among it.
    chain["latency_pct_of_everything_added"] = overhead["one_request_loss_pct"].clone();
    Ok((overhead, chain))
}

/// Both ways to the same model.
struct Asker {
    client: reqwest::Client,
    url: String,
    model: String,
    engine: Engine,
}

impl Asker {
    async fn gateway(&self) -> Result<Sample> {
        through_gateway(&self.client, &self.url, &self.model, PROMPT).await
    }

    async fn direct(&self) -> Result<Sample> {
        straight_to_engine(&self.engine, PROMPT).await
    }
}

async fn one_at_a_time(ask: &Asker, requests: usize) -> Result<Value> {
    let (mut gateway, mut direct) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + requests {
        // The order alternates, so that neither side always has the warmer caches.
        let (through, straight) = if number % 2 == 0 {
            let through = ask.gateway().await?;
            (through, ask.direct().await?)
        } else {
            let straight = ask.direct().await?;
            (ask.gateway().await?, straight)
        };
        same_work(&through, &straight)?;
        if number >= WARM_UP {
            gateway.push(through);
            direct.push(straight);
        }
        if number % 25 == 0 {
            eprintln!("request {number} of {}", WARM_UP + requests);
        }
    }
    Ok(overhead(&gateway, &direct))
}

fn same_work(through: &Sample, straight: &Sample) -> Result<()> {
    if through.text == straight.text && through.tokens == straight.tokens {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the network did not do the same work: {} tokens {:?}, the engine alone {} tokens {:?}",
        through.tokens, through.text, straight.tokens, straight.text
    ))
    .into())
}

/// [`STREAMS`] clients, each with one request after the other, through the gateway and straight in turns.
async fn at_once(ask: &Asker, requests: usize) -> Result<Value> {
    let each = requests.div_ceil(STREAMS * TURNS);
    let (mut gateway, mut direct) = ((0, 0.0), (0, 0.0));
    for turn in 0..=TURNS {
        let (through, through_seconds) = clients(each, || ask.gateway()).await?;
        let (straight, straight_seconds) = clients(each, || ask.direct()).await?;
        for (one, other) in through.iter().zip(&straight) {
            same_work(one, other)?;
        }
        // The first turn warms up.
        if turn > 0 {
            gateway = (gateway.0 + tokens(&through), gateway.1 + through_seconds);
            direct = (direct.0 + tokens(&straight), direct.1 + straight_seconds);
        }
    }
    let (gateway, direct) = (per_second(gateway), per_second(direct));
    Ok(json!({
        "streams": STREAMS,
        "requests": each * STREAMS * TURNS,
        "throughput_loss_pct": rounded((1.0 - gateway / direct) * 100.0),
        "gateway_tokens_per_s": rounded(gateway),
        "direct_tokens_per_s": rounded(direct),
    }))
}

/// [`STREAMS`] clients at once, each asking so many times, one after the other: what they got, and the seconds it took.
async fn clients<F: Future<Output = Result<Sample>>>(each: usize, ask: impl Fn() -> F) -> Result<(Vec<Sample>, f64)> {
    let began = Instant::now();
    let running = (0..STREAMS).map(|_| async {
        let mut samples = Vec::with_capacity(each);
        for _ in 0..each {
            samples.push(ask().await?);
        }
        Ok::<_, eyre::Report>(samples)
    });
    let samples = futures::future::try_join_all(running).await?.into_iter().flatten().collect();
    Ok((samples, began.elapsed().as_secs_f64()))
}

fn tokens(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.tokens).sum()
}

#[allow(clippy::cast_precision_loss, reason = "counts of thousands")]
fn per_second((tokens, seconds): (u64, f64)) -> f64 {
    tokens as f64 / seconds
}

/// Waits until the gateway knows a provider of the model.
async fn until_served(network: &mut Node, client: &reqwest::Client, address: &str, model: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
    loop {
        if let Ok(response) = client.get(format!("http://{address}/v1/models")).send().await
            && let Ok(list) = response.json::<Value>().await
            && list["data"].as_array().is_some_and(|models| models.iter().any(|entry| entry["id"] == model))
        {
            return Ok(());
        }
        network.still_runs(deadline, READY_SECONDS_MAX)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

async fn through_gateway(client: &reqwest::Client, url: &str, model: &str, prompt: &str) -> Result<Sample> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": TOKENS_MAX,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let began = Instant::now();
    let mut response = client.post(url).bearer_auth("bench").json(&body).send().await?;
    if !response.status().is_success() {
        return Err(
            Failure::new(format!("the gateway answered {}: {}", response.status(), response.text().await?)).into()
        );
    }
    let mut sample = Sample { ttft_ms: 0.0, total_ms: 0.0, tokens: 0, text: String::new() };
    let mut pending = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data == b"[DONE]" {
                sample.total_ms = milliseconds(began);
                return Ok(sample);
            }
            take_event(&serde_json::from_slice(data)?, began, &mut sample)?;
        }
    }
    Err(Failure::new("the gateway's stream ended without [DONE]").into())
}

fn take_event(event: &Value, began: Instant, sample: &mut Sample) -> Result<()> {
    if let Some(error) = event.get("error") {
        return Err(Failure::new(format!("the gateway's stream failed: {error}")).into());
    }
    if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
        sample.tokens = tokens;
    }
    let text = event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    if !text.is_empty() && sample.text.is_empty() {
        sample.ttft_ms = milliseconds(began);
    }
    sample.text.push_str(text);
    Ok(())
}

async fn straight_to_engine(engine: &Engine, prompt: &str) -> Result<Sample> {
    let request = GenerateRequest {
        prompt: Prompt::Chat(vec![ChatMessage { role: Role::User, content: prompt.to_owned() }]),
        sampling: Sampling { temperature: 0.0, max_tokens: TOKENS_MAX, ..Sampling::default() },
    };
    let began = Instant::now();
    let mut generation = engine.submit(request)?;
    let mut sample = Sample { ttft_ms: 0.0, total_ms: 0.0, tokens: 0, text: String::new() };
    while let Some(event) = generation.next().await {
        match event {
            TokenEvent::Started { .. } => {}
            TokenEvent::Text { text, .. } => {
                if !text.is_empty() && sample.text.is_empty() {
                    sample.ttft_ms = milliseconds(began);
                }
                sample.text.push_str(&text);
            }
            TokenEvent::Done { tokens_out, .. } => {
                sample.tokens = u64::from(tokens_out);
                sample.total_ms = milliseconds(began);
                return Ok(sample);
            }
        }
    }
    Err(Failure::new("the engine ended without an answer").into())
}

fn overhead(gateway: &[Sample], direct: &[Sample]) -> Value {
    let loss = |gateway: &[Sample], direct: &[Sample]| {
        let total = |samples: &[Sample]| samples.iter().map(|sample| sample.total_ms).sum::<f64>();
        (1.0 - total(direct) / total(gateway)) * 100.0
    };
    // Neighbours in time are compared with each other, so that other work on the machine falls on both.
    let mut added: Vec<f64> = gateway.iter().zip(direct).map(|(one, other)| one.ttft_ms - other.ttft_ms).collect();
    json!({
        "ttft_ms_p50": rounded(percentile(&mut added, 0.5)),
        "ttft_ms_p99": rounded(percentile(&mut added, 0.99)),
        "one_request_loss_pct": rounded(loss(gateway, direct)),
        "requests": gateway.len(),
        "gateway": side(gateway),
        "direct": side(direct),
    })
}

fn side(samples: &[Sample]) -> Value {
    let of = |part: f64, value: fn(&Sample) -> f64| {
        rounded(percentile(&mut samples.iter().map(value).collect::<Vec<f64>>(), part))
    };
    let (tokens, seconds) = (tokens(samples), samples.iter().map(|sample| sample.total_ms).sum::<f64>() / 1e3);
    json!({
        "ttft_ms_p50": of(0.5, |sample| sample.ttft_ms),
        "ttft_ms_p99": of(0.99, |sample| sample.ttft_ms),
        "total_ms_p50": of(0.5, |sample| sample.total_ms),
        "tokens_per_s": rounded(per_second((tokens, seconds))),
        "tokens": tokens,
    })
}

fn print_table(result: &Value) {
    let overhead = &result["overhead"];
    let line = |name: &str, side: &Value| {
        vec![
            name.to_owned(),
            shown(&side["ttft_ms_p50"]),
            shown(&side["ttft_ms_p99"]),
            shown(&side["total_ms_p50"]),
            shown(&side["tokens_per_s"]),
        ]
    };
    let added = vec![
        "added".to_owned(),
        shown(&overhead["ttft_ms_p50"]),
        shown(&overhead["ttft_ms_p99"]),
        "-".to_owned(),
        format!("-{} %", shown(&overhead["one_request_loss_pct"])),
    ];
    print(
        &["PATH", "FIRST TOKEN p50 ms", "p99 ms", "WHOLE p50 ms", "TOKENS/s"],
        &[line("gateway", &overhead["gateway"]), line("engine alone", &overhead["direct"]), added],
    );
    let together = &overhead["at_once"];
    println!(
        "\n{STREAMS} requests at once: {} tokens/s through the gateway, {} straight (-{} %)",
        shown(&together["gateway_tokens_per_s"]),
        shown(&together["direct_tokens_per_s"]),
        shown(&together["throughput_loss_pct"])
    );
    shares::print(&result["chain"]);
    println!(
        "receipts signed, verified and durable on both sides: {} a second",
        shown(&result["ledger"]["receipts_per_second"])
    );
}
