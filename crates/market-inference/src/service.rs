//! The engine: one thread, a bounded queue, sequences that join and leave the batch at any step.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use crate::attention::KvCache;
use crate::config::{EngineConfig, PREFILL_TOKENS_PER_STEP, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX, TEMPERATURE_MAX};
use crate::error::{StartError, SubmitError};
use crate::fingerprint::Fingerprint;
use crate::forward::Rows;
use crate::metrics::{EngineStats, Metrics, add, set};
use crate::model::Model;
use crate::state::{EVENTS_PER_OUTPUT_MAX, Outcome, Sequence};
use crate::template::ChatMessage;

/// Room that a sequence must have in its channel before it computes: what this step may send and what its end may send after it.
const EVENTS_ROOM_MIN: usize = 2 * EVENTS_PER_OUTPUT_MAX - 1;
/// How long the thread sleeps at most when nothing can run; every cause to run wakes it earlier.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template.
    Chat(Vec<ChatMessage>),
    /// Plain text.
    Text(String),
}

/// How tokens are picked and when to end.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token each time (greedy, repeatable); at most [`TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Above 0, at most 1: only the most likely tokens that together have this probability are drawn.
    pub top_p: f32,
    /// The same seed, request and engine give the same output.
    pub seed: u64,
    /// Most output tokens, at least 1; cut to what the context leaves.
    pub max_tokens: u32,
    /// The output ends before the first of these.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, seed: 0, max_tokens: 256, stop: Vec::new() }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// How.
    pub sampling: Sampling,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the context is used up.
    Length,
    /// The reader cancelled.
    Cancelled,
    /// The engine failed or stopped.
    Error,
}

/// What a generation tells, in this order: `Started`, any number of `Text`, `Done`. If the stream ends without `Done`, the engine died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEvent {
    /// The sequence joined the batch; its prompt is computed from now on.
    Started {
        /// Prompt tokens, template and begin mark included.
        tokens_in: u32,
    },
    /// More text. Only whole characters, and nothing that may yet become a stop string, so some tokens come later than they were made.
    Text {
        /// The text; it may be empty in the last one, when tokens were made whose text is withheld.
        text: String,
        /// How many output tokens this event accounts for. Over all `Text` events they add up to `tokens_out`.
        tokens: u32,
    },
    /// The end.
    Done {
        /// Why.
        finish: FinishReason,
        /// Output tokens computed, without the end token, with those of a withheld stop string.
        tokens_out: u32,
        /// Their ids, with which a recount is exact ([`TokenizerOnly::verify_output`](crate::TokenizerOnly::verify_output)).
        token_ids: Vec<u32>,
        /// SHA-256 of all text sent.
        output_digest: [u8; 32],
        /// One per 32 output tokens.
        fingerprints: Vec<Fingerprint>,
    },
}

/// Ends a generation from elsewhere.
#[derive(Clone)]
pub struct CancelHandle {
    shared: Arc<Shared>,
    cancelled: Arc<AtomicBool>,
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelHandle").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl CancelHandle {
    /// Ends the generation before its next step. Its reader still gets `Done` with `Cancelled`.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.shared.wake();
    }
}

/// The running answer to one request. Dropping it cancels.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::Receiver<TokenEvent>,
    handle: CancelHandle,
    tokens_in: u32,
}

impl Generation {
    /// The next event; none after `Done`, or if the engine died.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        let event = self.events.recv().await;
        self.handle.shared.wake();
        event
    }

    /// The same for a thread outside the runtime.
    pub fn next_blocking(&mut self) -> Option<TokenEvent> {
        let event = self.events.blocking_recv();
        self.handle.shared.wake();
        event
    }

    /// Prompt tokens, known as soon as the request is accepted.
    #[must_use]
    pub fn tokens_in(&self) -> u32 {
        self.tokens_in
    }

    /// Ends it before its next step.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// A handle that can cancel it from elsewhere.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.handle.clone()
    }
}

