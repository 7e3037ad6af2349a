//! How many jobs run, and how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trellis_market_receipt::wire::JobErrorCode;

/// Bounded places to run and bounded places to wait.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    places_max: usize,
    waiting: Arc<AtomicUsize>,
    queue_max: usize,
}

/// Leaves the queue when dropped, however the wait ends.
struct InQueue(Arc<AtomicUsize>);

impl Drop for InQueue {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admission {
    pub(crate) fn new(jobs_max: usize, queue_max: usize) -> Self {
        let places_max = jobs_max.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places_max)), places_max, waiting: Arc::default(), queue_max }
    }

    /// Jobs that wait now.
    pub(crate) fn queued(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Jobs that run now.
    pub(crate) fn running(&self) -> usize {
        self.places_max.saturating_sub(self.places.available_permits())
    }

    /// A place to run, kept until the permit is dropped.
    pub(crate) async fn enter(&self, wait_ms: u64) -> Result<OwnedSemaphorePermit, JobErrorCode> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.queue_max {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(JobErrorCode::Busy);
        }
        let _queued = InQueue(Arc::clone(&self.waiting));
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(Duration::from_millis(wait_ms), place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(JobErrorCode::ShuttingDown),
            Err(_) => Err(JobErrorCode::Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_runs_one_waits_and_the_next_is_refused() {
        let admission = Admission::new(1, 1);
        let first = admission.enter(10).await.unwrap();
        assert_eq!((admission.running(), admission.queued()), (1, 0));
        let second = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter(5_000).await.map(drop) }
        });
        while admission.queued() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(admission.enter(10).await.err(), Some(JobErrorCode::Busy));
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!((admission.running(), admission.queued()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end() {
        let admission = Admission::new(1, 1);
        let _first = admission.enter(10).await.unwrap();
        assert_eq!(admission.enter(1_000).await.err(), Some(JobErrorCode::Busy));
        assert_eq!(admission.queued(), 0);
    }
}
