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
/// How long ago a file must have changed last to be known by its time: the kernel's clock for files stands still for some
/// milliseconds, so a change right behind another may leave the time as it was.
const SETTLED: Duration = Duration::from_secs(2);

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

/// A file as it was read.
#[derive(Debug)]
pub struct Whole {
    /// All of its bytes.
    pub bytes: Vec<u8>,
    /// While the file has this version, it has these bytes; `None`: nothing but reading it again can tell.
    pub version: Option<FileVersion>,
}

/// What changes with every change of a file: which file it is, how long it is, and when it last changed. Nobody can set that
/// time, unlike the time of the last writing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl FileVersion {
    /// Of a file that is there now.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            seconds: metadata.ctime(),
            nanoseconds: metadata.ctime_nsec(),
        }
    }

    /// Whether the next change will show in the time of the last one.
    fn is_settled(self, now: SystemTime) -> bool {
        let since = u64::try_from(self.seconds).ok().map(Duration::from_secs);
        let changed = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
        // A time in the future is another clock's, and says nothing.
        changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age > SETTLED))
    }
}

/// A file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64, writers: Writers) -> Result<Whole, Unread> {
    let check = |metadata: &Metadata| match metadata {
        metadata if !metadata.is_file() => Err(Unread::NotRegular),
        metadata if metadata.len() > limit => Err(Unread::TooLarge { size: metadata.len() }),
        _ => Ok(()),
    };
    // Opening a device can have effects, and the name may come to mean another file between the two checks; then
    // O_NONBLOCK keeps the opening of a pipe from waiting for its other end.
    check(&fs::metadata(path)?)?;
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let now = SystemTime::now();
    let before = file.metadata()?;
    check(&before)?;
    let writer = match writers {
        Writers::Ignored => MayBeWritten::Unknown,
        Writers::Awaited => writer(&file, &before, now)?,
    };
    if writer == MayBeWritten::Possible {
        return Err(Unread::BeingWritten);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len() + 1).unwrap_or(0));
    (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size > limit {
        return Err(Unread::TooLarge { size });
    }
    // Where there is no lease, a writer may have come meanwhile.
    let version = FileVersion::of(&before);
    if writers == Writers::Awaited && FileVersion::of(&file.metadata()?) != version {
        return Err(Unread::BeingWritten);
    }
    let version = Some(version).filter(|version| writer == MayBeWritten::None && version.is_settled(now));
    Ok(Whole { bytes, version })
}

/// Whether somebody may be writing a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum MayBeWritten {
    /// The kernel knows that nobody does, and nobody can begin before the file is closed.
    None,
    /// Nobody has said so, and the file has not changed for a while; or nobody was asked.
    Unknown,
    /// It may be so.
    Possible,
}

fn writer(file: &File, metadata: &Metadata, now: SystemTime) -> io::Result<MayBeWritten> {
    let is_remote = fstatfs(file).is_ok_and(|found| REMOTE.contains(&found.filesystem_type()));
    if !is_remote {
        match read_lease(file) {
            Ok(()) => return Ok(MayBeWritten::None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(MayBeWritten::Possible),
            // Another user's file without CAP_LEASE, or a file system or kernel that has no leases.
            Err(_) => {}
        }
    }
    // A time in the future is another clock's, and says nothing.
    let is_fresh = now.duration_since(metadata.modified()?).is_ok_and(|age| age < UNCHANGED);
    Ok(if is_fresh { MayBeWritten::Possible } else { MayBeWritten::Unknown })
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
        assert_eq!(awaited().unwrap().bytes, b"whole", "a file that was closed a moment ago");
        let mut first = File::create(&path).unwrap();
        let second = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "emptied and open");
        first.write_all(b"half").unwrap();
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "half written and open");
        assert_eq!(read(&path, 100, Writers::Ignored).unwrap().bytes, b"half", "a person sees what is there");
        drop(first);
        assert!(matches!(awaited(), Err(Unread::BeingWritten)), "another one still has it open");
        drop(second);
        assert_eq!(awaited().unwrap().bytes, b"half", "closed, it is what it is");
    }

    #[test]
    fn a_writer_that_comes_during_a_reading_waits_for_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "whole").unwrap();
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(writer(&file, &metadata, SystemTime::now()).unwrap(), MayBeWritten::None);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| fs::write(&path, "new").unwrap());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!other.is_finished(), "the lease holds it back, and its signal ends nobody");
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            drop(file);
        });
        assert_eq!(read(&path, 100, Writers::Awaited).unwrap().bytes, b"new");
    }

    #[test]
    fn without_a_lease_a_file_has_to_be_unchanged_for_a_while() {
        // The kernel gives no lease on it, as on a file of a server.
        let file = File::open("/dev/null").unwrap();
        assert!(read_lease(&file).is_err());
        let aged = |age: Duration| {
            let other = tempfile::tempfile().unwrap();
            other.set_modified(SystemTime::now() - age).unwrap();
            writer(&file, &other.metadata().unwrap(), SystemTime::now()).unwrap()
        };
        assert_eq!((aged(Duration::ZERO), aged(UNCHANGED / 2)), (MayBeWritten::Possible, MayBeWritten::Possible));
        assert_eq!(aged(UNCHANGED + Duration::from_millis(100)), MayBeWritten::Unknown);
        let future = tempfile::tempfile().unwrap();
        future.set_modified(SystemTime::now() + Duration::from_secs(90)).unwrap();
        let ahead = writer(&file, &future.metadata().unwrap(), SystemTime::now()).unwrap();
        assert_eq!(ahead, MayBeWritten::Unknown, "the clock of a server is ahead");
    }

    #[test]
    fn a_file_is_known_by_its_version_once_it_has_not_changed_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "whole").unwrap();
        let awaited = || read(&path, 100, Writers::Awaited).unwrap();
        assert_eq!(awaited().version, None, "the next change may come within the same tick of the clock");
        std::thread::sleep(SETTLED + Duration::from_millis(1100));
        let version = awaited().version.expect("it has settled");
        assert_eq!(FileVersion::of(&fs::metadata(&path).unwrap()), version);
        assert_eq!(read(&path, 100, Writers::Ignored).unwrap().version, None, "nobody asked who writes it");
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        // As long as before, and with the time of its last writing set back.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        (&file).write_all(b"other").unwrap();
        file.set_modified(written).unwrap();
        drop(file);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        assert_ne!(FileVersion::of(&fs::metadata(&path).unwrap()), version);
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
