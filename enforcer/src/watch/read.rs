//! Reads a whole file that somebody may be writing.
//!
//! Input: a path. Output: its bytes, or why not. Nothing here can block: pipes and devices are never opened for reading, and
//! the size is bounded. A file that is open for writing may be half written, so a reader that nobody stands beside does not
//! get its bytes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{FsType, fstatfs};

use super::lease::read_lease;

/// How long a file must not have changed where the kernel cannot say whether it is open for writing.
const UNCHANGED: Duration = Duration::from_secs(2);

/// File systems whose leases speak of the server and not of writers: NFS, three of SMB, FUSE, 9P, Ceph, AFS.
const REMOTE: [FsType; 8] = [
    FsType(0x6969),
    FsType(0x517b),
    FsType(0xff53_4d42),
    FsType(0xfe53_4d42),
    FsType(0x6573_5546),
    FsType(0x0102_1997),
    FsType(0x00c3_6400),
    FsType(0x5346_414f),
];

/// What a reader does about a file that is open for writing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Writers {
    /// It takes what is there: a person asked for just this reading.
    Ignored,
    /// It does not take it.
    Awaited,
}

/// Why a file was not read.
#[derive(Debug)]
pub enum Unread {
    /// The system refused.
    Failed(io::Error),
    /// It is a pipe, a device, a socket or a directory.
    NotRegular,
    /// It is larger than the limit.
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Somebody may be writing it.
    BeingWritten,
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The bytes of a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64, writers: Writers) -> Result<Vec<u8>, Unread> {
    let check = |metadata: &Metadata| match metadata {
        metadata if !metadata.is_file() => Err(Unread::NotRegular),
        metadata if metadata.len() > limit => Err(Unread::TooLarge { size: metadata.len() }),
        _ => Ok(()),
    };
    // Opening a device can have effects, and the name may come to mean another file between the two checks; then
    // O_NONBLOCK keeps the opening of a pipe from waiting for its other end.
    check(&fs::metadata(path)?)?;
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let before = file.metadata()?;
    check(&before)?;
    if writers == Writers::Awaited && may_be_written(&file, &before)? {
        return Err(Unread::BeingWritten);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len() + 1).unwrap_or(0));
    (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size > limit {
        return Err(Unread::TooLarge { size });
    }
    // Where there is no lease, a writer may have come meanwhile.
    if writers == Writers::Awaited && version(&file.metadata()?) != version(&before) {
        return Err(Unread::BeingWritten);
    }
    Ok(bytes)
}

/// Whether somebody may be writing the file now. If the kernel knows that nobody does, nobody can begin before the file is
/// closed.
fn may_be_written(file: &File, metadata: &Metadata) -> io::Result<bool> {
    let is_remote = fstatfs(file).is_ok_and(|found| REMOTE.contains(&found.filesystem_type()));
    if !is_remote {
        match read_lease(file) {
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            // Another user's file without CAP_LEASE, or a file system or kernel that has no leases.
            Err(_) => {}
        }
    }
    // A time in the future is another clock's, and says nothing.
    Ok(SystemTime::now().duration_since(metadata.modified()?).is_ok_and(|age| age < UNCHANGED))
}

/// What changes with every writing.
fn version(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Whether a YAML text holds any document: not if it is empty, or holds comments, markers and nulls only.
pub fn has_documents(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().any(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        let is_nothing = matches!(content, "" | "~" | "null" | "Null" | "NULL" | "...");
        !is_nothing && !content.starts_with('#') && !line.starts_with('%')
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_read_when_its_last_writer_has_closed_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "whole").unwrap();
        let awaited = || read(&path, 100, Writers::Awaited);
        assert_eq!(awaited().unwrap(), b"whole", "a file that was closed a moment ago");
        let mut first = File::create(&path).unwrap();
        let second = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "emptied and open");
        first.write_all(b"half").unwrap();
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "half written and open");
        assert_eq!(read(&path, 100, Writers::Ignored).unwrap(), b"half", "a person sees what is there");
        drop(first);
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "another one still has it open");
        drop(second);
        assert_eq!(awaited().unwrap(), b"half", "closed, it is what it is");
    }

    #[test]
    fn a_writer_that_comes_during_a_reading_waits_for_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "whole").unwrap();
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        assert!(!may_be_written(&file, &metadata).unwrap());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| fs::write(&path, "new").unwrap());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!writer.is_finished(), "the lease holds it back, and its signal ends nobody");
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            drop(file);
        });
        assert_eq!(read(&path, 100, Writers::Awaited).unwrap(), b"new");
    }

    #[test]
    fn without_a_lease_a_file_has_to_be_unchanged_for_a_while() {
        // The kernel gives no lease on it, as on a file of a server.
        let file = File::open("/dev/null").unwrap();
        assert!(read_lease(&file).is_err());
        let aged = |age: Duration| {
            let other = tempfile::tempfile().unwrap();
            other.set_modified(SystemTime::now() - age).unwrap();
            may_be_written(&file, &other.metadata().unwrap()).unwrap()
        };
        assert!(aged(Duration::ZERO) && aged(UNCHANGED / 2));
        assert!(!aged(UNCHANGED + Duration::from_millis(100)));
        let future = tempfile::tempfile().unwrap();
        future.set_modified(SystemTime::now() + Duration::from_secs(90)).unwrap();
        assert!(!may_be_written(&file, &future.metadata().unwrap()).unwrap(), "the clock of a server is ahead");
    }

    #[test]
    fn a_text_has_documents_if_anything_but_comments_stands_in_it() {
        for text in
            ["", "\u{feff}", "\n \n", "# a: b\n", "---\n", "--- # x\n...\n", "%YAML 1.2\n---\n", "~", "--- null\n"]
        {
            assert!(!has_documents(text), "{text:?}");
        }
        for text in ["a: b", "# x\na: b\n", "--- {a: b}\n", "null: a", "[]"] {
            assert!(has_documents(text), "{text:?}");
        }
    }
}
