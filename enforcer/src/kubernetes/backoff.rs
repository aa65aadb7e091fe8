//! How long to wait before the API server is asked again.
//!
//! Input: failures in a row. Output: times that double up to a bound, each shortened by chance, so that the nodes of a
//! cluster do not ask all at once when its API server comes back.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Before the first new attempt.
const FIRST: Duration = Duration::from_millis(400);
/// Before any attempt.
const MOST: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The time to wait after one more failure.
    pub(super) fn wait(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(MOST);
        self.failures += 1;
        whole.mul_f64(0.5 + chance() / 2.0)
    }

    /// The API server has answered as it should.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1. The standard library seeds each of these hashers at random.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_differ_and_begin_anew_after_an_answer() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.wait()).collect();
        for (index, wait) in waits.iter().enumerate() {
            let whole = MOST.min(FIRST * (1 << index.min(10)));
            assert!((whole / 2..=whole).contains(wait), "{index}: {wait:?}");
        }
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
