//! Limits how many lines of the flow log a workload can cause.
//!
//! Input: denials, and the time. Output: the denials that become lines of their own, and once a second the rest: one denial
//! for each workload, direction and reason, with the exact number of packets. Pure, and before names are looked up: what is
//! over the limit costs little.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use enforcer_common::denial::Denial;
use enforcer_common::id::{Direction, IncarnationId};
use enforcer_common::verdict::Reason;

/// How often the packets over the limit are told.
const PERIOD: Duration = Duration::from_secs(1);

/// How many lines a workload may cause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LineRate {
    /// Lines in a second, in the long run.
    pub per_second: u32,
    /// Lines at once.
    pub burst: u32,
}

/// The buckets of all workloads. Without a rate nothing is over the limit.
#[derive(Debug)]
pub struct LineLimit {
    rate: Option<LineRate>,
    /// When the bucket of a workload is full again. A workload with a full bucket has none here.
    full_at: BTreeMap<IncarnationId, Instant>,
    /// Packets over the limit that were not told yet.
    over: BTreeMap<(IncarnationId, Direction, Reason), u64>,
    next: Option<Instant>,
    withheld: u64,
}

impl LineLimit {
    /// With full buckets.
    pub fn new(rate: Option<LineRate>) -> Self {
        let (full_at, over) = (BTreeMap::new(), BTreeMap::new());
        Self { rate, full_at, over, next: None, withheld: 0 }
    }

    /// The denial, if it becomes a line. If not, its packets are told by [`Self::rest`].
    pub fn pass(&mut self, denial: Denial, now: Instant) -> Option<Denial> {
        let (workload, direction, reason, count) = match denial {
            Denial::Flow { way, count } => {
                (way.key.workload, Direction::from_u8(way.key.direction), Reason::from_u8(way.key.reason), count)
            }
            // The kernel has merged it already: there are no more of these in a second than directions and reasons.
            Denial::Busy { .. } => return Some(denial),
        };
        // What has no known direction or reason makes no line anyway.
        let (Some(direction), Some(reason)) = (direction, reason) else { return Some(denial) };
        if self.take(workload, now) {
            return Some(denial);
        }
        self.withheld += 1;
        *self.over.entry((workload, direction, reason)).or_default() += count;
        self.next.get_or_insert(now + PERIOD);
        None
    }

    /// What is over the limit, once a second; `at_once`: now, because the daemon stops.
    pub fn rest(&mut self, now: Instant, at_once: bool) -> Vec<Denial> {
        if !at_once && self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.next = None;
        self.full_at.retain(|_, full_at| *full_at > now);
        let over = std::mem::take(&mut self.over).into_iter();
        over.map(|((workload, direction, reason), count)| Denial::Busy { workload, direction, reason, count }).collect()
    }

    /// How many denials became no line of their own.
    pub fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Takes one line out of a workload's bucket. False: the bucket is empty.
    fn take(&mut self, workload: IncarnationId, now: Instant) -> bool {
        let Some(LineRate { per_second, burst }) = self.rate else { return true };
        let line = Duration::from_secs(1) / per_second.max(1);
        let full_at = self.full_at.get(&workload).copied().unwrap_or(now).max(now) + line;
        let has_room = full_at <= now + line * burst;
        if has_room {
            self.full_at.insert(workload, full_at);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::denial::{DenialKey, Way};
    use proptest::prelude::*;

    use super::*;

    const RATE: LineRate = LineRate { per_second: 200, burst: 2_000 };

    fn denial(workload: u32, reason: Reason, count: u64) -> Denial {
        let key = DenialKey {
            workload: IncarnationId(workload),
            direction: Direction::Egress as u8,
            reason: reason as u8,
            ..Way::FREE.key
        };
        Denial::Flow { way: Way { key, ..Way::FREE }, count }
    }

    fn packets(denial: &Denial) -> u64 {
        match denial {
            Denial::Flow { count, .. } | Denial::Busy { count, .. } => *count,
        }
    }

    /// Lines of a workload that asks for `offered` a second over these seconds.
    fn lines(limit: &mut LineLimit, workload: u32, start: Instant, offered: u32, seconds: u32) -> u32 {
        let at = |number: u32| start + Duration::from_secs(1) * number / offered;
        let denials = (0..offered * seconds).map(|number| (at(number), denial(workload, Reason::NoRule, 1)));
        denials.filter_map(|(now, denial)| limit.pass(denial, now)).count() as u32
    }

    #[test]
    fn a_flood_gets_its_burst_and_then_its_rate() {
        let (start, mut limit) = (Instant::now(), LineLimit::new(Some(RATE)));
        assert_eq!(lines(&mut limit, 1, start, 20_000, 10), 2_000 + 200 * 10 - 1);
        assert_eq!(
            lines(&mut limit, 2, start + Duration::from_secs(10), 100, 30),
            3_000,
            "another workload has its own"
        );
        let rested = start + Duration::from_secs(15);
        assert_eq!(lines(&mut limit, 1, rested, 20_000, 1), 5 * 200 + 200, "it rested for five seconds");
        let mut none = LineLimit::new(None);
        assert_eq!(lines(&mut none, 1, start, 20_000, 1), 20_000, "no limit");
    }

    #[test]
    fn the_rest_is_told_once_a_second_by_workload_direction_and_reason() {
        let (start, mut limit) = (Instant::now(), LineLimit::new(Some(LineRate { per_second: 1, burst: 1 })));
        assert!(limit.pass(denial(1, Reason::NoRule, 9), start).is_some());
        for reason in [Reason::NoRule, Reason::NoRule, Reason::SpoofedSource] {
            assert_eq!(limit.pass(denial(1, reason, 5), start), None);
        }
        let merged =
            Denial::Busy { workload: IncarnationId(1), direction: Direction::Egress, reason: Reason::NoRule, count: 7 };
        assert_eq!(limit.pass(merged, start), Some(merged), "the kernel has merged it already");
        assert_eq!(limit.rest(start + PERIOD / 2, false), []);
        let rest = limit.rest(start + PERIOD, false);
        let told =
            |reason, count| Denial::Busy { workload: IncarnationId(1), direction: Direction::Egress, reason, count };
        assert_eq!(rest, [told(Reason::NoRule, 10), told(Reason::SpoofedSource, 5)]);
        assert_eq!((limit.rest(start + 2 * PERIOD, true), limit.withheld()), (vec![], 3), "nothing is told twice");
    }

    #[test]
    fn a_full_bucket_takes_no_memory() {
        let (start, mut limit) = (Instant::now(), LineLimit::new(Some(RATE)));
        for workload in 0..1_000 {
            lines(&mut limit, workload, start, 1, 1);
        }
        limit.rest(start + Duration::from_secs(1), true);
        assert_eq!(limit.full_at.len(), 0);
    }

    proptest! {
        #[test]
        fn no_packet_is_lost_or_told_twice(
            denials in prop::collection::vec((0_u32..3, 0_u64..50, 0_u64..2_000), 1..200),
            per_second in 1_u32..20,
            burst in 1_u32..20,
        ) {
            let (mut now, mut limit) = (Instant::now(), LineLimit::new(Some(LineRate { per_second, burst })));
            let (mut offered, mut told) = (0, 0);
            for (workload, count, pause) in denials {
                now += Duration::from_millis(pause);
                offered += count;
                told += limit.pass(denial(workload, Reason::NoRule, count), now).iter().map(packets).sum::<u64>();
                told += limit.rest(now, false).iter().map(packets).sum::<u64>();
            }
            told += limit.rest(now, true).iter().map(packets).sum::<u64>();
            prop_assert_eq!(told, offered);
        }
    }
}
