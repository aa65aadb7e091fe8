//! Writes denied packets to the flow log, on a thread of its own, so that a flood of denied flows cannot delay a new veth
//! or a new policy.
//!
//! Input: the kernel's counts, and the names that belong to the last revisions. Output: records for the flow log, and the
//! number of records that were written, merged or lost, for `status`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use enforcer_common::denial::Denial;
use enforcer_common::id::IncarnationId;
use jiff::Timestamp;

use super::error::AgentError;
use super::meter;
use crate::flow::enrich::Enricher;
use crate::flow::limit::{LineLimit, LineRate};
use crate::flow::names::{NameTable, Names};
use crate::flow::sink::{FlowLog, SinkCounts};
use crate::kernel::{Denials, KernelError, NewDenials};
use crate::serve::Board;

/// How often denials are read. The kernel's ring and slices hold what comes in between.
const PERIOD: Duration = Duration::from_millis(100);
/// How often they are read after [`QUIET`]: a wake-up is most of what the thread costs while nothing is denied. The ring holds
/// what a flood brings in this time (`limits::EVENTS`).
const LONG_PERIOD: Duration = Duration::from_millis(250);
/// For how long nothing must have been denied.
const QUIET: Duration = Duration::from_secs(2);
/// How many readings lie between two clean-ups of counters of workloads that are gone.
const FORGET: u32 = 100;
/// How long the flow log may take to write what is queued when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The running thread.
pub(super) struct DenialLog {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    names: Mutex<NameTable>,
    living: Mutex<Option<BTreeSet<IncarnationId>>>,
    counts: Mutex<LogCounts>,
}

/// How many records the flow log wrote, merged and lost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct LogCounts {
    pub(super) sink: SinkCounts,
    /// Records that a workload was over its limit with. Their packets are in a sum.
    pub(super) over_limit: u64,
    /// Packets on which kernel and policies disagree.
    pub(super) disagreements: u64,
}

impl DenialLog {
    /// Starts the thread. Its first reading brings what was denied while no daemon ran; `names` has the names for
    /// those records.
    pub(super) fn start(
        denials: Denials,
        log: FlowLog,
        rate: Option<LineRate>,
        node: &str,
        names: NameTable,
        board: Arc<Board>,
    ) -> Result<Self, AgentError> {
        let shared = Arc::new(Shared { names: Mutex::new(names), ..Shared::default() });
        let (limit, enricher) = (LineLimit::new(rate), Enricher::new(node));
        let reader = Reader { shared: Arc::clone(&shared), denials, limit, log, enricher, board };
        let thread = thread::Builder::new()
            .name("denials".to_owned())
            .spawn(move || reader.run())
            .map_err(AgentError::Thread)?;
        Ok(Self { shared, thread })
    }

    /// The names that belong to the revisions. While a caller holds them, the thread reads no denial. A caller that
    /// puts a revision in force holds them until it has added the names of that revision.
    pub(super) fn names(&self) -> NameHandle {
        NameHandle(Arc::clone(&self.shared))
    }

    /// Tells the thread which workloads live. It may remove the counters of all others.
    pub(super) fn living(&self, ids: BTreeSet<IncarnationId>) {
        *locked(&self.shared.living) = Some(ids);
    }

    pub(super) fn counts(&self) -> LogCounts {
        *locked(&self.shared.counts)
    }

    /// Stops the thread, which first writes all denials that are left to the flow log.
    pub(super) fn finish(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the thread that reads denied packets has panicked; the flow log may lack records");
        }
    }
}

/// Access to the names.
pub(super) struct NameHandle(Arc<Shared>);

impl NameHandle {
    pub(super) fn hold(&self) -> MutexGuard<'_, NameTable> {
        locked(&self.0.names)
    }
}

/// A thread that panicked while it held the lock has at most left a record out.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pause after a reading, so long after the last denial.
fn period(quiet: Duration) -> Duration {
    if quiet < QUIET { PERIOD } else { LONG_PERIOD }
}

struct Reader {
    shared: Arc<Shared>,
    denials: Denials,
    limit: LineLimit,
    log: FlowLog,
    enricher: Enricher,
    board: Arc<Board>,
}

impl Reader {
    fn run(mut self) {
        let (mut readings, mut last_news) = (0, Instant::now());
        while !self.shared.stop.load(Ordering::Acquire) {
            let (is_empty, more) = self.read();
            if !is_empty {
                last_news = Instant::now();
            }
            readings += 1;
            if readings % FORGET == 0 {
                self.forget();
            }
            if !more {
                thread::park_timeout(period(last_news.elapsed()));
            }
        }
        let (reading, failure) = self.denials.flush();
        self.write(&reading, failure, true);
        let counts = self.log.finish(LAST_WORDS);
        if counts.lost_packets > 0 {
            tracing::warn!(
                packets = counts.lost_packets,
                "the daemon stopped before the flow log had written the records of these packets"
            );
        }
    }

    /// Whether nothing was there, and whether more is waiting.
    fn read(&mut self) -> (bool, bool) {
        let (reading, failure) = self.denials.poll();
        self.write(&reading, failure, false);
        (reading.denials.is_empty(), reading.more)
    }

    /// `last`: nothing is written after this.
    fn write(&mut self, reading: &NewDenials, failure: Option<KernelError>, last: bool) {
        if let Some(error) = failure {
            tracing::warn!(%error, "cannot read all denied packets from the kernel; trying again");
        }
        let now = Timestamp::now();
        let at = Instant::now();
        let shared = Arc::clone(&self.shared);
        let names = locked(&shared.names);
        for denial in &reading.denials {
            if let Some(denial) = self.limit.pass(*denial, at) {
                self.push(&*names, now, &denial);
            }
        }
        for denial in self.limit.rest(at, last) {
            self.push(&*names, now, &denial);
        }
        drop(names);
        if reading.lost > 0 {
            self.log.lost_in_ring(now, reading.lost);
        }
        let sink = self.log.counts();
        self.board.merged(sink.merged_records);
        *locked(&self.shared.counts) =
            LogCounts { sink, over_limit: self.limit.withheld(), disagreements: self.enricher.disagreements() };
    }

    fn push(&mut self, names: &dyn Names, now: Timestamp, denial: &Denial) {
        match self.enricher.enrich(names, now, denial) {
            Ok(record) => {
                meter::count(&self.board, &record);
                self.log.push(record);
            }
            Err(error) => tracing::error!(
                %error,
                "skipped a denial record with an unknown reason or direction (written by another version?)"
            ),
        }
    }

    fn forget(&mut self) {
        let Some(living) = locked(&self.shared.living).clone() else { return };
        if let Err(error) = self.denials.forget(&living) {
            tracing::warn!(%error, "cannot remove the counters of workloads that are gone; trying again later");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read_less_often_once_none_came_for_a_while() {
        let (quiet, short) = (QUIET, QUIET.mul_f32(0.99));
        assert_eq!([Duration::ZERO, short, quiet, 9 * quiet].map(period), [PERIOD, PERIOD, LONG_PERIOD, LONG_PERIOD]);
    }
}
