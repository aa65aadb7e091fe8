//! What the agent has said about itself.
//!
//! Input: the agent's words, each time something has changed. Output: the answers of `/livez` and `/readyz`, and a part of the
//! numbers. A lock is held for a copy, so a server that hangs holds up nobody who writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use prometheus_client::metrics::histogram::Histogram;

use super::pairs::{Pairs, Series, Who};

/// For how long the daemon's loop may stand still. Its longest step brings policies of the full budget into force, which takes
/// seconds; and nothing is lost by a late answer, because what is in force stays.
pub(super) const STILL: Duration = Duration::from_mins(1);

/// Bounds of the time that it takes to bring policies and workloads into force, in seconds.
const APPLY_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Bounds of the time that a new veth waits for its programs, in seconds.
const ATTACH_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What the server knows of the daemon.
#[derive(Debug)]
pub struct Board {
    start: Instant,
    /// Milliseconds from the start to the last turn of the loop.
    beat: AtomicU64,
    is_ready: AtomicBool,
    waits: Mutex<Waits>,
    facts: Mutex<Facts>,
    errors: [AtomicU64; Stage::ALL.len()],
    /// Records of the flow log that found no room in its queue.
    merged: AtomicU64,
    applied: Mutex<Option<SystemTime>>,
    pub(super) apply_seconds: Histogram,
    pub(super) attach_seconds: Histogram,
    pairs: Mutex<Pairs>,
}

/// For what the first full set of policies and workloads waits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Waits {
    /// The daemon is starting.
    #[default]
    Start,
    /// These sources of workloads have given no list yet.
    Sources(Vec<&'static str>),
    /// The policies have errors, and those of an earlier daemon are not known.
    Policies,
    /// The kernel refuses the first set.
    Kernel,
    /// So many steps of the first change have failed.
    Steps(usize),
}

/// What changes seldom. The agent replaces it as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Veths of workloads.
    pub endpoints: Endpoints,
    /// Since when each source whose newest state is not in force is stale.
    pub stale: BTreeMap<&'static str, SystemTime>,
}

/// Veths of workloads, by what holds for them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Endpoints {
    /// They have their programs, and a source names their workload.
    pub enforced: u64,
    /// They have their programs, and no source names their workload.
    pub unmanaged: u64,
    /// They have no place in the tables, or lack a program.
    pub failed: u64,
}

/// A step on the way of policies into the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Policies are read and parsed.
    Read,
    /// They become an image.
    Compile,
    /// The image and the endpoints come into the kernel.
    Apply,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Read, Self::Compile, Self::Apply];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Compile => "compile",
            Self::Apply => "apply",
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waits for ")?;
        match self {
            Self::Start => f.write_str("the daemon to start"),
            // Without their veths, no source's workloads are of use.
            Self::Sources(names) if names.is_empty() => f.write_str("the first list of veths from the kernel"),
            Self::Sources(names) => write!(f, "the first list of workloads from {}", names.join(" and ")),
            Self::Policies => f.write_str("policies without errors; `enforcer status` shows the errors"),
            Self::Kernel => f.write_str("the kernel to take the first policies; `enforcer status` shows the error"),
            Self::Steps(count) => {
                write!(f, "{count} failed steps of the first change; `enforcer status` shows their errors")
            }
        }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            beat: AtomicU64::new(0),
            is_ready: AtomicBool::new(false),
            waits: Mutex::default(),
            facts: Mutex::default(),
            errors: Default::default(),
            merged: AtomicU64::new(0),
            applied: Mutex::default(),
            apply_seconds: Histogram::new(APPLY_SECONDS),
            attach_seconds: Histogram::new(ATTACH_SECONDS),
            pairs: Mutex::default(),
        }
    }
}

impl Board {
    /// The daemon's loop has turned.
    pub fn beat(&self) {
        self.beat.store(self.start.elapsed().as_millis() as u64, Relaxed);
    }

    /// What the first full set waits for; `None`: it is in the kernel. Once it was, nothing changes that: what is in force
    /// stays, whatever a source says later.
    pub fn waits(&self, waits: Option<Waits>) {
        match waits {
            None => self.is_ready.store(true, Relaxed),
            Some(waits) => *locked(&self.waits) = waits,
        }
    }

