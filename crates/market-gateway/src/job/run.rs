//! One job, from the order to the acknowledged receipt.

use crate::job::adverts;
use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use crate::job::favourites::Counted;
use crate::job::link::{Link, name};
use crate::job::money::{self, Entry};
use crate::job::sync;
use crate::job::verify::{Seen, prompt_tokens, recount};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use trellis_market_channel::{JobState, PayerJob, Prices, TokenBounds, job_cost};
use trellis_market_inference::TokenizerOnly;
use trellis_market_journal::{JobAborted, JobOpened, ReceiptKept, Record};
use trellis_market_receipt::wire::{
    Accept, Chunk, Countersign, GatewayFrame, JobErrorCode, Prompt, ProviderFrame, ProviderReceipt,
};
use trellis_market_receipt::{
    FinishReason, JobRequest, ModelOffer, OutputHasher, SignedReceipt, prompt_commitment, request_digest,
};
use trellis_net_peers::guard::{Conduct, Pattern};
use trellis_primitives::{B256, JobId, NodeId, Wei};

/// Events waiting for the caller at most; beyond it the provider is not read, and waits.
const EVENTS_AHEAD_MAX: usize = 64;

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct JobOrder {
    /// The provider.
    pub provider: NodeId,
    /// The request.
    pub request: JobRequest,
    /// The most to pay; without it, what the prompt and `max_tokens` cost at the advertised prices.
    pub max_cost: Option<Wei>,
    /// The opening of the receipt's prompt commitment; without it a random one, which nobody can open.
    pub prompt_opening: Option<B256>,
}

/// What a job tells.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEvent {
    /// The provider has taken it.
    Accepted {
        /// The job.
        job: JobId,
    },
    /// A piece of the answer.
    Text {
        /// The text.
        text: String,
        /// Output tokens so far.
        tokens_out: u64,
    },
    /// The end, with a receipt that both have signed. Nothing follows.
    Done(Box<JobDone>),
    /// The end, without one. Nothing follows.
    Error(JobFault),
}

/// A finished job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDone {
    /// The receipt, with both signatures.
    pub receipt: SignedReceipt,
    /// True where this gateway counted the tokens itself with the model's tokenizer.
    pub recounted: bool,
}

impl JobDone {
    /// Prompt tokens, output tokens.
    #[must_use]
    pub const fn usage(&self) -> (u64, u64) {
        (self.receipt.receipt.tokens_in, self.receipt.receipt.tokens_out)
    }

    /// What it cost.
    #[must_use]
    pub const fn cost(&self) -> Wei {
        self.receipt.receipt.cost
    }

    /// Why it ended.
    #[must_use]
    pub const fn finish(&self) -> FinishReason {
        self.receipt.receipt.finish_reason
    }
}

/// A job under way. Dropping it cancels; what was delivered is still paid and countersigned in the background.
#[derive(Debug)]
pub struct RunningJob {
    job: JobId,
    events: mpsc::Receiver<JobEvent>,
    _cancel: DropGuard,
}

impl RunningJob {
    /// The job's id.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.job
    }

    /// The next event; none after `Done` or `Error`.
    pub async fn next(&mut self) -> Option<JobEvent> {
        self.events.recv().await
    }
}

/// Begins a job in the background.
pub(crate) fn start(shared: Arc<Shared>, tasks: &TaskTracker, order: JobOrder) -> RunningJob {
    let (events, receiver) = mpsc::channel(EVENTS_AHEAD_MAX);
    let cancel = shared.stop.child_token();
    let job = JobId(shared.random_word());
    let guard = cancel.clone().drop_guard();
    tasks.spawn(async move {
        let counted = Counted::begin(&shared, order.provider);
        let prepared = tokio::select! {
            prepared = prepare(shared, job, order, events.clone(), cancel.clone()) => prepared,
            // Nothing is promised yet: there is nothing to settle.
            () = cancel.cancelled() => Err(JobFault::Cancelled),
        };
        match prepared {
            Ok(work) => work.run(counted).await,
            Err(fault) => {
                let fault = Err(fault);
                counted.end(&fault);
                let Err(fault) = fault else { return };
                let _ = events.send(JobEvent::Error(fault)).await;
            }
        }
    });
    RunningJob { job, events: receiver, _cancel: guard }
}

