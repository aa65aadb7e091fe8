//! Decides whether a reading of files counts now, or waits because it may show half of a change.
//!
//! Input: what a reading found, and the time. Output: that it counts, or when to read again. Pure: it neither reads nor waits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a file that is open for writing is waited for. A reading that still finds it open is refused. Shorter than the
/// time that a source of workloads has for its first word.
pub const LONGEST: Duration = Duration::from_secs(5);
/// How long files must have been without documents before that counts. A writer that empties a file mostly fills it again.
pub const EMPTIED: Duration = Duration::from_secs(3);
/// How often a file that is open for writing is looked at, for file systems that do not tell when it is closed.
const LOOK: Duration = Duration::from_millis(500);

/// What a reading found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// A file that may be half written.
    BeingWritten,
    /// Files whose documents are in force, and that have none any more.
    Emptied(BTreeSet<String>),
    /// Neither.
    Whole,
}

/// What becomes of a reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// It counts, or its errors do.
    Counts,
    /// It is left, and the files are read again at this time, or earlier if they change.
    Waits(Instant),
}

/// What earlier readings of a source found.
#[derive(Debug, Default)]
pub struct Patience {
    /// Since when a file is open for writing.
    written_since: Option<Instant>,
    /// Which files have lost their documents, and since when none has joined them.
    emptied: Option<(BTreeSet<String>, Instant)>,
}

impl Patience {
    /// Whether the reading counts.
    pub fn next(&mut self, found: Found, now: Instant) -> Next {
        let (written, emptied) = (self.written_since.take(), self.emptied.take());
        match found {
            Found::Whole => Next::Counts,
            Found::BeingWritten => {
                let since = written.unwrap_or(now);
                self.written_since = Some(since);
                wait(now, since + LONGEST, LOOK)
            }
            Found::Emptied(files) => {
                let since = emptied.filter(|(before, _)| files.is_subset(before)).map_or(now, |(_, since)| since);
                self.emptied = Some((files, since));
                wait(now, since + EMPTIED, EMPTIED)
            }
        }
    }
}

/// Until `end`, but at most for `step`.
fn wait(now: Instant, end: Instant, step: Duration) -> Next {
    if now >= end { Next::Counts } else { Next::Waits(end.min(now + step)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emptied(files: &[&str]) -> Found {
        Found::Emptied(files.iter().map(|file| (*file).to_owned()).collect())
    }

    /// What becomes of readings at these milliseconds: whether each counts.
    fn counts(readings: &[(u64, Found)]) -> Vec<bool> {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let at = |millis| start + Duration::from_millis(millis);
        readings.iter().map(|(millis, found)| patience.next(found.clone(), at(*millis)) == Next::Counts).collect()
    }

    #[test]
    fn an_open_file_is_waited_for_and_then_refused_until_it_is_closed() {
        use Found::{BeingWritten, Whole};
        let readings =
            [(0, BeingWritten), (4_999, BeingWritten), (5_000, BeingWritten), (9_000, BeingWritten), (9_001, Whole)];
        assert_eq!(counts(&readings), [false, false, true, true, true]);
        assert_eq!(
            counts(&[(0, BeingWritten), (3_000, Whole), (4_000, BeingWritten), (8_000, BeingWritten)]),
            [false, true, false, false],
            "another writer has its own time"
        );
    }

    #[test]
    fn files_without_documents_count_when_they_have_been_so_for_a_while() {
        let one = || emptied(&["a"]);
        assert_eq!(counts(&[(0, one()), (2_999, one()), (3_000, one())]), [false, false, true]);
        assert!(!counts(&[(0, one()), (1_000, Found::Whole), (1_001, one()), (4_000, one())])[3]);
        let both = || emptied(&["a", "b"]);
        assert_eq!(
            counts(&[(0, one()), (2_000, both()), (3_000, both()), (5_000, both())]),
            [false, false, false, true]
        );
        assert_eq!(
            counts(&[(0, both()), (2_000, one()), (3_000, one())]),
            [false, false, true],
            "one was filled again"
        );
        assert_eq!(
            counts(&[(0, one()), (2_000, Found::BeingWritten), (3_000, one()), (6_000, one())]),
            [false, false, false, true],
            "a writer has been there meanwhile"
        );
    }

    #[test]
    fn an_open_file_is_looked_at_often_and_never_after_the_end() {
        let (start, mut patience) = (Instant::now(), Patience::default());
        assert_eq!(patience.next(Found::BeingWritten, start), Next::Waits(start + LOOK));
        let late = start + LONGEST.saturating_sub(LOOK / 2);
        assert_eq!(patience.next(Found::BeingWritten, late), Next::Waits(start + LONGEST));
        assert_eq!(Patience::default().next(emptied(&["a"]), start), Next::Waits(start + EMPTIED));
    }
}
