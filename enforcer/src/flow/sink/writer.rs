//! The flow log's thread: takes entries from the queue in batches, makes lines of them, and writes until it succeeds.
//!
//! Input: queued entries. Output: whole lines; after an error the rest of the batch is tried again from where it ended,
//! so a full disk tears no line and repeats none.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::output::Output;
use super::{Counters, Entry, json};
use crate::flow::hubble::{LOST_IN_QUEUE, LOST_IN_RING};

/// How long an error is waited on before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes after which a batch is closed.
const BATCH_BYTES: usize = 256 * 1024;

pub(super) struct Writer<O> {
    output: O,
    node: String,
    counters: Arc<Counters>,
    batch: Batch,
    failing: bool,
}

/// Lines on their way out.
#[derive(Default)]
struct Batch {
    text: String,
    written: usize,
    lines: Vec<Line>,
}

struct Line {
    /// Where it ends in the text.
    end: usize,
    /// Denied packets that it stands for.
    packets: u64,
}

impl<O: Output> Writer<O> {
    pub(super) fn new(output: O, node: String, counters: Arc<Counters>) -> Self {
        Self { output, node, counters, batch: Batch::default(), failing: false }
    }

    /// Until the queue's other end is dropped and all is written, or given up.
    pub(super) fn run(mut self, queued: &Receiver<Entry>) {
        loop {
            let ended = match queued.recv_timeout(RETRY) {
                Ok(entry) => {
                    self.fill(entry, queued);
                    false
                }
                // Nothing to say, but a file that was moved away is made anew for those who follow it.
                Err(RecvTimeoutError::Timeout) => {
                    self.tell_losses();
                    false
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.tell_losses();
                    true
                }
            };
            while !self.write() {
                if ended || self.counters.closing.load(Acquire) {
                    self.give_up(queued);
                    return;
                }
                // The end of the log wakes it.
                std::thread::park_timeout(RETRY);
            }
            if ended {
                return;
            }
        }
    }

    fn fill(&mut self, first: Entry, queued: &Receiver<Entry>) {
        self.tell_losses();
        self.add(first);
        while self.batch.text.len() < BATCH_BYTES
            && let Ok(entry) = queued.try_recv()
        {
            self.add(entry);
        }
    }

    fn add(&mut self, entry: Entry) {
        let packets = entry.packets();
        let line = match entry {
            Entry::Record(record) => json::flow_line(&record, Uuid::new_v4()),
            Entry::LostInRing { time, packets } => json::lost_line(&self.node, time, LOST_IN_RING, packets),
        };
        self.batch.push(&line, packets);
    }

    fn tell_losses(&mut self) {
        let packets = self.counters.untold_packets.swap(0, Relaxed);
        if packets != 0 {
            let line = json::lost_line(&self.node, Timestamp::now(), LOST_IN_QUEUE, packets);
            self.batch.push(&line, packets);
        }
    }

    /// Writes the batch. False: something is left of it.
    fn write(&mut self) -> bool {
        match self.try_write() {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the flow log is written again");
                }
                true
            }
            Err(error) => {
                self.counters.errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot write the flow log; will try again, and count what is lost");
                }
                false
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.output.ready()? {
            self.counters.reopened.fetch_add(1, Relaxed);
            self.batch.rewind();
        }
        while !self.batch.rest().is_empty() {
            match self.output.write(self.batch.rest()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.batch.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.counters.lines.fetch_add(self.batch.lines.len() as u64, Relaxed);
        self.batch.clear();
        Ok(())
    }

    fn give_up(&mut self, queued: &Receiver<Entry>) {
        let written = self.batch.written;
        let (out, left): (Vec<_>, Vec<_>) = self.batch.lines.iter().partition(|line| line.end <= written);
        self.counters.lines.fetch_add(out.len() as u64, Relaxed);
        for line in left {
            self.counters.lose(1, line.packets);
        }
        for entry in queued.try_iter() {
            self.counters.lose(1, entry.packets());
        }
    }
}

impl Batch {
    fn push(&mut self, line: &str, packets: u64) {
        self.text.push_str(line);
        self.text.push('\n');
        self.lines.push(Line { end: self.text.len(), packets });
    }

    fn rest(&self) -> &[u8] {
        &self.text.as_bytes()[self.written..]
    }

    /// Back to the start of the line that is half written: the other half went to another place.
    fn rewind(&mut self) {
        let ends = self.lines.iter().map(|line| line.end);
        self.written = ends.take_while(|end| *end <= self.written).last().unwrap_or(0);
    }

    fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.written = 0;
    }
}