/// A job between its acceptance and its end.
struct Work {
    shared: Arc<Shared>,
    provider: NodeId,
    events: mpsc::Sender<JobEvent>,
    cancel: CancellationToken,
    entry: Arc<Entry>,
    link: Link,
    accept: Accept,
    offer: ModelOffer,
    tokenizer: Option<TokenizerOnly>,
    money: PayerJob,
    output: OutputHasher,
    text: String,
    opened: Option<JoinHandle<()>>,
    cancelled: bool,
    waiting: (WaitedFor, u64),
    deadline: Instant,
}

async fn prepare(
    shared: Arc<Shared>,
    job: JobId,
    order: JobOrder,
    events: mpsc::Sender<JobEvent>,
    cancel: CancellationToken,
) -> Result<Work, JobFault> {
    let (provider, request) = (order.provider, order.request);
    let advert = adverts::advert(&shared, provider).await?;
    let unknown = || JobFault::UnknownModel { provider, model: request.model.clone() };
    let offer = advert.offer(&request.model).ok_or_else(unknown)?.clone();
    let tokenizer = shared.tokenizers.get(&offer.tokenizer_digest).cloned();
    let prompt_max = prompt_tokens(tokenizer.as_ref(), &request)?;
    let prices = Prices { input: offer.price_in, output: offer.price_out };
    let max_cost = max_cost(&prices, &offer, &request, prompt_max, tokenizer.is_some(), order.max_cost)?;
    let mut entry = money::ensure(&shared, provider, &advert, max_cost).await?;
    sync::sync(&shared, &entry).await?;
    if !entry.is_usable(shared.clock.now()) {
        // The sync looked at the chain and found the channel closing: another one is needed.
        entry = money::ensure(&shared, provider, &advert, max_cost).await?;
        sync::sync(&shared, &entry).await?;
    }
    let salt = shared.random_word();
    let opening = order.prompt_opening.unwrap_or_else(|| shared.random_word());
    let mut accept = Accept {
        job,
        channel: entry.id,
        sequence: entry.next_sequence(shared.clock.now()),
        model: request.model.clone(),
        price_in: offer.price_in,
        price_out: offer.price_out,
        max_cost,
        aggregator: advert.aggregator,
        request_digest: request_digest(&salt, request.kind, &request.bytes),
        parameters_hash: request.parameters.hash(),
        prompt_commitment: prompt_commitment(&opening, &request.bytes),
        signature: [0; 65],
    };
    accept.sign(shared.config.chain_id, shared.network.local_id(), provider, &shared.signer);
    let mut link = Link::open(&shared.network, provider).await?;
    let prompt = Prompt { job, kind: request.kind, salt, request: request.bytes };
    for frame in [GatewayFrame::Accept(accept.clone()), GatewayFrame::Prompt(prompt)] {
        if let Err(fault) = link.send(&frame).await {
            learn_from(&shared, &entry, &fault);
            return Err(fault);
        }
    }
    let opened = Some(journal_opened(&shared, provider, &accept));
    let wait_ms = shared.config.accept_wait_ms;
    let bounds = TokenBounds { prompt_max };
    Ok(Work {
        money: PayerJob::new(prices, max_cost, shared.config.risk_limit, bounds),
        output: OutputHasher::new(&salt),
        text: String::new(),
        cancelled: false,
        waiting: (WaitedFor::Accepted, wait_ms),
        deadline: Instant::now() + Duration::from_millis(wait_ms),
        shared,
        provider,
        events,
        cancel,
        entry,
        link,
        accept,
        offer,
        tokenizer,
        opened,
    })
}

