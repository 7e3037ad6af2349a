//! Waiting for conditions.

use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_MS: u64 = 200;

/// Waits until something holds; fails with what it was where it does not hold in time.
///
/// # Panics
/// After `patience`.
pub fn until(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}