impl futures::Stream for Generation {
    type Item = TokenEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        let event = self.events.poll_recv(cx);
        if event.is_ready() {
            self.handle.shared.wake();
        }
        event
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.handle.cancel();
    }
}

/// What the thread and everyone else share.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    stopped: bool,
}

impl Shared {
    /// Wakes the thread. The lock is taken so that a wake between its check and its sleep is not lost.
    fn wake(&self) {
        let _queue = self.queue.lock();
        self.changed.notify_one();
    }

    fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.waiting.clear();
        set(&self.metrics.queue_depth, 0);
        self.changed.notify_one();
    }
}

/// A request that waits or runs.
struct Job {
    sequence: Sequence,
    kv_bytes: u64,
    events: mpsc::Sender<TokenEvent>,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    fn is_gone(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.events.is_closed()
    }

    fn end(mut self, reason: FinishReason, metrics: &Metrics) {
        let outcome = self.sequence.on_end(reason);
        self.send(outcome, metrics);
    }

    /// Counts and sends; there is room by construction, so a failure means that the reader is gone.
    fn send(&self, outcome: Outcome, metrics: &Metrics) {
        match outcome.finish {
            None => {}
            Some(FinishReason::Stop | FinishReason::Length) => add(&metrics.finished_total, 1),
            Some(FinishReason::Cancelled) => add(&metrics.cancelled_total, 1),
            Some(FinishReason::Error) => add(&metrics.failed_total, 1),
        }
        for event in outcome.events {
            if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
                tracing::error!("event lost: a sequence ran without room in its channel");
            }
        }
    }
}

/// A model with its thread. Dropping it ends every generation with `Error` and waits for the running step.
pub struct Engine {
    model: Arc<Model>,
    config: EngineConfig,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("model", &self.model).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Engine {
    /// Computes one token to warm up (this packs the weights for the kernels), then starts the thread.
    ///
    /// # Errors
    /// A bound that is too small, a model that fails on its first token, or no thread.
    pub fn start(model: Model, config: EngineConfig) -> Result<Self, StartError> {
        let least = [
            ("queue_max", config.queue_max as u64, 1),
            ("sequences_max", config.sequences_max as u64, 1),
            ("events_ahead_max", config.events_ahead_max as u64, EVENTS_ROOM_MIN as u64 + 1),
            ("kv_bytes_max", config.kv_bytes_max, model.memory_bytes_per_token().saturating_mul(2)),
        ];
        if let Some((setting, actual, min)) = least.into_iter().find(|(_, actual, min)| actual < min) {
            return Err(StartError::BadConfig { setting, actual, min });
        }
        let mut cache = model.llama.new_cache(1);
        model
            .llama
            .forward(&mut [Rows { tokens: &[0], cache: &mut cache, wants_output: true }])
            .map_err(StartError::WarmUp)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new(), metrics: Metrics::default() });
        let model = Arc::new(model);
        let worker = Worker {
            model: Arc::clone(&model),
            config: config.clone(),
            shared: Arc::clone(&shared),
            slots: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("inference".to_owned())
            .spawn(move || worker.run())
            .map_err(StartError::Thread)?;
        Ok(Self { model, config, shared, thread: Some(thread) })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.metrics.snapshot()
    }