    /// Replaces the facts.
    pub fn facts(&self, facts: Facts) {
        *locked(&self.facts) = facts;
    }

    /// A step has failed.
    pub fn failed(&self, stage: Stage) {
        self.errors[stage as usize].fetch_add(1, Relaxed);
    }

    /// Policies and workloads have come into force, and it took so long.
    pub fn applied(&self, took: Duration) {
        *locked(&self.applied) = Some(SystemTime::now());
        self.apply_seconds.observe(took.as_secs_f64());
    }

    /// A new veth has its programs, so long after it was heard of.
    pub fn attached(&self, took: Duration) {
        self.attach_seconds.observe(took.as_secs_f64());
    }

    /// How many records of the flow log have found no room in its queue.
    pub fn merged(&self, records: u64) {
        self.merged.store(records, Relaxed);
    }

    /// A record of denied packets was made.
    pub fn denied(&self, source: Who, destination: Who, direction: Direction, reason: Reason) {
        locked(&self.pairs).count(source, destination, direction, reason, Instant::now());
    }

    /// The workloads that are there, by namespace and name.
    pub fn living<'a>(&self, names: impl Iterator<Item = (&'a str, &'a str)>) {
        locked(&self.pairs).living(names, Instant::now());
    }

    /// `Err`: for how long the loop has stood still.
    pub(super) fn is_live(&self) -> Result<(), Duration> {
        let still = self.start.elapsed().saturating_sub(Duration::from_millis(self.beat.load(Relaxed)));
        if still <= STILL { Ok(()) } else { Err(still) }
    }

    /// `Err`: for what it waits.
    pub(super) fn is_ready(&self) -> Result<(), Waits> {
        if self.is_ready.load(Relaxed) { Ok(()) } else { Err(locked(&self.waits).clone()) }
    }

    pub(super) fn read_facts(&self) -> Facts {
        locked(&self.facts).clone()
    }

    pub(super) fn errors(&self) -> [(Stage, u64); Stage::ALL.len()] {
        Stage::ALL.map(|stage| (stage, self.errors[stage as usize].load(Relaxed)))
    }

    pub(super) fn last_applied(&self) -> Option<SystemTime> {
        *locked(&self.applied)
    }

    pub(super) fn merged_records(&self) -> u64 {
        self.merged.load(Relaxed)
    }

    /// How many series there are after so long.
    #[cfg(test)]
    pub(crate) fn series_after(&self, later: Duration) -> usize {
        locked(&self.pairs).read(Instant::now() + later).iter().filter(|series| series.sides.is_some()).count()
    }

    /// The records by who sent to whom.
    pub(super) fn pairs(&self) -> Vec<Series> {
        locked(&self.pairs).read(Instant::now())
    }
}

/// Each part is replaced as a whole, so a thread that panicked has left none half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_for_too_long_is_not_live() {
        let begun = |ago: Duration| Board { start: Instant::now().checked_sub(ago).unwrap(), ..Board::default() };
        assert_eq!(Board::default().is_live(), Ok(()), "it has just begun");
        let board = begun(STILL + Duration::from_secs(5));
        assert!(board.is_live().unwrap_err() > STILL);
        board.beat();
        assert_eq!(board.is_live(), Ok(()), "it turns again");
    }

    #[test]
    fn what_it_waits_for_is_one_line_and_ready_stays_ready() {
        let board = Board::default();
        assert_eq!(board.is_ready(), Err(Waits::Start));
        for waits in [
            Waits::Start,
            Waits::Sources(vec![]),
            Waits::Sources(vec!["runtime", "inventory"]),
            Waits::Policies,
            Waits::Kernel,
            Waits::Steps(3),
        ] {
            board.waits(Some(waits.clone()));
            assert_eq!(board.is_ready(), Err(waits.clone()));
            assert!(!waits.to_string().contains('\n') && waits.to_string().starts_with("waits for "), "{waits}");
        }
        board.waits(None);
        board.waits(Some(Waits::Kernel));
        assert_eq!(board.is_ready(), Ok(()));
    }
}
