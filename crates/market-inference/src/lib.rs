//! Run a model: GGUF, tokenizer, batched decoding, fingerprints (candle lives here and nowhere else).
//!
//! # What happens
//! [`Model::load`] reads a GGUF file of the llama family, checks it as hostile input, and brings its matrices to Q8_0.
//! [`Engine::start`] gives the model one thread. [`Engine::submit`] renders and tokenises a prompt on the caller's thread and queues it;
//! the answer is a [`Generation`], an asynchronous stream of [`TokenEvent`]s. Sequences join and leave the running batch at any step.
//!
//! # What is promised
//! * **Repeatable.** With Q8_0 weights every row is computed apart from its neighbours: linear layers quantise each row alone and attention is
//!   done per row. So the same request gives the same bits alone, in any batch, and for any split of the prompt into chunks, on the same
//!   [`Manifest::engine_build`] and [`Manifest::isa_tier`]. Another instruction set gives other bits, and after some tokens another text.
//! * **Bounded.** Queue, batch, memory for keys and values, prompt, output and events ahead of the reader all have a maximum.
//! * **Cancelled at a token boundary.** Dropping a [`Generation`] or calling [`Generation::cancel`] ends it before the next step.
//!
//! # Threads
//! candle reads `CANDLE_NUM_THREADS` (else `RAYON_NUM_THREADS`) once per process and its workers *spin* between steps: two threads on two busy
//! cores can be ten times slower than one. Set the variable before the process starts to [`inference_threads_recommended`]; a running
//! process cannot change it. [`inference_threads`] says what is in force.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod attention;
mod config;
mod error;
mod fingerprint;
mod forward;
mod gguf;
mod manifest;
mod metrics;
mod model;
mod sampler;
mod service;
mod state;
mod template;
mod text;
mod tokenizer;
mod weights;

pub use config::{
    CHAT_MESSAGES_MAX, EngineConfig, LoadOptions, MODEL_BYTES_MAX, PREFILL_TOKENS_PER_STEP, PROMPT_BYTES_MAX,
    Requantise, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX, TEMPERATURE_MAX, THREADS_ENV, inference_threads,
    inference_threads_recommended,
};
pub use error::{LoadError, RecountError, StartError, SubmitError};
pub use fingerprint::{
    FINGERPRINT_ENTRIES_MAX, FINGERPRINT_TOKENS, FINGERPRINT_VERSION, Fingerprint, FingerprintDecodeError,
    fingerprint_root,
};
pub use manifest::{CANDLE_VERSION, ENGINE_VERSION, Manifest};
pub use metrics::EngineStats;
pub use model::Model;
pub use service::{CancelHandle, Engine, FinishReason, GenerateRequest, Generation, Prompt, Sampling, TokenEvent};
pub use template::{ChatMessage, Role};
pub use tokenizer::TokenizerOnly;

/// The bytes of the small default model (`models/tiny.gguf`, two million parameters, public domain), so that a fresh machine serves real
/// inference without a download. Load them with [`Model::builtin`].
pub const BUILTIN_MODEL_GGUF: &[u8] = include_bytes!("../../../models/tiny.gguf");