    /// Checks, tokenises (on this thread; milliseconds for a prompt of ordinary length) and queues a request.
    ///
    /// # Errors
    /// As [`SubmitError`] says; then nothing is computed.
    pub fn submit(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        let sampling = checked(request.sampling)?;
        let context = u64::from(self.model.manifest().context_tokens_max);
        let prompt_max = context.saturating_sub(1);
        let ids = match &request.prompt {
            Prompt::Chat(messages) => self.model.tokenizer.chat_ids(messages, prompt_max)?,
            Prompt::Text(text) => self.model.tokenizer.text_ids(text, prompt_max)?,
        };
        let tokens_max = u64::from(sampling.max_tokens).min(context.saturating_sub(ids.len() as u64)) as usize;
        let sequence = Sequence::new(ids, tokens_max, &sampling, self.model.llama.hyper.dim);
        let kv_bytes = (sequence.capacity() as u64).saturating_mul(self.model.memory_bytes_per_token());
        if kv_bytes > self.config.kv_bytes_max {
            return Err(SubmitError::TooMuchMemory { needed: kv_bytes, max: self.config.kv_bytes_max });
        }
        let (events, receiver) = mpsc::channel(self.config.events_ahead_max);
        let cancelled = Arc::new(AtomicBool::new(false));
        let tokens_in = sequence.tokens_in();
        self.enqueue(Job { sequence, kv_bytes, events, cancelled: Arc::clone(&cancelled) })?;
        let handle = CancelHandle { shared: Arc::clone(&self.shared), cancelled };
        Ok(Generation { events: receiver, handle, tokens_in })
    }

    fn enqueue(&self, job: Job) -> Result<(), SubmitError> {
        let metrics = &self.shared.metrics;
        let mut queue = self.shared.queue.lock();
        if queue.stopped {
            return Err(SubmitError::Stopped);
        }
        let depth = queue.waiting.len();
        if depth >= self.config.queue_max {
            add(&metrics.refused_total, 1);
            return Err(SubmitError::QueueFull { depth, max: self.config.queue_max });
        }
        queue.waiting.push_back(job);
        set(&metrics.queue_depth, queue.waiting.len() as u64);
        add(&metrics.submitted_total, 1);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the inference thread had panicked");
        }
    }
}

fn checked(sampling: Sampling) -> Result<Sampling, SubmitError> {
    let bad =
        |parameter, actual: String, expected: String| Err(SubmitError::BadParameter { parameter, actual, expected });
    if !(0.0..=TEMPERATURE_MAX).contains(&sampling.temperature) {
        return bad("temperature", sampling.temperature.to_string(), format!("from 0 to {TEMPERATURE_MAX}"));
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return bad("top_p", sampling.top_p.to_string(), "above 0 and at most 1".to_owned());
    }
    if sampling.max_tokens == 0 {
        return bad("max_tokens", "0".to_owned(), "at least 1".to_owned());
    }
    if sampling.stop.len() > STOP_STRINGS_MAX {
        return bad("stop", format!("{} strings", sampling.stop.len()), format!("at most {STOP_STRINGS_MAX} strings"));
    }
    if let Some(stop) = sampling.stop.iter().find(|s| s.is_empty() || s.len() > STOP_STRING_BYTES_MAX) {
        return bad(
            "stop",
            format!("a string of {} bytes", stop.len()),
            format!("1 to {STOP_STRING_BYTES_MAX} bytes each"),
        );
    }
    Ok(sampling)
}

/// A running sequence.
struct Slot {
    job: Job,
    cache: KvCache,
}

/// The thread's own state.
struct Worker {
    model: Arc<Model>,
    config: EngineConfig,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
}

/// Marks the engine as stopped however the thread ends, so that requests are refused rather than left waiting.
struct StopOnExit(Arc<Shared>);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Worker {
    fn run(mut self) {
        let _stop = StopOnExit(Arc::clone(&self.shared));
        while self.admit_or_wait() {
            self.step();
        }
        for slot in self.slots.drain(..) {
            slot.job.end(FinishReason::Error, &self.shared.metrics);
        }
        set(&self.shared.metrics.sequences, 0);
        set(&self.shared.metrics.kv_bytes, 0);
    }

    /// Lets sequences leave and join, and sleeps while none can run. False once the engine is stopped.
    fn admit_or_wait(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock();
        loop {
            if queue.stopped {
                return false;
            }
            self.drop_cancelled(&mut queue);
            self.admit(&mut queue);
            if self.slots.iter().any(Slot::can_run) {
                return true;
            }
            shared.changed.wait_for(&mut queue, IDLE_WAIT);
        }
    }

