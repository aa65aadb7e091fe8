//! Decides how often the flow table is swept.
//!
//! Input: how long the last sweep took, and whether flows are scarce. Output: whether the next one is due. A sweep walks the
//! whole table, whatever is in it. While there is room, a flow that has been idle for too long may stay for some seconds more.
//! Pure: it neither reads a clock nor sweeps.

use std::time::{Duration, Instant};

/// How often it is asked whether a sweep is due, and the time between two sweeps when flows are scarce.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Between two sweeps at most: a flow outlives its idle limit by no more (docs/policy-reference.md).
const LONGEST: Duration = Duration::from_secs(5);
/// A sweep that takes a millisecond is followed by the next one after so many, while there is room.
const FACTOR: u32 = 2000;

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
        let Some((begin, took)) = self.last else { return true };
        let period = (took * FACTOR).clamp(TICK, LONGEST);
        // The tick that is nearest to the end of the period: one may come a little early.
        self.is_behind || now + TICK / 2 >= begin + period || is_scarce()
    }

    /// Notes a sweep. `is_behind`: it could not free all that was idle.
    pub(super) fn swept(&mut self, begin: Instant, took: Duration, is_behind: bool) {
        self.last = Some((begin, took));
        self.is_behind = is_behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many ticks a sweep is due that follows one which took so many microseconds. Ticks come some milliseconds early or
    /// late.
    fn ticks(took: u64, is_scarce: bool, is_behind: bool) -> [u32; 2] {
        let (early, jitter, mut pace) = (Instant::now(), Duration::from_millis(20), Pace::default());
        let begin = early + jitter;
        pace.swept(begin, Duration::from_micros(took), is_behind);
        let due = |first: Instant| (1..9).find(|tick| pace.is_due(first + TICK * *tick, || is_scarce)).unwrap_or(9);
        [due(early), due(begin + jitter)]
    }

    #[test]
    fn a_large_table_is_swept_less_often_while_there_is_room() {
        assert!(Pace::default().is_due(Instant::now(), || false), "the first one");
        assert_eq!(ticks(100, false, false), [1; 2], "a small table at every tick");
        assert_eq!(ticks(1_500, false, false), [3; 2]);
        assert_eq!(ticks(2_500, false, false), [5; 2]);
        // Idle flows do not outlive their limit by more, however large the table and slow the machine.
        assert_eq!(ticks(1_000_000, false, false), [5; 2]);
    }

    #[test]
    fn scarce_flows_and_idle_ones_that_are_left_are_swept_for_at_once() {
        assert_eq!(ticks(5_000, true, false), [1; 2]);
        assert_eq!(ticks(5_000, false, true), [1; 2]);
    }
}
