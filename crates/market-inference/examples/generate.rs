//! Runs any llama-family GGUF and says how fast it is.
//!
//! `CANDLE_NUM_THREADS=1 cargo run --example generate -p trellis-market-inference -- [MODEL.gguf|builtin] "prompt" [max_tokens] [copies]`
//!
//! With more than one copy the same prompt runs that many times in one batch, and the texts must be equal.
#![allow(clippy::print_stdout)]

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use trellis_market_inference::{
    ChatMessage, Engine, EngineConfig, FinishReason, GenerateRequest, LoadOptions, Model, Prompt, Role, Sampling,
    TokenEvent, inference_threads,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().unwrap_or_else(|| "builtin".to_owned());
    let prompt = arguments.next().unwrap_or_else(|| "What is the capital of France?".to_owned());
    let max_tokens: u32 = arguments.next().map_or(Ok(128), |n| n.parse())?;
    let copies: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;

    let start = Instant::now();
    let options = LoadOptions::default();
    let model = if file == "builtin" { Model::builtin(&options)? } else { Model::load(Path::new(&file), &options)? };
    println!("loaded in {:.2?} with {} thread(s)", start.elapsed(), inference_threads());
    println!("{:#?}", model.manifest());
    let engine = Engine::start(model, EngineConfig { events_ahead_max: 1024, ..EngineConfig::default() })?;
    println!("ready after {:.2?}\n", start.elapsed());

    let request = GenerateRequest {
        prompt: Prompt::Chat(vec![ChatMessage { role: Role::User, content: prompt }]),
        sampling: Sampling { temperature: 0.0, max_tokens, ..Sampling::default() },
    };
    let start = Instant::now();
    let generations = (0..copies).map(|_| engine.submit(request.clone())).collect::<Result<Vec<_>, _>>()?;
    let mut texts = Vec::new();
    for (number, mut generation) in generations.into_iter().enumerate() {
        texts.push(read(&mut generation, start, number == 0)?);
    }
    if texts.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err("two copies in one batch gave different texts".into());
    }
    println!("all of it took {:.2?}: {:?}", start.elapsed(), engine.stats());
    Ok(())
}

fn read(generation: &mut trellis_market_inference::Generation, start: Instant, show: bool) -> Result<String, Failure> {
    let mut out = String::new();
    let mut first = None;
    while let Some(event) = generation.next_blocking() {
        match event {
            TokenEvent::Started { .. } => {}
            TokenEvent::Text { text, .. } => {
                first.get_or_insert_with(|| start.elapsed());
                if show {
                    print!("{text}");
                    std::io::stdout().flush()?;
                }
                out.push_str(&text);
            }
            TokenEvent::Done { finish: FinishReason::Error, .. } => return Err("the engine failed".into()),
            TokenEvent::Done { finish, tokens_out, .. } => {
                let prefill = first.unwrap_or_default();
                let decode = start.elapsed().saturating_sub(prefill);
                if show {
                    println!(
                        "\n\n{finish:?}: prompt {} tokens, {:.0} t/s; first text after {prefill:.2?}",
                        generation.tokens_in(),
                        f64::from(generation.tokens_in()) / prefill.as_secs_f64()
                    );
                    println!(
                        "output {tokens_out} tokens, {:.0} t/s",
                        f64::from(tokens_out.saturating_sub(1)) / decode.as_secs_f64()
                    );
                }
                return Ok(out);
            }
        }
    }
    Err("the engine died".into())
}
