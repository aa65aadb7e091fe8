//! The thread of the flow log: takes entries from the queue in batches, formats them, and writes until it succeeds.
//!
//! Input: queued entries. Output: whole lines. After an error it continues the batch at the byte where the write ended, so a
//! full disk tears no line and repeats none.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use uuid::Uuid;

use super::output::Output;
use super::{Entry, Shared, json};
use crate::flow::hubble::LOST_IN_RING;

/// How long an error is waited on before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes after which a batch is closed.
const BATCH_BYTES: usize = 256 * 1024;

pub(super) struct Writer<O> {
    output: O,
    node: String,
    shared: Arc<Shared>,
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
    pub(super) fn new(output: O, node: String, shared: Arc<Shared>) -> Self {
        Self { output, node, shared, batch: Batch::default(), failing: false }
    }

    /// Until the queue's other end is dropped and all is written, or given up.
    pub(super) fn run(mut self, queued: &Receiver<Entry>) {
        loop {
            let ended = match queued.recv_timeout(RETRY) {
                Ok(entry) => {
                    self.fill(entry, queued);
                    false
                }
                // No new record, but a file that was moved away is made anew for those who follow it.
                Err(RecvTimeoutError::Timeout) => {
                    self.add_overflow();
                    false
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.add_overflow();
                    true
                }
            };
            while !self.write() {
                if ended || self.shared.closing.load(Acquire) {
                    self.count_written();
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
        self.add_overflow();
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

    fn add_overflow(&mut self) {
        let entries = self.shared.overflow().take();
        entries.for_each(|entry| self.add(entry));
    }

    /// Writes the batch. False: something is left of it.
    fn write(&mut self) -> bool {
        match self.try_write() {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("writing the flow log works again");
                }
                true
            }
            Err(error) => {
                self.shared.errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot write the flow log; trying again, and merging records that the queue has no room for");
                }
                false
            }
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.output.ready(self.batch.is_between_lines())? {
            self.shared.reopened.fetch_add(1, Relaxed);
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
        self.count_written();
        self.batch.clear();
        Ok(())
    }

    fn count_written(&self) {
        let written = self.batch.written;
        for line in self.batch.lines.iter().take_while(|line| line.end <= written) {
            self.shared.lines.fetch_add(1, Relaxed);
            self.shared.written_packets.fetch_add(line.packets, Relaxed);
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

    /// Whether what was written of it ends with a whole line.
    fn is_between_lines(&self) -> bool {
        self.written == 0 || self.lines.iter().any(|line| line.end == self.written)
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
