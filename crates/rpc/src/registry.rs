//! From the list of methods to a module that a server can run: where each answer is worked out, and for how long.

use crate::batch::{SEND_RAW, read_raw};
use crate::config::{Namespace, QUESTION_MS_MAX};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::methods::{Cost, Handler, METHODS, send_raw, send_raw_sync};
use crate::metrics::MethodLabel;
use crate::params::Args;
use crate::shape::{Answer, json};
use crate::subscriptions;
use jsonrpsee::RpcModule;
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::ErrorObjectOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const SEND_RAW_SYNC: &str = "eth_sendRawTransactionSync";

/// The name of every method and the namespace that opens it, for the reference and for tests.
pub fn method_names() -> impl Iterator<Item = (&'static str, Namespace)> {
    let apart = [SEND_RAW, SEND_RAW_SYNC, subscriptions::SUBSCRIBE, subscriptions::UNSUBSCRIBE];
    let listed = METHODS.iter().map(|method| (method.name, method.namespace));
    listed.chain(apart.into_iter().map(|name| (name, Namespace::Eth)))
}

/// A method as the reference shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MethodInfo {
    /// The family that opens it.
    pub namespace: Namespace,
    /// Its name.
    pub name: &'static str,
    /// What it costs at most, in words.
    pub cost: &'static str,
}

/// Every method with its class of cost, sorted by namespace and name.
#[must_use]
pub fn method_list() -> Vec<MethodInfo> {
    let cost = |name: &str| match METHODS.iter().find(|method| method.name == name).map(|method| method.cost) {
        Some(Cost::Light) => "memory",
        Some(Cost::Read) => "disk",
        Some(Cost::Heavy) => "heavy",
        None => "pool or socket",
    };
    let mut list: Vec<MethodInfo> =
        method_names().map(|(name, namespace)| MethodInfo { namespace, name, cost: cost(name) }).collect();
    list.sort_unstable();
    list
}

/// Every method of the open namespaces.
pub(crate) fn module(context: Arc<RpcContext>) -> Result<RpcModule<RpcContext>, RegisterMethodError> {
    let open = context.config.namespaces.clone();
    let mut module = RpcModule::from_arc(context);
    for method in METHODS.iter().filter(|method| open.contains(&method.namespace)) {
        let (name, cost, handler) = (method.name, method.cost, method.handler);
        module.register_async_method(name, move |params, context, _| async move {
            let answer = ask(context.clone(), cost, handler, Args::parse(params.as_str()));
            counted(&context, name, answer).await
        })?;
    }
    if open.contains(&Namespace::Eth) {
        register_raw(&mut module)?;
        subscriptions::register(&mut module)?;
    }
    Ok(module)
}

fn register_raw(module: &mut RpcModule<RpcContext>) -> Result<(), RegisterMethodError> {
    module.register_async_method(SEND_RAW, |params, context, _| async move {
        let raw = read_raw(params.as_str());
        let sending = context.clone();
        let answer = async move {
            let raw = vec![raw?];
            let mut sent = blocking(move || Ok(send_raw(&sending, &raw))).await?;
            json(&sent.pop().ok_or(RpcError::Internal("the pool answered too little"))??)
        };
        counted(&context, SEND_RAW, answer).await
    })?;
    module.register_async_method(SEND_RAW_SYNC, |params, context, _| async move {
        let args = Args::parse(params.as_str());
        let sending = context.clone();
        counted(&context, SEND_RAW_SYNC, async move { send_raw_sync(sending, args?).await }).await
    })?;
    Ok(())
}

async fn ask(
    context: Arc<RpcContext>,
    cost: Cost,
    handler: Handler,
    args: Result<Args, RpcError>,
) -> Result<Answer, RpcError> {
    let args = args?;
    let deadline = Duration::from_millis(QUESTION_MS_MAX);
    let late = |_| RpcError::TimedOut(QUESTION_MS_MAX);
    let places = match cost {
        Cost::Light => return handler(&context, &args),
        Cost::Read => &context.reads,
        Cost::Heavy => &context.heavy,
    };
    let permit = timeout(deadline, Arc::clone(places).acquire_owned()).await.map_err(|_| RpcError::Busy)?;
    let permit = permit.map_err(|_| RpcError::Internal("the server stops"))?;
    // The permit goes with the work, not with the wait: work that is past its deadline still counts.
    let work = blocking(move || {
        let answer = handler(&context, &args);
        drop(permit);
        answer
    });
    timeout(deadline, work).await.map_err(late)?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RpcError::Internal("a task was cancelled"))?
}

async fn counted(
    context: &RpcContext,
    method: &'static str,
    answer: impl Future<Output = Result<Answer, RpcError>>,
) -> Result<Answer, ErrorObjectOwned> {
    let label = MethodLabel { method };
    let started = Instant::now();
    let answer = answer.await;
    context.metrics.latency.observe(started.elapsed().as_secs_f64());
    context.metrics.requests.get_or_create(&label).inc();
    answer.map_err(|error| {
        context.metrics.errors.get_or_create(&label).inc();
        ErrorObjectOwned::from(error)
    })
}
