//! One job, from its accept to the acknowledgement of its receipt.

use crate::backend::{BackendDone, BackendError, BackendEvent, BackendStream};
use crate::channels::Entry;
use crate::config::ModelForSale;
use crate::link::{Came, Link, Silence, protocol_error};
use crate::service::Shared;
use crate::settle;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use trellis_market_channel::{PayeeError, Permit, Prices, StopReason};
use trellis_market_journal::{JobOpened, Record};
use trellis_market_receipt::wire::{
    Accept, Accepted, Chunk, Due, GatewayFrame, JobError, JobErrorCode, Prompt, ProviderFrame,
};
use trellis_market_receipt::{FinishReason, JobRequest, OutputHasher, request_digest};
use trellis_primitives::{B256, NodeId, UnixMs};

/// Text that waits for its chunk is sent when it reaches this, in bytes.
const PENDING_BYTES_MAX: usize = 4 * 1024;

/// How a job's output ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) finish: FinishReason,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) fingerprint_root: B256,
    pub(crate) error: String,
}

impl Ending {
    fn early(finish: FinishReason) -> Self {
        Self { finish, token_ids: Vec::new(), fingerprint_root: B256::ZERO, error: String::new() }
    }
}

/// Whether a step was taken.
enum Gate {
    Open,
    Shut(Ending),
}

/// A job under way.
pub(crate) struct Job<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) link: &'a mut Link,
    pub(crate) peer: NodeId,
    pub(crate) accept: Accept,
    pub(crate) entry: Arc<Entry>,
    pub(crate) model: ModelForSale,
    pub(crate) request: Option<JobRequest>,
    pub(crate) output: OutputHasher,
    /// Text that is metered and hashed, and not sent yet.
    pub(crate) pending: String,
    sent_at: Option<Instant>,
    pub(crate) started_at: UnixMs,
    pub(crate) first_token_at: Option<UnixMs>,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_out: u64,
    opened: Option<JoinHandle<()>>,
}

/// Takes, runs and settles a job. An error is the reason that the gateway is told; the money is booked by then.
pub(crate) async fn run(shared: &Arc<Shared>, peer: NodeId, link: &mut Link, accept: Accept) -> Result<(), JobError> {
    let mut job = admit(shared, peer, link, accept).await?;
    shared.metrics.jobs_open.inc();
    let ended = job.work().await;
    shared.metrics.jobs_open.dec();
    match ended {
        Ok(()) => {
            shared.metrics.jobs_complete.inc();
            Ok(())
        }
        Err(mut error) => {
            error.job = job.accept.job;
            job.abort(&error).await;
            Err(error)
        }
    }
}

async fn admit<'a>(
    shared: &'a Arc<Shared>,
    peer: NodeId,
    link: &'a mut Link,
    accept: Accept,
) -> Result<Job<'a>, JobError> {
    let refuse = |code, message: String| JobError { job: accept.job, code, message };
    let model = shared.model(&accept.model)?.clone();
    if accept.price_in < model.prices.input || accept.price_out < model.prices.output {
        return Err(refuse(JobErrorCode::Price, "the accepted prices are below the advertised ones".to_owned()));
    }
    if accept.aggregator != shared.config.aggregator {
        let expected = shared.config.aggregator;
        return Err(refuse(JobErrorCode::Receipt, format!("receipts must name the aggregator {expected}")));
    }
    let entry = shared.book.serving(accept.channel, peer).await?;
    let local = shared.network.local_id();
    let signer = accept.signer(shared.config.chain_id, peer, local);
    if signer.ok() != Some(entry.signer()) {
        return Err(refuse(JobErrorCode::Channel, "the accept is not signed by the channel's signer".to_owned()));
    }
    let known = {
        let index = shared.journal.index();
        index.job(accept.job).is_some() || index.job_by_sequence(accept.channel, accept.sequence).is_some()
    };
    if known {
        return Err(refuse(JobErrorCode::Channel, "the job or its sequence was used before".to_owned()));
    }
    let prices = Prices { input: accept.price_in, output: accept.price_out };
    entry.open_job(accept.job, accept.sequence, prices, accept.max_cost)?;
    let opened = Some(journal_opened(shared, peer, &accept));
    let accepted = Accepted { job: accept.job, held: entry.held(), prepay: !entry.has_credit() };
    let job = Job {
        shared,
        link,
        peer,
        accept,
        entry,
        model,
        request: None,
        output: OutputHasher::new(&B256::ZERO),
        pending: String::new(),
        sent_at: None,
        started_at: shared.clock.now(),
        first_token_at: None,
        tokens_in: 0,
        tokens_out: 0,
        opened,
    };
    // A stream that is closed here shows again at the prompt, where the job is aborted in order.
    let _ = job.link.send(ProviderFrame::Accepted(accepted)).await;
    Ok(job)
}