/// The most that will be signed: the caller's limit, or what the whole context could cost.
fn max_cost(
    prices: &Prices,
    offer: &ModelOffer,
    request: &JobRequest,
    prompt_max: u64,
    exact: bool,
    limit: Option<Wei>,
) -> Result<Wei, JobFault> {
    let context = u64::from(offer.context_tokens);
    if exact && prompt_max >= context {
        return Err(JobFault::PromptTooLong { max: context, actual: prompt_max });
    }
    let output_max = request.parameters.max_tokens.min(context);
    let whole = job_cost(prices, prompt_max, output_max)?;
    let Some(limit) = limit else { return Ok(whole) };
    let needed = if exact { job_cost(prices, prompt_max, 1)? } else { Wei::ZERO };
    if needed > limit {
        return Err(JobFault::TooDear { max_cost: limit, needed });
    }
    Ok(whole.min(limit))
}

/// The record needs not be durable before the accept leaves: the accept promises nothing but what vouchers will say.
fn journal_opened(shared: &Arc<Shared>, provider: NodeId, accept: &Accept) -> JoinHandle<()> {
    let record = Record::JobOpened(JobOpened {
        job: accept.job,
        channel: accept.channel,
        peer: provider.to_b256(),
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

impl Work {
    async fn run(mut self, counted: Counted) {
        let ended = self.stream().await;
        counted.end(&ended);
        match ended {
            Ok(()) => {}
            Err(fault) => self.abort(fault).await,
        }
    }

    fn wait_for(&mut self, what: WaitedFor, wait_ms: u64) {
        self.waiting = (what, wait_ms);
        self.deadline = Instant::now() + Duration::from_millis(wait_ms);
    }

    /// The acceptance's record is durable before any voucher or receipt of the job.
    async fn opened(&mut self) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.await;
        }
    }

    async fn stream(&mut self) -> Result<(), JobFault> {
        loop {
            let (what, wait_ms) = self.waiting;
            let frame = tokio::select! {
                frame = self.link.next_until(what, wait_ms, self.deadline) => frame?,
                () = self.cancel.cancelled(), if !self.cancelled => {
                    self.cancelled = true;
                    self.wait_for(WaitedFor::Receipt, self.shared.config.receipt_wait_ms);
                    self.link.send(&GatewayFrame::Cancel(self.accept.job)).await?;
                    continue;
                }
            };
            match frame {
                ProviderFrame::Accepted(accepted) if what == WaitedFor::Accepted || self.cancelled => {
                    self.entry.with_money(|money| money.adopt(accepted.held.as_ref()))?;
                    if !self.cancelled {
                        self.wait_for(WaitedFor::FirstToken, self.shared.config.first_token_wait_ms);
                    }
                    self.tell(JobEvent::Accepted { job: self.accept.job }).await;
                }
                // It crossed with the cancellation: what was delivered is paid with the receipt, and no step further.
                ProviderFrame::Due(_) if self.cancelled => {}
                ProviderFrame::Due(due) => {
                    let more = self.money.due(due.tokens_in, due.tokens_out, due.due)?;
                    self.pay(more).await?;
                }
                ProviderFrame::VoucherAck(held) => self.entry.with_money(|money| money.acknowledged(&held))?,
                ProviderFrame::Chunk(chunk) => self.chunk(chunk).await?,
                ProviderFrame::Receipt(receipt) => return self.receipt(*receipt).await,
                other => return Err(JobFault::Order { frame: name(&other) }),
            }
        }
    }

    /// Text goes on before its payment is stored, and a caller that does not read holds no payment up: then it comes back.
    fn tell_now(&self, event: JobEvent) -> Option<JobEvent> {
        match self.events.try_send(event) {
            Err(mpsc::error::TrySendError::Full(event)) => Some(event),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
        }
    }

    async fn tell(&mut self, event: JobEvent) {
        tokio::select! {
            _ = self.events.send(event) => {}
            () = self.cancel.cancelled() => {}
        }
    }

    async fn pay(&mut self, more: Wei) -> Result<(), JobFault> {
        if more.is_zero() {
            return Ok(());
        }
        self.opened().await;
        let frame = self.entry.pay(&self.shared, self.accept.job, more).await?;
        self.money.signed(more);
        self.link.send(&GatewayFrame::Voucher(frame)).await
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<(), JobFault> {
        self.money.delivered(chunk.tokens_in, chunk.tokens_out, chunk.text.len() as u64)?;
        self.output.update(&chunk.text);
        if self.tokenizer.is_some() {
            self.text.push_str(&chunk.text);
        }
        if !self.cancelled {
            self.wait_for(WaitedFor::NextToken, self.shared.config.stall_wait_ms);
        }
        let untold = self.tell_now(JobEvent::Text { text: chunk.text, tokens_out: chunk.tokens_out });
        let more = self.money.pay_ahead_of_limit()?;
        self.pay(more).await?;
        if let Some(text) = untold {
            self.tell(text).await;
        }
        Ok(())
    }

    /// Checks the receipt, signs it and the final voucher, stores both, and only then sends them.
    async fn receipt(&mut self, came: ProviderReceipt) -> Result<(), JobFault> {
        let ProviderReceipt { last, receipt: mut signed, token_ids } = came;
        self.money.delivered(last.tokens_in, last.tokens_out, last.text.len() as u64)?;
        self.output.update(&last.text);
        if self.tokenizer.is_some() {
            self.text.push_str(&last.text);
        }
        self.check(&signed, &token_ids)?;
        let more = self.money.receipt(&signed.receipt)?;
        let text = (!last.text.is_empty()).then(|| JobEvent::Text { text: last.text, tokens_out: last.tokens_out });
        let untold = text.and_then(|text| self.tell_now(text));
        self.opened().await;
        signed.sign_as_gateway(&self.shared.config.settlement_domain(), &self.shared.signer);
        let mut records = Vec::with_capacity(2);
        let voucher = if more.is_zero() {
            None
        } else {
            let (frame, record) = self.entry.promise(&self.shared, self.accept.job, more)?;
            records.push(record);
            Some(frame)
        };
        records.push(Record::JobComplete(kept(&signed)));
        self.shared.journal.append_all(records).await?;
        self.money.signed(more);
        self.money.finish(JobState::Complete);
        self.entry.with_money(|money| money.close_job(&self.accept.job));
        self.shared.pairs.add(&self.shared, self.provider, signed.receipt.struct_hash());
        let signature = signed.gateway_signature.as_ref().try_into().unwrap_or([0; 65]);
        let countersign = Countersign { job: self.accept.job, signature, voucher };
        let sent = self.link.send(&GatewayFrame::Countersign(countersign)).await;
        if let Some(text) = untold {
            self.tell(text).await;
        }
        let done = JobDone { receipt: signed, recounted: self.tokenizer.is_some() };
        self.tell(JobEvent::Done(Box::new(done))).await;
        // For the caller the job is over; what is left is between the two journals.
        if sent.is_err() || self.acknowledged().await.is_err() {
            self.entry.lost();
        }
        Ok(())
    }

    fn check(&self, signed: &SignedReceipt, token_ids: &[u32]) -> Result<(), JobFault> {
        let seen = Seen {
            chain_id: self.shared.config.chain_id,
            channels: self.shared.config.channels,
            settlement: self.shared.config.settlement_domain(),
            gateway: self.shared.network.local_id(),
            provider: self.provider,
            view: self.entry.view(),
            accept: &self.accept,
            offer: &self.offer,
            output_digest: self.output.digest(),
            tokens: self.money.tokens(),
            cancelled: self.cancelled,
        };
        seen.check(signed)?;
        match &self.tokenizer {
            Some(tokenizer) => {
                let receipt = &signed.receipt;
                recount(tokenizer, receipt.finish_reason, token_ids, &self.text, receipt.tokens_out)
            }
            None => Ok(()),
        }
    }

    async fn acknowledged(&mut self) -> Result<(), JobFault> {
        let wait_ms = self.shared.config.ack_wait_ms;
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            match self.link.next_until(WaitedFor::Acknowledgement, wait_ms, deadline).await? {
                ProviderFrame::VoucherAck(held) => self.entry.with_money(|money| money.acknowledged(&held))?,
                ProviderFrame::ReceiptAck(job) if job == self.accept.job => return Ok(()),
                other => return Err(JobFault::Order { frame: name(&other) }),
            }
        }
    }

    /// Ends the job without a receipt: its cost is what was signed for it.
    async fn abort(&mut self, fault: JobFault) {
        self.opened().await;
        self.money.finish(JobState::Aborted);
        learn_from(&self.shared, &self.entry, &fault);
        if matches!(fault, JobFault::Receipt { .. } | JobFault::Recount { .. } | JobFault::Claim(_)) {
            let pattern = Pattern::Unverified;
            self.shared.network.report(self.entry.provider, Conduct::Invalid { pattern });
        }
        // A refusal before anything was promised leaves both sides as they were.
        let refused = matches!(fault, JobFault::Provider(_)) && self.waiting.0 == WaitedFor::Accepted;
        if !refused {
            self.entry.lost();
        }
        let signed = self.money.signed_amount();
        let metered = self.money.delivered_cost().unwrap_or(signed).max(signed);
        let record = Record::JobAborted(JobAborted {
            job: self.accept.job,
            channel: self.accept.channel,
            metered,
            signed,
            written_off: metered.saturating_sub(signed),
            bound: self.shared.config.risk_limit,
            reason: reason(&fault).to_owned(),
        });
        if let Err(error) = self.shared.journal.append(record).await {
            tracing::error!(job = %self.accept.job, error = %error, "an aborted job could not be stored");
        }
        self.entry.with_money(|money| money.close_job(&self.accept.job));
        let fault = if self.cancelled { JobFault::Cancelled } else { fault };
        self.tell(JobEvent::Error(fault)).await;
    }
}

/// A refusal on the provider's own terms asks for a fresh advert; one about the channel, for a look at the chain.
fn learn_from(shared: &Shared, entry: &Entry, fault: &JobFault) {
    let JobFault::Provider(error) = fault else { return };
    match error.code {
        JobErrorCode::Price | JobErrorCode::UnknownModel | JobErrorCode::Receipt => {
            shared.adverts.forget(entry.provider)
        }
        JobErrorCode::Channel => entry.lost(),
        _ => {}
    }
}

pub(crate) fn kept(signed: &SignedReceipt) -> ReceiptKept {
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

/// A constant reason for the journal.
const fn reason(fault: &JobFault) -> &'static str {
    match fault {
        JobFault::Provider(_) => "provider",
        JobFault::Claim(_) | JobFault::Cost(_) => "claim",
        JobFault::Receipt { .. } | JobFault::Recount { .. } => "receipt",
        JobFault::Late { .. } => "late",
        JobFault::Lost { .. } | JobFault::Open(_) => "lost",
        JobFault::Wire(_) | JobFault::Order { .. } => "protocol",
        JobFault::Journal { .. } => "journal",
        JobFault::Payer(_) | JobFault::Channel(_) => "channel",
        JobFault::Cancelled => "cancelled",
        JobFault::Advert(_)
        | JobFault::UnknownModel { .. }
        | JobFault::Request(_)
        | JobFault::PromptTooLong { .. }
        | JobFault::Count { .. }
        | JobFault::TooDear { .. } => "request",
    }
}
