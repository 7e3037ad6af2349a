//! Handshakes begin one after the other, so that a crowd at the door leaves time for whoever is inside (NET-56).
//!
//! A handshake is some milliseconds of arithmetic. Hundreds that begin in one moment would be computed before the next
//! packet of a connection that stands; spread out, each of those packets waits for one of them at most.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two inbound handshakes on one core, milliseconds; more cores take turns faster.
pub const HANDSHAKE_EVERY_MS: u64 = 6;
/// Handshakes that begin without waiting after a quiet time.
pub const HANDSHAKES_AT_ONCE: u32 = 4;

/// Gives turns. Whoever stops waiting loses his.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    /// When the next turn is, if all before it are taken.
    next: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(cores: usize) -> Self {
        let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
        Self { every: Duration::from_millis(HANDSHAKE_EVERY_MS) / cores, next: Mutex::new(Instant::now()) }
    }

    /// For this machine.
    pub(crate) fn of_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(self.every * (HANDSHAKES_AT_ONCE - 1)).unwrap_or(now);
        let turn = (*next).max(earliest);
        *next = turn + self.every;
        turn
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) {
        let now = Instant::now();
        let turn = self.take(now);
        if turn > now {
            tokio::time::sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_begin_at_once_and_a_crowd_one_after_the_other() {
        let pace = Pace::new(2);
        let every = Duration::from_millis(HANDSHAKE_EVERY_MS) / 2;
        let now = Instant::now() + Duration::from_secs(1);
        let turns: Vec<_> = (0..HANDSHAKES_AT_ONCE + 3).map(|_| pace.take(now)).collect();
        let waits: Vec<_> = turns.iter().map(|turn| turn.saturating_duration_since(now)).collect();
        assert_eq!(waits[..HANDSHAKES_AT_ONCE as usize], [Duration::ZERO; HANDSHAKES_AT_ONCE as usize]);
        assert_eq!(waits[HANDSHAKES_AT_ONCE as usize..], [every, every * 2, every * 3]);
        // After a pause the crowd is forgotten.
        let later = now + Duration::from_secs(1);
        assert!(pace.take(later) <= later);
    }
}
