//! Counts records of denied packets by who sent to whom, in a bounded number of series.
//!
//! Input: the two sides of each record, and the workloads that are there. Output: series. A series goes when one of its
//! workloads has been gone for a minute. When there is no place for a new series, the one that has been quiet for longest goes,
//! if it was quiet for long enough. What goes, and what finds no place, is counted as `other`, so the sum never falls. Pure: it
//! reads no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;

/// How many pairs have a series of their own.
const MOST: usize = 200;
/// For how long a series stays after one of its workloads has gone.
const GONE: Duration = Duration::from_mins(1);
/// For how long a series must have been quiet to give way to another.
const QUIET: Duration = Duration::from_mins(10);

/// Who is on a side of denied packets.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Who {
    /// A workload that a source has named.
    Workload {
        /// Its namespace.
        namespace: String,
        /// Its name there.
        name: String,
    },
    /// The node.
    Host,
    /// Outside.
    World,
    /// A workload without a name, or nobody can say.
    Unknown,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Host => f.write_str("host"),
            Self::World => f.write_str("world"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Who {
    fn name(&self) -> Option<(&str, &str)> {
        match self {
            Self::Workload { namespace, name } => Some((namespace, name)),
            Self::Host | Self::World | Self::Unknown => None,
        }
    }
}

/// One series.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Series {
    /// Sender and receiver; `None`: all those that have no series of their own.
    pub(super) sides: Option<(Who, Who)>,
    pub(super) direction: Direction,
    pub(super) reason: Reason,
    pub(super) records: u64,
}

/// By source, destination, direction and reason.
type Key = (Who, Who, Direction, Reason);

#[derive(Debug, Default)]
pub(super) struct Pairs {
    series: BTreeMap<Key, Count>,
    other: BTreeMap<(Direction, Reason), u64>,
}

#[derive(Debug)]
struct Count {
    records: u64,
    last: Instant,
    /// Since when one of its workloads is gone.
    gone: Option<Instant>,
}

impl Pairs {
    pub(super) fn count(&mut self, source: Who, destination: Who, direction: Direction, reason: Reason, now: Instant) {
        let key = (source, destination, direction, reason);
        if let Some(count) = self.series.get_mut(&key) {
            count.records += 1;
            count.last = now;
        } else if self.series.len() < MOST || self.give_way(now) {
            self.series.insert(key, Count { records: 1, last: now, gone: None });
        } else {
            *self.other.entry((direction, reason)).or_default() += 1;
        }
    }

    /// Notes which workloads are there.
    pub(super) fn living<'a>(&mut self, names: impl Iterator<Item = (&'a str, &'a str)>, now: Instant) {
        let counted: BTreeSet<(&str, &str)> =
            self.series.keys().flat_map(|(from, to, ..)| [from.name(), to.name()]).flatten().collect();
        if counted.is_empty() {
            return;
        }
        let living: BTreeSet<(String, String)> = names
            .filter(|name| counted.contains(name))
            .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
            .collect();
        let lives = |who: &Who| match who {
            Who::Workload { namespace, name } => living.contains(&(namespace.clone(), name.clone())),
            Who::Host | Who::World | Who::Unknown => true,
        };
        for ((from, to, ..), count) in &mut self.series {
            count.gone = if lives(from) && lives(to) { None } else { count.gone.or(Some(now)) };
        }
    }

    /// All series. Those of workloads that are gone for long enough are removed.
    pub(super) fn read(&mut self, now: Instant) -> Vec<Series> {
        let over = |count: &Count| count.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= GONE);
        let gone: Vec<Key> = self.series.iter().filter(|(_, count)| over(count)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
        let own = self.series.iter().map(|((from, to, direction, reason), count)| Series {
            sides: Some((from.clone(), to.clone())),
            direction: *direction,
            reason: *reason,
            records: count.records,
        });
        let other = self.other.iter().map(|((direction, reason), records)| Series {
            sides: None,
            direction: *direction,
            reason: *reason,
            records: *records,
        });
        own.chain(other).collect()
    }

    /// Removes the quietest series, if it was quiet for long enough.
    fn give_way(&mut self, now: Instant) -> bool {
        let quietest = self.series.iter().min_by_key(|(_, count)| count.last);
        let quiet = quietest.filter(|(_, count)| now.saturating_duration_since(count.last) >= QUIET);
        let Some(key) = quiet.map(|(key, _)| key.clone()) else { return false };
        self.remove(&key);
        true
    }

    fn remove(&mut self, key: &Key) {
        if let Some(count) = self.series.remove(key) {
            *self.other.entry((key.2, key.3)).or_default() += count.records;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Who {
        Who::Workload { namespace: "t".to_owned(), name: name.to_owned() }
    }

    fn count(pairs: &mut Pairs, from: &str, now: Instant) {
        pairs.count(workload(from), workload("b"), Direction::Ingress, Reason::NoRule, now);
    }

    fn sum(series: &[Series]) -> u64 {
        series.iter().map(|series| series.records).sum()
    }

    fn named(series: &[Series]) -> Vec<String> {
        series.iter().filter_map(|series| Some(series.sides.as_ref()?.0.to_string())).collect()
    }

    #[test]
    fn a_series_goes_a_minute_after_its_workload_and_its_records_are_others() {
        let (start, mut pairs) = (Instant::now(), Pairs::default());
        count(&mut pairs, "a", start);
        count(&mut pairs, "c", start);
        pairs.count(Who::World, workload("b"), Direction::Ingress, Reason::NoRule, start);
        pairs.living([("t", "b"), ("t", "c"), ("u", "a")].into_iter(), start);
        pairs.living([("t", "b"), ("t", "c")].into_iter(), start + GONE / 2);
        assert_eq!(named(&pairs.read(start + GONE * 99 / 100)), ["t/a", "t/c", "world"]);
        let series = pairs.read(start + GONE);
        assert_eq!((named(&series), sum(&series)), (vec!["t/c".to_owned(), "world".to_owned()], 3));
        pairs.living([("t", "b")].into_iter(), start + GONE);
        pairs.living([("t", "b"), ("t", "c")].into_iter(), start + GONE);
        assert_eq!(named(&pairs.read(start + 9 * GONE)), ["t/c", "world"], "it came back");
    }

    #[test]
    fn the_number_of_series_is_bounded_and_the_sum_never_falls() {
        let (start, mut pairs) = (Instant::now(), Pairs::default());
        for number in 0..3 * MOST {
            count(&mut pairs, &number.to_string(), start + Duration::from_millis(number as u64));
        }
        let series = pairs.read(start);
        assert_eq!((series.len(), sum(&series)), (MOST + 1, 3 * MOST as u64));
        count(&mut pairs, "0", start + QUIET);
        count(&mut pairs, "new", start + QUIET + Duration::from_millis(1));
        let series = pairs.read(start + QUIET);
        assert_eq!((series.len(), sum(&series)), (MOST + 1, 3 * MOST as u64 + 2));
        let named = named(&series);
        assert!(named.contains(&"t/new".to_owned()) && named.contains(&"t/0".to_owned()), "the quietest gave way");
        assert!(!named.contains(&"t/1".to_owned()), "{named:?}");
    }
}
