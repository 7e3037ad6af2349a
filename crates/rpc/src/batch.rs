//! Batches: raw transactions that stand side by side in a batch are taken together, decoded and recovered on all cores;
//! everything else is answered in its order, as the batch has it.

use crate::context::RpcContext;
use crate::error::{INTERNAL_CODE, RpcError};
use crate::methods::{RawTransactions, send_raw};
use crate::metrics::MethodLabel;
use crate::params::{Args, bytes};
use crate::subscriptions::{SUBSCRIBE, UNSUBSCRIBE};
use alloy_primitives::{B256, Bytes};
use jsonrpsee::core::middleware::{Batch, BatchEntry, Notification, RpcServiceT};
use jsonrpsee::server::{BatchResponseBuilder, MethodResponse, ResponsePayload};
use jsonrpsee::types::{ErrorObjectOwned, Id, Request};
use std::sync::Arc;

/// The one method that batches are fast at.
pub(crate) const SEND_RAW: &str = "eth_sendRawTransaction";

/// Makes [`BatchService`]s.
#[derive(Clone)]
pub(crate) struct BatchLayer {
    pub(crate) context: Arc<RpcContext>,
}

impl<S> tower::Layer<S> for BatchLayer {
    type Service = BatchService<S>;

    fn layer(&self, inner: S) -> BatchService<S> {
        BatchService { inner, context: self.context.clone() }
    }
}

/// A service that answers runs of raw transactions itself and hands everything else on.
#[derive(Clone)]
pub(crate) struct BatchService<S> {
    inner: S,
    context: Arc<RpcContext>,
}

/// Raw transactions side by side, with the ids to answer to.
#[derive(Default)]
struct Run {
    ids: Vec<Id<'static>>,
    raw: Vec<Result<Bytes, RpcError>>,
}

impl Run {
    fn push(&mut self, request: &Request<'_>) {
        self.ids.push(request.id().into_owned());
        self.raw.push(read_raw(request.params().as_str()));
    }

    /// Sends what can be read and pairs every id with its answer.
    async fn answer(self, context: Arc<RpcContext>) -> Vec<(Id<'static>, Result<B256, RpcError>)> {
        let good: RawTransactions = self.raw.iter().flatten().cloned().collect();
        let sent = tokio::task::spawn_blocking(move || send_raw(&context, &good)).await;
        let mut sent = sent.unwrap_or_default().into_iter();
        let answers = self.raw.into_iter().map(|raw| match raw {
            Ok(_) => sent.next().unwrap_or(Err(RpcError::Internal("a task was cancelled"))),
            Err(error) => Err(error),
        });
        self.ids.into_iter().zip(answers).collect()
    }
}

/// The one argument of `eth_sendRawTransaction`, read without building a tree where it has the usual form.
pub(crate) fn read_raw(params: Option<&str>) -> Result<Bytes, RpcError> {
    if let Some(Ok([text])) = params.map(serde_json::from_str::<[&str; 1]>)
        && let Some(digits) = text.strip_prefix("0x")
        && let Ok(raw) = alloy_primitives::hex::decode(digits)
    {
        return Ok(raw.into());
    }
    let args = Args::parse(params)?;
    args.at_most(1)?;
    args.required(0, bytes)
}

impl<S> RpcServiceT for BatchService<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type BatchResponse = MethodResponse;
    type NotificationResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let inner = self.inner.clone();
        async move {
            let told_later = [SUBSCRIBE, UNSUBSCRIBE].contains(&request.method_name());
            let id = told_later.then(|| request.id().into_owned());
            let answer = inner.call(request).await;
            match id {
                // The server below has no other word for a subscription over plain HTTP.
                Some(id) if answer.as_error_code() == Some(INTERNAL_CODE) => {
                    MethodResponse::error(id, ErrorObjectOwned::from(RpcError::NotOverHttp))
                }
                _ => answer,
            }
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let service = self.clone();
        async move {
            let bytes_max = usize::try_from(service.context.config.response_bytes_max).unwrap_or(usize::MAX);
            let mut answers = BatchResponseBuilder::new_with_limit(bytes_max);
            match service.fill(batch, &mut answers, bytes_max).await {
                Err(too_big) => too_big,
                Ok(true) if answers.is_empty() => MethodResponse::notification(),
                Ok(_) => MethodResponse::from_batch(answers.finish()),
            }
        }
    }

    fn notification<'a>(&self, notification: Notification<'a>) -> impl Future<Output = MethodResponse> + Send + 'a {
        let inner = self.inner.clone();
        async move { inner.notification(notification).await }
    }
}

impl<S> BatchService<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            BatchResponse = MethodResponse,
            NotificationResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    /// Answers every entry in its order. Says whether there was a notification, which has no answer.
    async fn fill(
        &self,
        batch: Batch<'_>,
        answers: &mut BatchResponseBuilder,
        bytes_max: usize,
    ) -> Result<bool, MethodResponse> {
        // The count is at most the batch limit, far under the precision of a float.
        #[allow(clippy::cast_precision_loss)]
        self.context.metrics.batch.observe(batch.len() as f64);
        let is_open = self.context.config.namespaces.contains(&crate::config::Namespace::Eth);
        let (mut run, mut notified) = (Run::default(), false);
        for entry in batch {
            match entry {
                Ok(BatchEntry::Call(request)) if is_open && request.method_name() == SEND_RAW => run.push(&request),
                Ok(BatchEntry::Call(request)) => {
                    self.flush(&mut run, answers, bytes_max).await?;
                    answers.append(self.inner.call(request).await)?;
                }
                Ok(BatchEntry::Notification(notification)) => {
                    notified = true;
                    self.inner.notification(notification).await;
                }
                Err(error) => {
                    self.flush(&mut run, answers, bytes_max).await?;
                    let (error, id) = error.into_parts();
                    answers.append(MethodResponse::error(id, error))?;
                }
            }
        }
        self.flush(&mut run, answers, bytes_max).await?;
        Ok(notified)
    }

    async fn flush(
        &self,
        run: &mut Run,
        answers: &mut BatchResponseBuilder,
        bytes_max: usize,
    ) -> Result<(), MethodResponse> {
        let run = std::mem::take(run);
        if run.ids.is_empty() {
            return Ok(());
        }
        let label = MethodLabel { method: SEND_RAW };
        let metrics = &self.context.metrics;
        metrics.requests.get_or_create(&label).inc_by(u64::try_from(run.ids.len()).unwrap_or(u64::MAX));
        let started = tokio::time::Instant::now();
        let answered = run.answer(self.context.clone()).await;
        metrics.latency.observe(started.elapsed().as_secs_f64());
        for (id, answer) in answered {
            let response = match answer {
                Ok(hash) => MethodResponse::response(id, ResponsePayload::success(hash), bytes_max),
                Err(error) => {
                    metrics.errors.get_or_create(&label).inc();
                    MethodResponse::error(id, ErrorObjectOwned::from(error))
                }
            };
            answers.append(response)?;
        }
        Ok(())
    }
}
