//! Decides how often the flow table is swept.
//!
//! Input: how long the last sweep took, when the next flow may be over, and whether flows are scarce. Output: whether the next
//! sweep is due. A sweep walks the whole table, whatever is in it. While there is room, a flow that has been idle for too long
//! may stay for some seconds more. Pure: it neither reads a clock nor sweeps.

use std::time::{Duration, Instant};

use enforcer_common::flow_state::SHORTEST_LIMIT;

/// How often it is asked whether a sweep is due, and the time between two sweeps when flows are scarce.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// A flow outlives its idle limit by no more (docs/policy-reference.md).
const LONGEST: Duration = Duration::from_secs(5);
/// A flow that comes after a sweep is over no sooner after it.
const NEWEST: Duration = Duration::from_secs(SHORTEST_LIMIT as u64);
/// A sweep that takes a millisecond is followed by the next one after so many, while there is room.
const FACTOR: u32 = 2000;

/// When the table was swept last, and what came of that.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    begin: Instant,
    took: Duration,
    /// Before this time no flow is over.
    next: Duration,
    /// It has left idle flows.
    is_behind: bool,
}

impl Pace {
    /// Whether a sweep is due. `is_scarce` is asked only if that decides.
    pub(super) fn is_due(&self, now: Instant, is_scarce: impl FnOnce() -> bool) -> bool {
        let Some(Last { begin, took, next, is_behind }) = self.last else { return true };
        let period = (took * FACTOR).clamp(TICK, LONGEST).max(next);
        // The tick that is nearest to the end of the period: one may come a little early.
        is_behind || now + TICK / 2 >= begin + period || is_scarce()
    }

    /// Notes a sweep. `next`: in what time the first of the flows that it left may be over, if there are any. `is_behind`: it
    /// could not free all that was idle.
    pub(super) fn swept(&mut self, begin: Instant, took: Duration, next: Option<Duration>, is_behind: bool) {
        self.last = Some(Last { begin, took, next: next.unwrap_or(NEWEST).min(NEWEST), is_behind });
    }

    /// Notes that workloads may be gone: their flows are over before their time.
    pub(super) fn workloads_went(&mut self) {
        if let Some(last) = &mut self.last {
            last.next = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many ticks a sweep is due that follows one which took so many microseconds. Ticks come some milliseconds early or
    /// late.
    fn ticks(took: u64, is_scarce: bool, is_behind: bool) -> [u32; 2] {
        ticks_after(took, Some(Duration::ZERO), is_scarce, is_behind)
    }

    fn ticks_after(took: u64, next: Option<Duration>, is_scarce: bool, is_behind: bool) -> [u32; 2] {
        let (early, jitter, mut pace) = (Instant::now(), Duration::from_millis(20), Pace::default());
        let begin = early + jitter;
        pace.swept(begin, Duration::from_micros(took), next, is_behind);
        let due = |first: Instant| (1..19).find(|tick| pace.is_due(first + TICK * *tick, || is_scarce)).unwrap_or(19);
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

    #[test]
    fn no_sweep_comes_before_a_flow_can_be_over() {
        let seconds = Duration::from_secs;
        assert_eq!(ticks_after(100, Some(seconds(4)), false, false), [4; 2]);
        assert_eq!(ticks_after(2_500, Some(seconds(2)), false, false), [5; 2], "not more often than without");
        // A flow that comes right after the sweep may be over after ten seconds.
        assert_eq!(ticks_after(100, Some(seconds(7_800)), false, false), [10; 2]);
        assert_eq!(ticks_after(100, None, false, false), [10; 2], "the table is empty");
        assert_eq!(ticks_after(100, None, true, false), [1; 2]);
        assert_eq!(ticks_after(100, None, false, true), [1; 2]);
    }

    #[test]
    fn what_a_gone_workload_has_left_is_swept_as_before() {
        let (begin, mut pace) = (Instant::now(), Pace::default());
        pace.workloads_went();
        assert!(pace.is_due(begin, || false), "the first one");
        pace.swept(begin, Duration::from_micros(100), None, false);
        assert!(!pace.is_due(begin + TICK, || false));
        pace.workloads_went();
        assert!(pace.is_due(begin + TICK, || false));
    }
}
