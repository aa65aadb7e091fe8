//! Decides how often the flow table is swept.
//!
//! Input: how long the last sweep took, and whether flows are scarce. Output: whether the next one is due. A sweep walks the
//! whole table, whatever is in it. While there is room, a flow that has been idle for too long may stay for some seconds more.
//! Pure: it neither reads a clock nor sweeps.

use std::time::{Duration, Instant};

/// Between two sweeps when flows are scarce.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);
/// Between two sweeps at most: a flow outlives its idle limit by no more (docs/policy-reference.md).
const LONGEST: Duration = Duration::from_secs(5);
/// A sweep is followed by a pause of so many times its length, while there is room: sweeping takes a two-thousandth of a processor.
const PAUSE_FACTOR: u32 = 2000;

/// When the table was swept last, and for how long.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
    /// The last sweep has left idle flows.
    is_behind: bool,
}

impl Pace {
    /// Whether a sweep is due. `is_scarce` is asked only if that decides.
    pub(super) fn is_due(&self, now: Instant, is_scarce: impl FnOnce() -> bool) -> bool {
        let Some((end, took)) = self.last else { return true };
        let pause = (took * PAUSE_FACTOR).clamp(SHORTEST, LONGEST);
        self.is_behind || now >= end + pause || is_scarce()
    }

    /// Notes a sweep. `is_behind`: it could not free all that was idle.
    pub(super) fn swept(&mut self, begin: Instant, end: Instant, is_behind: bool) {
        self.last = Some((end, end.saturating_duration_since(begin)));
        self.is_behind = is_behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a sweep is due so many milliseconds after one that took so many microseconds.
    fn is_due(took: u64, later: u64, is_scarce: bool, is_behind: bool) -> bool {
        let (begin, mut pace) = (Instant::now(), Pace::default());
        let end = begin + Duration::from_micros(took);
        pace.swept(begin, end, is_behind);
        pace.is_due(end + Duration::from_millis(later), || is_scarce)
    }

    #[test]
    fn a_large_table_is_swept_less_often_while_there_is_room() {
        assert!(Pace::default().is_due(Instant::now(), || false), "the first one");
        // A small table as often as can be.
        assert!(is_due(100, 1_000, false, false) && !is_due(100, 999, false, false));
        assert!(is_due(2_000, 4_000, false, false) && !is_due(2_000, 3_999, false, false));
        // Idle flows do not outlive their limit by more, however large the table and slow the machine.
        assert!(is_due(1_000_000, 5_000, false, false) && !is_due(1_000_000, 4_999, false, false));
    }

    #[test]
    fn scarce_flows_and_idle_ones_that_are_left_are_swept_for_at_once() {
        assert!(is_due(5_000, 0, true, false));
        assert!(is_due(5_000, 0, false, true));
    }
}