    fn drop_cancelled(&mut self, queue: &mut Queue) {
        let metrics = &self.shared.metrics;
        for slot in self.slots.extract_if(.., |slot| slot.job.is_gone()) {
            slot.job.end(FinishReason::Cancelled, metrics);
        }
        if queue.waiting.iter().any(Job::is_gone) {
            let (gone, kept): (VecDeque<Job>, VecDeque<Job>) =
                std::mem::take(&mut queue.waiting).into_iter().partition(Job::is_gone);
            queue.waiting = kept;
            for job in gone {
                job.end(FinishReason::Cancelled, metrics);
            }
        }
    }

    fn admit(&mut self, queue: &mut Queue) {
        let mut used: u64 = self.slots.iter().map(|s| s.job.kv_bytes).sum();
        let config = &self.config;
        while let Some(job) = (self.slots.len() < config.sequences_max)
            .then(|| queue.waiting.pop_front_if(|job| used.saturating_add(job.kv_bytes) <= config.kv_bytes_max))
            .flatten()
        {
            used = used.saturating_add(job.kv_bytes);
            let cache = self.model.llama.new_cache(job.sequence.capacity());
            let tokens_in = job.sequence.tokens_in();
            job.send(Outcome { events: vec![TokenEvent::Started { tokens_in }], finish: None }, &self.shared.metrics);
            self.slots.push(Slot { job, cache });
        }
        let metrics = &self.shared.metrics;
        set(&metrics.queue_depth, queue.waiting.len() as u64);
        set(&metrics.sequences, self.slots.len() as u64);
        set(&metrics.kv_bytes, used);
    }

    /// One forward pass: one row for each decoding sequence and up to [`PREFILL_TOKENS_PER_STEP`] prompt rows, first come first served.
    fn step(&mut self) {
        let metrics = &self.shared.metrics;
        let mut prefill_left = PREFILL_TOKENS_PER_STEP;
        let mut counts = Vec::with_capacity(self.slots.len());
        let mut batch = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            let runs = slot.can_run();
            let Slot { job, cache } = slot;
            let tokens = match (runs, job.sequence.is_prefilling()) {
                (false, _) => &[],
                (true, false) => job.sequence.pending(1),
                (true, true) => job.sequence.pending(prefill_left),
            };
            if job.sequence.is_prefilling() {
                prefill_left -= tokens.len();
                add(&metrics.tokens_in_total, tokens.len() as u64);
            }
            add(&metrics.paused_total, u64::from(!runs));
            counts.push(tokens.len());
            batch.push(Rows { tokens, cache, wants_output: job.sequence.wants_output(tokens.len()) });
        }
        let outputs = self.model.llama.forward(&mut batch);
        add(&metrics.steps_total, 1);
        match outputs {
            Err(error) => {
                tracing::error!(%error, "inference step failed");
                for slot in self.slots.drain(..) {
                    slot.job.end(FinishReason::Error, metrics);
                }
            }
            Ok(outputs) => {
                let mut results = counts.into_iter().zip(outputs);
                self.slots.retain_mut(|slot| {
                    let Some((count, output)) = results.next() else { return true };
                    slot.job.sequence.on_fed(count);
                    let Some(output) = output else { return true };
                    add(&metrics.tokens_out_total, 1);
                    let outcome = slot.job.sequence.on_output(&output, &self.model.tokenizer);
                    let ended = outcome.finish.is_some();
                    slot.job.send(outcome, metrics);
                    !ended
                });
            }
        }
    }
}

impl Slot {
    /// Whether its reader has left room for what a step may send.
    fn can_run(&self) -> bool {
        self.job.events.capacity() >= EVENTS_ROOM_MIN
    }
}
