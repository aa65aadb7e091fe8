//! Reads the lines of a file that may grow, be truncated or be replaced meanwhile.
//!
//! Input: a path, or `-`. Output: lines with their numbers, each of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest line: a record of ours has at most some ten thousand bytes.
pub(super) const LINE_MOST: usize = 1 << 20;
/// How often a file is looked at for more.
const LOOK: Duration = Duration::from_millis(200);

/// A line, without its end.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// It passes [`LINE_MOST`].
    TooLong,
}

/// An open log.
pub(super) struct Input {
    /// `None`: standard input.
    path: Option<PathBuf>,
    reader: BufReader<Box<dyn Source>>,
    /// The line so far.
    partial: Vec<u8>,
    too_long: bool,
    number: u64,
    /// The file that took this one's place.
    next: Option<File>,
}

/// What is read from.
trait Source: Read {
    /// The file, if it is one that can grow.
    fn file(&mut self) -> Option<&mut File>;
}

impl Source for io::StdinLock<'static> {
    fn file(&mut self) -> Option<&mut File> {
        None
    }
}

impl Source for File {
    fn file(&mut self) -> Option<&mut File> {
        Some(self)
    }
}

impl Input {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (path, source): (_, Box<dyn Source>) = if path.as_os_str() == "-" {
            (None, Box::new(io::stdin().lock()))
        } else {
            (Some(path.to_owned()), Box::new(File::open(path)?))
        };
        Ok(Self { path, reader: BufReader::new(source), partial: Vec::new(), too_long: false, number: 0, next: None })
    }

    /// The next line and its number; `None`: there is no more for now. `last`: a line without an end counts at the end.
    pub(super) fn next(&mut self, last: bool) -> io::Result<Option<(u64, Line)>> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                let rest = last && (self.too_long || !self.partial.is_empty());
                return Ok(rest.then(|| self.line()));
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if self.partial.len() + part.len() > LINE_MOST {
                self.too_long = true;
            } else {
                self.partial.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(self.line()));
            }
        }
    }

    fn line(&mut self) -> (u64, Line) {
        self.number += 1;
        let whole = std::mem::take(&mut self.partial);
        let line = if std::mem::take(&mut self.too_long) { Line::TooLong } else { Line::Whole(whole) };
        (self.number, line)
    }

    /// Whether more may come after the end.
    pub(super) fn can_grow(&self) -> bool {
        self.path.is_some()
    }

    /// Waits a moment, then goes on where the log goes on.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        if let Some(next) = self.next.take() {
            self.reader = BufReader::new(Box::new(next));
            self.restart();
            return Ok(());
        }
        std::thread::sleep(LOOK);
        let Some(path) = &self.path else { return Ok(()) };
        let Some(file) = self.reader.get_mut().file() else {
            return Ok(());
        };
        let ours = file.metadata()?;
        if ours.is_file() && ours.len() < file.stream_position()? {
            // It was cut short: it starts again.
            file.seek(SeekFrom::Start(0))?;
            self.restart();
            return Ok(());
        }
        // Between two files there may be none. What was written to the old one meanwhile is read before it is left.
        if let Ok(there) = std::fs::metadata(path)
            && (ours.dev(), ours.ino()) != (there.dev(), there.ino())
        {
            self.next = File::open(path).ok();
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.partial.clear();
        self.too_long = false;
        self.number = 0;
    }
}
