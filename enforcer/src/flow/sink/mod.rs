//! Delivers records: a bounded queue, a thread that writes lines, and a file or stdout.
//!
//! Input: records and losses from the agent, which never waits. Output: lines, and counters of what happened to the records.
//! The counts in the lines always add up to the counts of the records, because records that the queue has no room for are
//! merged. Only records that cannot be written at the end are lost.

pub mod json;
mod output;
mod overflow;
mod rotate;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use jiff::Timestamp;

use self::output::{FileOutput, Output, StdoutOutput};
use self::overflow::Overflow;
pub use self::rotate::{Rotation, remove};
use self::writer::Writer;
use super::record::FlowRecord;

/// Records that wait to be written. Each is some hundred bytes: names are shared.
const QUEUE: usize = 8192;

/// Where the flow log goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file: appended to, mode 0600, opened anew when it was moved away, and put aside when it is large.
    File(PathBuf),
}

/// The flow log cannot be what the operator asked for.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFlowLog {
    /// The file cannot be opened, and no waiting will change that.
    #[error("cannot open the flow log {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot write the flow log to standard output")]
    Stdout(#[source] io::Error),
    /// No thread.
    #[error("cannot start the flow log's thread")]
    Thread(#[source] io::Error),
}

/// What became of the records. A snapshot; all counts only rise.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SinkCounts {
    /// Lines written.
    pub lines: u64,
    /// Records that found no room in the queue: their packets are told of without their flows.
    pub merged_records: u64,
    /// Denied packets that no line tells of, as those could not be written at the end. Before the end it is not known.
    pub lost_packets: u64,
    /// Failed writes and openings. Nothing is lost by one alone: it is tried again.
    pub errors: u64,
    /// How often the file was opened anew, since another one, or none, was at its path, or because it was put aside.
    pub reopened: u64,
}

/// What both threads know.
#[derive(Debug, Default)]
struct Shared {
    lines: AtomicU64,
    merged_records: AtomicU64,
    queued_packets: AtomicU64,
    written_packets: AtomicU64,
    errors: AtomicU64,
    reopened: AtomicU64,
    /// The log is being closed: an error is not waited on any more.
    closing: AtomicBool,
    overflow: Mutex<Overflow>,
}

impl Shared {
    fn merge(&self, entry: Entry) {
        self.merged_records.fetch_add(1, Relaxed);
        self.overflow().add(entry);
    }

    /// A thread that panicked while it held the lock has at most left an entry out.
    fn overflow(&self) -> MutexGuard<'_, Overflow> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts {
            lines: self.lines.load(Relaxed),
            merged_records: self.merged_records.load(Relaxed),
            lost_packets: 0,
            errors: self.errors.load(Relaxed),
            reopened: self.reopened.load(Relaxed),
        }
    }
}

#[derive(Debug)]
enum Entry {
    Record(FlowRecord),
    LostInRing { time: Timestamp, packets: u64 },
}

impl Entry {
    fn packets(&self) -> u64 {
        match self {
            Self::Record(record) => record.count,
            Self::LostInRing { packets, .. } => *packets,
        }
    }
}

/// The flow log, open.
pub struct FlowLog {
    entries: SyncSender<Entry>,
    shared: Arc<Shared>,
    ended: Receiver<()>,
    thread: Thread,
}

impl FlowLog {
    /// Opens the log and starts its thread. A full or read-only disk is waited for; a path that cannot be right is not.
    pub fn open(target: Target, rotation: Option<Rotation>, node: &str) -> Result<Self, InvalidFlowLog> {
        match target {
            Target::Stdout => Self::start(StdoutOutput::new().map_err(InvalidFlowLog::Stdout)?, node, QUEUE),
            Target::File(path) => match FileOutput::new(path.clone(), rotation) {
                Ok(output) => Self::start(output, node, QUEUE),
                Err(source) => Err(InvalidFlowLog::Open { path, source }),
            },
        }
    }

    fn start(output: impl Output + 'static, node: &str, queue: usize) -> Result<Self, InvalidFlowLog> {
        let (entries, queued) = mpsc::sync_channel(queue);
        let shared = Arc::new(Shared::default());
        // Dropped when the thread ends, which wakes the receiver.
        let (end, ended) = mpsc::channel();
        let writer = Writer::new(output, node.to_owned(), Arc::clone(&shared));
        let handle = std::thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || {
                writer.run(&queued);
                drop(end);
            })
            .map_err(InvalidFlowLog::Thread)?;
        Ok(Self { entries, shared, ended, thread: handle.thread().clone() })
    }

    /// Queues a record. Never waits: what finds no room is told of later, together with others.
    pub fn push(&self, record: FlowRecord) {
        self.queue(Entry::Record(record));
    }

    /// Says in the log that the kernel's ring had no room for the events of `packets` denied packets.
    pub fn lost_in_ring(&self, time: Timestamp, packets: u64) {
        self.queue(Entry::LostInRing { time, packets });
    }

    fn queue(&self, entry: Entry) {
        self.shared.queued_packets.fetch_add(entry.packets(), Relaxed);
        if let Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) = self.entries.try_send(entry) {
            self.shared.merge(entry);
        }
    }

    /// What became of the records so far.
    pub fn counts(&self) -> SinkCounts {
        self.shared.counts()
    }

    /// Writes what is queued, for at most `wait`. What could not be written is counted as lost.
    pub fn finish(self, wait: Duration) -> SinkCounts {
        let Self { entries, shared, ended, thread } = self;
        shared.closing.store(true, Release);
        drop(entries);
        thread.unpark();
        // It ends by the other side's drop; a timeout leaves the thread behind, as its output is stuck.
        let _ = ended.recv_timeout(wait);
        let written = shared.written_packets.load(Relaxed);
        SinkCounts { lost_packets: shared.queued_packets.load(Relaxed).saturating_sub(written), ..shared.counts() }
    }
}

#[cfg(test)]
mod tests;
