//! How much goes over the line (NET-18): token buckets, global and per peer and class, each way.
//!
//! A stream that has bytes to move asks; it gets an allowance, or how long to sleep. Nobody polls and nothing spins.
//! Control and consensus are never held back, they only use up what is there; then comes sync; then jobs and gossip, which
//! leave a part of the bucket to sync but have a tenth of the rate for themselves, so that they are slow and never starved.
//! With a rate of zero nothing is asked at all.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Sleep;

use crate::guard::MessageClass;

/// Bytes per second each way, unless configured otherwise: 100 Mbit/s.
pub const BANDWIDTH_BYTES_PER_S: u64 = 12_500_000;
/// The share of the global rate that one peer may have for one class, in percent.
pub const PEER_PERCENT: u64 = 80;
/// A bucket holds what flows in so many milliseconds.
pub const BURST_MS: u64 = 250;
/// One part in so many of the rate is for jobs and gossip alone.
pub const WORK_SHARE: u64 = 10;
/// One part in so many of a bucket is left to sync by jobs and gossip.
const SYNC_RESERVE: i64 = 4;
/// What consensus may overdraw, in times the bucket.
const OVERDRAFT: i64 = 4;
/// A stream gets at most so many bytes at once, so that streams take turns.
const GRANT_BYTES_MAX: u64 = 64 * 1024;
/// A stream that has to wait waits until there are so many bytes for it, and at least as long as a timer is good for.
const GRANT_BYTES_MIN: u64 = 4 * 1024;
/// A bucket is filled up by no less than this.
const REFILL_BYTES_MIN: u64 = 64;
const WAIT_MS_MIN: u64 = 2;
const WAIT_MS_MAX: u64 = 1_000;
/// Classes of messages.
const CLASSES: usize = MessageClass::ALL.len();
const MICROS: u64 = 1_000_000;

/// A token bucket in bytes that can be overdrawn. Times are microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pool {
    level: i64,
    /// For jobs and gossip alone.
    kept: i64,
    updated_us: u64,
}

impl Pool {
    const fn full(rate: u64, now_us: u64) -> Self {
        let capacity = capacity(rate);
        Self { level: capacity, kept: capacity / WORK_SHARE as i64, updated_us: now_us }
    }

    fn refill(&mut self, rate: u64, now_us: u64) {
        let passed = now_us.saturating_sub(self.updated_us).min(10 * MICROS);
        let flowed = rate.saturating_mul(passed) / MICROS;
        if flowed < REFILL_BYTES_MIN {
            // Too little to be shared: it is not lost, the time goes on counting.
            return;
        }
        self.updated_us = now_us;
        let flowed = i64::try_from(flowed).unwrap_or(i64::MAX);
        let capacity = capacity(rate);
        let kept = (flowed / WORK_SHARE as i64).min(capacity / WORK_SHARE as i64 - self.kept).max(0);
        self.kept = self.kept.saturating_add(kept);
        self.level = self.level.saturating_add(flowed - kept).min(capacity);
    }

    /// Takes up to `wanted` bytes, or says how long to wait.
    fn take(&mut self, class: MessageClass, wanted: u64, rate: u64, now_us: u64) -> Result<u64, Duration> {
        self.refill(rate, now_us);
        let capacity = capacity(rate);
        let wanted = wanted.clamp(1, GRANT_BYTES_MAX);
        let asked = i64::try_from(wanted).unwrap_or(i64::MAX);
        let floor = match class {
            MessageClass::Control | MessageClass::Consensus => {
                self.level = self.level.saturating_sub(asked).max(-OVERDRAFT * capacity);
                return Ok(wanted);
            }
            MessageClass::Sync => 0,
            MessageClass::Work | MessageClass::Gossip => capacity / SYNC_RESERVE,
        };
        let low = matches!(class, MessageClass::Work | MessageClass::Gossip);
        let least = asked.min(GRANT_BYTES_MIN as i64).min((capacity / SYNC_RESERVE).max(1));
        let free = self.level - floor;
        if free >= least {
            let granted = asked.min(free);
            self.level -= granted;
            return Ok(granted.unsigned_abs());
        }
        if low && self.kept >= least.min(capacity / WORK_SHARE as i64) {
            let granted = asked.min(self.kept);
            self.kept -= granted;
            return Ok(granted.unsigned_abs().max(1));
        }
        let (missing, rate) = if low { (least - self.kept, rate / WORK_SHARE) } else { (least - free, rate) };
        let wait_ms = missing.unsigned_abs().saturating_mul(1_000) / rate.max(1);
        Err(Duration::from_millis(wait_ms.clamp(WAIT_MS_MIN, WAIT_MS_MAX)))
    }
}

const fn capacity(rate: u64) -> i64 {
    let bytes = rate.saturating_mul(BURST_MS) / 1_000;
    if bytes > i64::MAX as u64 / 16 { i64::MAX / 16 } else { bytes as i64 }
}

/// One way of the line.
#[derive(Debug)]
struct Lane {
    /// Bytes per second; zero is no limit.
    rate: AtomicU64,
    pool: Mutex<Pool>,
    used: [AtomicU64; CLASSES],
}

impl Lane {
    fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate), pool: Mutex::new(Pool::full(rate, 0)), used: Default::default() }
    }

    fn totals(&self) -> [u64; CLASSES] {
        std::array::from_fn(|n| self.used.get(n).map_or(0, |used| used.load(Ordering::Relaxed)))
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the peer.
    Up,
    /// From the peer.
    Down,
}

