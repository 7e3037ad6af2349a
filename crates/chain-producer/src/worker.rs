//! One thread that does the producer's work in the order it was asked, so that nothing of it blocks the runtime.

use crate::config::WORK_QUEUE_MAX;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;
use trellis_chain_consensus::AppError;

type Job = Box<dyn FnOnce() + Send>;

/// Ends when the last handle is dropped and the queue is empty.
#[derive(Clone, Debug)]
pub(crate) struct Worker(SyncSender<Job>);

impl Worker {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel::<Job>(WORK_QUEUE_MAX);
        std::thread::Builder::new().name("chain-producer".to_owned()).spawn(move || {
            while let Ok(job) = receiver.recv() {
                job();
            }
        })?;
        Ok(Self(sender))
    }

    /// Runs a job on the thread and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        job: impl FnOnce() -> Result<T, AppError> + Send + 'static,
    ) -> Result<T, AppError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more when the caller was cancelled; the work was done all the same.
            let _ = answer.send(job());
        });
        self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => AppError::NotReady { operation, detail: "the work queue is full".to_owned() },
            TrySendError::Disconnected(_) => gone(operation),
        })?;
        answered.await.map_err(|_| gone(operation))?
    }
}

fn gone(operation: &'static str) -> AppError {
    AppError::Internal { operation, detail: "the producer's thread has ended".to_owned() }
}