/// The record of the acceptance needs not be durable before the answer begins: nothing signed leaves before the receipt.
fn journal_opened(shared: &Arc<Shared>, peer: NodeId, accept: &Accept) -> JoinHandle<()> {
    let record = Record::JobOpened(JobOpened {
        job: accept.job,
        channel: accept.channel,
        peer: peer.to_b256(),
        max_cost: accept.max_cost,
        payload: accept.to_bytes().into(),
    });
    let journal = shared.journal.clone();
    tokio::spawn(async move {
        if let Err(error) = journal.append(record).await {
            tracing::error!(error = %error, "a job's acceptance could not be stored");
        }
    })
}

impl Job<'_> {
    fn fail(&self, code: JobErrorCode, message: impl Into<String>) -> JobError {
        JobError { job: self.accept.job, code, message: message.into() }
    }

    fn payee_error(&self, error: &PayeeError) -> JobError {
        self.fail(JobErrorCode::Internal, error.to_string())
    }

    fn backend_error(&self, error: &BackendError) -> JobError {
        self.fail(error.code(), error.to_string())
    }

    async fn work(&mut self) -> Result<(), JobError> {
        let request = self.prompt().await?;
        let place = self.shared.admission.enter(self.shared.config.queue_wait_ms).await;
        let _place = place.map_err(|code| self.fail(code, "no place to run"))?;
        let counted = self.model.backend.count_prompt(&request).await;
        let tokens_in = counted.map_err(|error| self.backend_error(&error))?;
        self.request = Some(request.clone());
        let ending = match self.gate(tokens_in, 0).await? {
            Gate::Shut(ending) => ending,
            Gate::Open => {
                self.tokens_in = tokens_in;
                self.shared.metrics.tokens_in.inc_by(tokens_in);
                self.generate(&request).await?
            }
        };
        settle::settle(self, ending).await
    }

    async fn prompt(&mut self) -> Result<JobRequest, JobError> {
        let came = self.link.next(self.shared.config.prompt_wait_ms).await;
        let prompt: Prompt = match came {
            Ok(Came::Frame(frame)) => match *frame {
                GatewayFrame::Prompt(prompt) if prompt.job == self.accept.job => prompt,
                _ => return Err(protocol_error("the prompt must follow the accept".to_owned())),
            },
            Ok(Came::Bad(error)) => return Err(error),
            Err(Silence::Closed) => return Err(self.fail(JobErrorCode::Protocol, "the gateway went away")),
            Err(Silence::Late) => return Err(self.fail(JobErrorCode::Protocol, "the prompt did not come in time")),
        };
        let bad = |message: String| JobError { job: prompt.job, code: JobErrorCode::BadRequest, message };
        if request_digest(&prompt.salt, prompt.kind, &prompt.request) != self.accept.request_digest {
            return Err(bad("the prompt is not the one that was accepted".to_owned()));
        }
        let request = JobRequest::parse(prompt.kind, prompt.request).map_err(|error| bad(error.to_string()))?;
        if request.parameters.hash() != self.accept.parameters_hash || request.model != self.accept.model {
            return Err(bad("model or parameters are not the ones that were accepted".to_owned()));
        }
        self.output = OutputHasher::new(&prompt.salt);
        Ok(request)
    }

    /// Waits until the step to these tokens may be taken, and takes it on the meter.
    async fn gate(&mut self, tokens_in: u64, tokens_out: u64) -> Result<Gate, JobError> {
        let mut changes = self.entry.changes();
        let mut asked = None;
        loop {
            let permit = self.entry.step(&self.accept.job, tokens_in, tokens_out);
            match permit.map_err(|error| self.payee_error(&error))? {
                Permit::Go => return Ok(Gate::Open),
                Permit::Stop(StopReason::Deposit | StopReason::MaxCost) => {
                    return Ok(Gate::Shut(Ending::early(FinishReason::OutOfFunds)));
                }
                Permit::Pay { due } if asked != Some(due) => {
                    asked = Some(due);
                    // The gateway pays for what it has seen.
                    self.flush().await?;
                    let due = Due { job: self.accept.job, tokens_in, tokens_out, due };
                    let sent = self.link.send(ProviderFrame::Due(due)).await;
                    sent.map_err(|_| self.fail(JobErrorCode::PaymentLate, "the gateway went away"))?;
                }
                Permit::Pay { .. } => {}
            }
            let wait = Duration::from_millis(self.shared.config.payment_wait_ms);
            tokio::select! {
                changed = tokio::time::timeout(wait, changes.changed()) => {
                    let late = |_| self.fail(JobErrorCode::PaymentLate, "the voucher that was due did not come in time");
                    let _ = changed.map_err(late)?;
                }
                came = self.link.recv() => {
                    if self.cancelled(came)? {
                        return Ok(Gate::Shut(Ending::early(FinishReason::Cancelled)));
                    }
                }
                () = self.shared.stop.cancelled() => return Err(self.shutting_down()),
            }
        }
    }

    /// True for a cancellation of this job; an error for anything else that ends it.
    fn cancelled(&self, came: Option<Came>) -> Result<bool, JobError> {
        match came {
            None => Err(self.fail(JobErrorCode::Protocol, "the gateway went away")),
            Some(Came::Bad(error)) => Err(error),
            Some(Came::Frame(frame)) => match *frame {
                GatewayFrame::Cancel(job) => Ok(job == self.accept.job),
                _ => Err(protocol_error("a job is under way on this stream".to_owned())),
            },
        }
    }

    fn shutting_down(&self) -> JobError {
        self.fail(JobErrorCode::ShuttingDown, "the provider is shutting down")
    }

    /// Runs the backend to its end, to a cancellation, or to the end of the money.
    async fn generate(&mut self, request: &JobRequest) -> Result<Ending, JobError> {
        let started = self.model.backend.start(request).await;
        let mut stream = started.map_err(|error| self.backend_error(&error))?;
        loop {
            let (what, wait_ms) = match self.first_token_at {
                None => ("first token", self.shared.config.first_token_wait_ms),
                Some(_) => ("further token", self.shared.config.stall_wait_ms),
            };
            let flush_at = self.flush_at().unwrap_or_else(Instant::now);
            let event = tokio::select! {
                event = next_event(&mut *stream, what, wait_ms) => event,
                () = tokio::time::sleep_until(flush_at), if !self.pending.is_empty() => {
                    self.flush().await?;
                    continue;
                }
                came = self.link.recv() => {
                    if self.cancelled(came)? {
                        return Ok(Ending::early(FinishReason::Cancelled));
                    }
                    continue;
                }
                () = self.shared.stop.cancelled() => return Err(self.shutting_down()),
            };
            match event {
                Ok(BackendEvent::Text { text, tokens }) => {
                    if let Gate::Shut(ending) = self.deliver(text, tokens).await? {
                        return Ok(ending);
                    }
                }
                Ok(BackendEvent::Done(done)) => return self.done(done).await,
                Err(error) => return Ok(self.failed(error.to_string())),
            }
        }
    }

    /// A backend that fails in the middle: what was delivered is settled, and the receipt says what happened.
    fn failed(&self, error: String) -> Ending {
        tracing::warn!(job = %self.accept.job, error = %error, "backend failed");
        Ending { error, ..Ending::early(FinishReason::Error) }
    }

    async fn deliver(&mut self, text: String, tokens: u64) -> Result<Gate, JobError> {
        let tokens_out = self.tokens_out.saturating_add(tokens);
        if let Gate::Shut(ending) = self.gate(self.tokens_in, tokens_out).await? {
            return Ok(Gate::Shut(ending));
        }
        self.tokens_out = tokens_out;
        self.shared.metrics.tokens_out.inc_by(tokens);
        self.first_token_at.get_or_insert_with(|| self.shared.clock.now());
        self.output.update(&text);
        self.pending.push_str(&text);
        let now = Instant::now();
        if self.flush_at().is_none_or(|at| now >= at) || self.pending.len() >= PENDING_BYTES_MAX {
            self.flush().await?;
        }
        Ok(Gate::Open)
    }

    /// When what is pending is sent: the window after the last chunk is over; `None` before the first, which does not wait.
    fn flush_at(&self) -> Option<Instant> {
        Some(self.sent_at? + Duration::from_millis(self.shared.config.chunk_window_ms))
    }

    async fn flush(&mut self) -> Result<(), JobError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.sent_at = Some(Instant::now());
        let text = std::mem::take(&mut self.pending);
        let chunk = Chunk { job: self.accept.job, text, tokens_in: self.tokens_in, tokens_out: self.tokens_out };
        let sent = self.link.send(ProviderFrame::Chunk(chunk)).await;
        sent.map_err(|_| self.fail(JobErrorCode::Protocol, "the gateway went away"))
    }

    /// The backend's own end. Its usage counts where it is higher than what was metered and possible for the text.
    async fn done(&mut self, done: BackendDone) -> Result<Ending, JobError> {
        if let Some((usage_in, usage_out)) = done.usage {
            let tokens_in = self.tokens_in.max(usage_in);
            let tokens_out = self.tokens_out.max(usage_out.min(self.output.text_bytes()));
            let more = (tokens_in, tokens_out) != (self.tokens_in, self.tokens_out);
            if more && matches!(self.gate(tokens_in, tokens_out).await?, Gate::Open) {
                (self.tokens_in, self.tokens_out) = (tokens_in, tokens_out);
            }
        }
        Ok(Ending {
            finish: done.finish,
            token_ids: done.token_ids,
            fingerprint_root: done.fingerprint_root,
            error: done.error,
        })
    }

    /// The acceptance's record is on its way to the disk before any other record of the job.
    pub(crate) async fn opened(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.await;
        }
    }

    /// Ends the job without both signatures: its cost is what was signed for it.
    async fn abort(&mut self, error: &JobError) {
        self.opened().await;
        self.shared.metrics.jobs_aborted.inc();
        let id = self.accept.job;
        // With the receipt out, the gateway may hold all of it: the two sides differ by what was not signed for at most.
        let cost = settle::receipt_cost(self.shared, id);
        let signed = self.entry.signed_for(&id);
        let bound = cost.map_or(self.shared.config.risk_limit, |cost| cost.saturating_sub(signed));
        let Some(mut aborted) = self.entry.abort_job(&id, bound, error.code.to_string()) else { return };
        tracing::info!(job = %id, code = %error.code, written_off = %aborted.written_off, "job aborted");
        loop {
            if let Err(error) = self.shared.journal.append(Record::JobAborted(aborted.clone())).await {
                tracing::error!(job = %id, error = %error, "an aborted job could not be stored");
                return;
            }
            // A late voucher may have changed the figures while the record was on its way.
            match self.entry.aborted(&id) {
                Some(newer) if newer != aborted => aborted = newer,
                _ => return,
            }
        }
    }
}

async fn next_event(
    stream: &mut dyn BackendStream,
    what: &'static str,
    wait_ms: u64,
) -> Result<BackendEvent, BackendError> {
    let next = tokio::time::timeout(Duration::from_millis(wait_ms), stream.next()).await;
    next.unwrap_or(Err(BackendError::Late { what, wait_ms }))
}