/// What flows each way, in bytes per second over the last second that was looked at, and altogether.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ClassUsage {
    /// To peers, bytes per second.
    pub up_bytes_per_s: u64,
    /// From peers, bytes per second.
    pub down_bytes_per_s: u64,
    /// To peers, bytes since the start.
    pub up_bytes: u64,
    /// From peers, bytes since the start.
    pub down_bytes: u64,
}

/// The budget of one node.
#[derive(Debug)]
pub struct Bandwidth {
    up: Lane,
    down: Lane,
    began: Instant,
    usage: Mutex<(u64, [ClassUsage; CLASSES])>,
}

impl Bandwidth {
    /// So many bytes per second each way; zero is no limit.
    #[must_use]
    pub fn new(up: u64, down: u64) -> Self {
        Self { up: Lane::new(up), down: Lane::new(down), began: Instant::now(), usage: Mutex::default() }
    }

    const fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Bytes per second that way; zero is no limit.
    #[must_use]
    pub fn rate(&self, way: Way) -> u64 {
        self.lane(way).rate.load(Ordering::Relaxed)
    }

    /// Changes the rate that way from now on.
    pub fn set_rate(&self, way: Way, bytes_per_s: u64) {
        let lane = self.lane(way);
        let mut pool = lane.pool.lock();
        lane.rate.store(bytes_per_s, Ordering::Relaxed);
        *pool = Pool::full(bytes_per_s, self.now_us());
    }

    /// Bytes passed.
    pub(crate) fn count(&self, way: Way, class: MessageClass, bytes: u64) {
        if let Some(used) = self.lane(way).used.get(class.index()) {
            used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Takes what a stream of a peer may move now, or says how long it has to wait.
    fn take(&self, way: Way, class: MessageClass, wanted: u64, peer: &PeerBudget) -> Result<u64, Duration> {
        let lane = self.lane(way);
        let rate = lane.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return Ok(GRANT_BYTES_MAX);
        }
        let now_us = self.now_us();
        let own = peer.take(way, class, wanted, rate, now_us)?;
        let granted = lane.pool.lock().take(class, own, rate, now_us);
        let unused = own.saturating_sub(granted.as_ref().copied().unwrap_or_default());
        peer.give_back(way, class, unused);
        granted
    }

    /// Looks at what passed since the last look; called about once a second.
    pub(crate) fn sample(&self) {
        let now_us = self.now_us();
        let (up, down) = (self.up.totals(), self.down.totals());
        let mut usage = self.usage.lock();
        let passed_us = now_us.saturating_sub(usage.0).max(1);
        let per_s = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(MICROS) / passed_us;
        for (class, (up, down)) in usage.1.iter_mut().zip(up.into_iter().zip(down)) {
            *class = ClassUsage {
                up_bytes_per_s: per_s(up, class.up_bytes),
                down_bytes_per_s: per_s(down, class.down_bytes),
                up_bytes: up,
                down_bytes: down,
            };
        }
        usage.0 = now_us;
    }

    /// What flows, by class, as of the last look.
    #[must_use]
    pub fn usage(&self) -> Vec<(MessageClass, ClassUsage)> {
        let usage = self.usage.lock().1;
        MessageClass::ALL.into_iter().filter_map(|class| Some((class, *usage.get(class.index())?))).collect()
    }
}

/// What one peer may have of each class, each way.
#[derive(Debug, Default)]
pub(crate) struct PeerBudget {
    pools: Mutex<[[Option<Pool>; CLASSES]; 2]>,
}

impl PeerBudget {
    fn take(&self, way: Way, class: MessageClass, wanted: u64, rate: u64, now_us: u64) -> Result<u64, Duration> {
        if matches!(class, MessageClass::Control | MessageClass::Consensus) {
            return Ok(wanted);
        }
        let rate = (rate.saturating_mul(PEER_PERCENT) / 100).max(1);
        let mut pools = self.pools.lock();
        let Some(pool) = pools.get_mut(way as usize).and_then(|way| way.get_mut(class.index())) else {
            return Ok(wanted);
        };
        // Within one peer and class there is nobody to give way to.
        pool.get_or_insert(Pool::full(rate, now_us)).take(MessageClass::Sync, wanted, rate, now_us)
    }

    fn give_back(&self, way: Way, class: MessageClass, bytes: u64) {
        let mut pools = self.pools.lock();
        if let Some(Some(pool)) = pools.get_mut(way as usize).and_then(|way| way.get_mut(class.index())) {
            pool.level = pool.level.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// What one stream may move one way before it has to ask again.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    credit: i64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Allowance {
    /// Ready with how many bytes may be moved; asks for `wanted` where nothing is left.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        bandwidth: &Bandwidth,
        peer: &Arc<PeerBudget>,
        (way, class): (Way, MessageClass),
        wanted: usize,
    ) -> Poll<usize> {
        if bandwidth.rate(way) == 0 {
            return Poll::Ready(wanted);
        }
        while self.credit <= 0 {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let needed = (wanted as u64).saturating_add(self.credit.unsigned_abs());
            match bandwidth.take(way, class, needed, peer) {
                Ok(granted) => self.credit = self.credit.saturating_add(i64::try_from(granted).unwrap_or(i64::MAX)),
                Err(wait) => self.sleep = Some(Box::pin(tokio::time::sleep(wait))),
            }
        }
        Poll::Ready(wanted.min(usize::try_from(self.credit).unwrap_or(usize::MAX)))
    }

    /// So many bytes were moved.
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
