//! Which provider gets a job (MKT-13, NET-57, as far as they are built): one that is connected before one whose connection is
//! gone, one with room before a full one, then the cheapest, the least busy, the nearest; among equals not two of one network
//! in a row.
//!
//! A provider that refuses before it has accepted costs nothing, so another is tried; after that nothing is retried,
//! because a prompt that was paid must not be paid twice.

use crate::job::{JobClient, JobEvent as ClientEvent, JobFault, JobOrder, ProviderOffer, RunningJob};
use crate::jobs::{FailureKind, JobEvent, JobFailure, JobStream, JobSummary, Jobs};
use crate::selection::{Ranked, latency_steps, spread};
use async_trait::async_trait;
use futures::stream;
use trellis_market_receipt::wire::JobErrorCode;
use trellis_market_receipt::{JobKind, JobRequest, KIND_BIT_CHAT, KIND_BIT_COMPLETION, ModelOffer};
use trellis_primitives::{NodeId, Wei};

/// Providers that one request tries at most.
const PROVIDERS_TRIED_MAX: usize = 3;

/// Everything that connected providers sell, bought through one job client.
#[derive(Clone)]
pub struct Market {
    client: JobClient,
}

impl Market {
    /// Buys through this client.
    #[must_use]
    pub const fn new(client: JobClient) -> Self {
        Self { client }
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> &JobClient {
        &self.client
    }

    async fn candidates(&self, request: &JobRequest) -> Result<Vec<ProviderOffer>, JobFailure> {
        let kind = match request.kind {
            JobKind::Chat => KIND_BIT_CHAT,
            JobKind::Completion => KIND_BIT_COMPLETION,
        };
        let fits = |known: &ProviderOffer| known.offer.name == request.model && known.offer.kinds & kind != 0;
        let mut offers = self.client.offers().await;
        // Somebody who is not connected may sell it.
        if !offers.iter().any(fits) && self.client.look_for(&request.model).await {
            offers = self.client.offers().await;
        }
        if offers.is_empty() {
            return Err(JobFailure::new(
                FailureKind::Unavailable,
                "no provider is connected; try again, or see which peers there are with `trellis peer list`",
            ));
        }
        let candidates: Vec<ProviderOffer> = offers.into_iter().filter(fits).collect();
        if candidates.is_empty() {
            return Err(JobFailure::new(
                FailureKind::UnknownModel,
                format!("The model `{}` does not exist here; GET /v1/models lists those that do", request.model),
            ));
        }
        let ranked =
            candidates.into_iter().map(|known| Ranked { key: rank(&known, request), group: known.group, item: known });
        Ok(spread(ranked.collect()))
    }

    /// Whether a candidate can be asked: one whose connection is gone, once it is back.
    async fn is_there(&self, known: &ProviderOffer) -> bool {
        known.connected || self.client.bring_back(known.provider).await
    }

    /// Tries providers in their order. None where there was none that could be asked.
    async fn try_each(
        &self,
        candidates: Vec<ProviderOffer>,
        request: &JobRequest,
    ) -> Option<Result<JobStream, JobFailure>> {
        let mut last = None;
        for known in candidates.into_iter().take(PROVIDERS_TRIED_MAX) {
            if !self.is_there(&known).await {
                continue;
            }
            let order =
                JobOrder { provider: known.provider, request: request.clone(), max_cost: None, prompt_opening: None };
            let mut running = self.client.run(order);
            match running.next().await {
                Some(ClientEvent::Accepted { .. }) => return Some(Ok(events(running, known.provider))),
                Some(ClientEvent::Error(fault)) => {
                    tracing::warn!(provider = %known.provider, %fault, "a provider did not take a job");
                    let stop = !fault.is_worth_another_provider();
                    last = Some(Err(failure(fault)));
                    if stop {
                        break;
                    }
                }
                _ => last = Some(Err(JobFailure::new(FailureKind::Internal, "the job ended before it began"))),
            }
        }
        last
    }
}

/// What a provider's place in the order goes by: whether it is gone, whether it is full, what the most expensive answer would
/// cost, how busy it is in quarters of its capacity, how far it is.
fn rank(known: &ProviderOffer, request: &JobRequest) -> (bool, bool, Wei, u32, u32) {
    let output = known.offer.price_out.checked_mul_u64(request.parameters.max_tokens).unwrap_or(Wei::MAX);
    let input = known.offer.price_in.checked_mul_u64(request.bytes.len() as u64 / 4).unwrap_or(Wei::MAX);
    // The advert may be older than the jobs that this gateway has there.
    let (running, capacity) = (known.offer.running.max(known.running_here), known.offer.capacity);
    let busy = running.saturating_mul(4).checked_div(capacity).unwrap_or(u32::MAX);
    (!known.connected, running >= capacity, output.saturating_add(input), busy, latency_steps(known.latency_ms))
}

#[async_trait]
impl Jobs for Market {
    async fn offers(&self) -> Vec<(NodeId, ModelOffer)> {
        let here = self.client.offers().await.into_iter().filter(|known| known.connected);
        here.map(|known| (known.provider, known.offer)).collect()
    }

    async fn start(&self, request: JobRequest) -> Result<JobStream, JobFailure> {
        let candidates = self.candidates(&request).await?;
        if let Some(tried) = self.try_each(candidates, &request).await {
            return tried;
        }
        // Whoever sold it is gone; somebody else may sell it.
        self.client.look_for(&request.model).await;
        let gone = || JobFailure::new(FailureKind::Unavailable, "the providers of this model are gone; try again");
        let mut candidates = self.candidates(&request).await.map_err(|_| gone())?;
        candidates.retain(|known| known.connected);
        self.try_each(candidates, &request).await.unwrap_or_else(|| Err(gone()))
    }
}

fn events(running: RunningJob, provider: NodeId) -> JobStream {
    Box::pin(stream::unfold(running, move |mut running| async move {
        let event = match running.next().await? {
            ClientEvent::Accepted { .. } => JobEvent::Text(String::new()),
            ClientEvent::Text { text, .. } => JobEvent::Text(text),
            ClientEvent::Done(done) => {
                let (tokens_in, tokens_out) = done.usage();
                JobEvent::Done(JobSummary {
                    job: done.receipt.receipt.job,
                    receipt: done.receipt.receipt.struct_hash(),
                    provider,
                    finish: done.finish(),
                    tokens_in,
                    tokens_out,
                    cost: done.cost(),
                })
            }
            ClientEvent::Error(fault) => {
                tracing::warn!(%provider, %fault, "a job did not end well");
                JobEvent::Failed(failure(fault))
            }
        };
        Some((event, running))
    }))
}

fn failure(fault: JobFault) -> JobFailure {
    use crate::job::ChannelOpenError;
    let (kind, param) = match &fault {
        JobFault::Request(error) => (FailureKind::BadRequest, error.param()),
        JobFault::PromptTooLong { .. } => (FailureKind::BadRequest, Some("messages")),
        JobFault::UnknownModel { .. } => (FailureKind::UnknownModel, Some("model")),
        JobFault::Late { .. } => (FailureKind::Deadline, None),
        JobFault::Channel(ChannelOpenError::Funds { .. }) | JobFault::Payer(_) => (FailureKind::Funds, None),
        JobFault::Provider(error) => match error.code {
            JobErrorCode::Busy => (FailureKind::Busy, None),
            JobErrorCode::UnknownModel => (FailureKind::UnknownModel, Some("model")),
            JobErrorCode::BadRequest => (FailureKind::BadRequest, None),
            JobErrorCode::PromptTooLong => (FailureKind::BadRequest, Some("messages")),
            _ => (FailureKind::Unavailable, None),
        },
        JobFault::Cancelled => (FailureKind::Internal, None),
        _ => (FailureKind::Unavailable, None),
    };
    JobFailure { kind, param, message: fault.to_string() }
}
