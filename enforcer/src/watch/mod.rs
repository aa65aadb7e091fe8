//! Says when to read files again, reads them whole, and says whether what was read counts.
//!
//! Input: paths of files and directories, which may not exist yet. Output: a tick whenever one of them may have changed. A tick
//! says nothing more, because events can be lost, merged and misread. The reader reads everything and compares. `read` gives
//! no file that somebody is writing, and `patience` says for how long the reader waits for such a file. `told` says where
//! events are enough to read seldom without one.

mod interest;
mod lease;
pub mod patience;
pub mod read;
mod told;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::interest::Interest;
use self::read::FileVersion;

/// How long nothing must happen before a tick, so that a copy of many files is read once.
const QUIET: Duration = Duration::from_millis(100);
/// How long events that never stop can put off a tick.
const LONGEST: Duration = Duration::from_secs(1);
/// How often there is a tick without an event, for what inotify does not see: network file systems, renamed parents. Where
/// the kernel tells of every change, a look at the directories takes the place of the tick.
const RESCAN: Duration = Duration::from_secs(10);
/// How often there is a tick without an event all the same: a reader with a thousand files works for milliseconds. What no
/// event and no look at the directories tells of is a file mounted over another one, and a change by a name elsewhere.
const SELDOM: Duration = Duration::from_mins(1);

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify instance.
    #[error("cannot watch files for changes; raise the sysctl `fs.inotify.max_user_instances` if it is too small")]
    Inotify(#[source] notify::Error),
}

/// Ticks for a set of paths.
#[derive(Debug)]
pub struct ChangeStream {
    paths: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    /// The directories with a watch, and which directory each name meant then.
    watched: BTreeMap<PathBuf, Identity>,
    /// Events since the last tick: the first and the last of them.
    burst: Option<(Instant, Instant)>,
    rescan: Instant,
    last_tick: Instant,
    last_event: Instant,
    /// The paths that were files when the watches were put.
    files: Vec<(PathBuf, FileVersion)>,
    /// The kernel tells of every change in the directories: each has its watch, and only this kernel can change it.
    is_told: bool,
}

#[derive(Debug, Default)]
struct Shared {
    wake: Notify,
    interest: Mutex<Interest>,
}

/// Device, inode and birth: a name that means another directory has another one of these, even if the inode is reused.
type Identity = (u64, u64, Option<SystemTime>);

/// Watches `paths`; ticks begin with what changes from now on.
pub fn watch(paths: Vec<PathBuf>) -> Result<ChangeStream, WatchError> {
    let shared = Arc::new(Shared::default());
    let in_thread = Arc::clone(&shared);
    let watcher = notify::recommended_watcher(move |event| {
        if in_thread.concerns(&event) {
            in_thread.wake.notify_one();
        }
    })
    .map_err(WatchError::Inotify)?;
    let now = Instant::now();
    let mut stream = ChangeStream {
        paths,
        watcher,
        shared,
        watched: BTreeMap::new(),
        burst: None,
        rescan: now + RESCAN,
        last_tick: now,
        last_event: now,
        files: Vec::new(),
        is_told: false,
    };
    stream.arm();
    Ok(stream)
}

impl ChangeStream {
    /// Waits until something may have changed. Dropping the future loses nothing: what it had seen is seen by the next.
    pub async fn changed(&mut self) {
        loop {
            // A re-scan that is due in the middle of a burst waits for its end, or it would read half a change.
            let due = self.burst.map_or(self.rescan, |(first, last)| (last + QUIET).min(first + LONGEST));
            tokio::select! {
                // First, so that events without end cannot put it off.
                biased;
                () = sleep_until(due) => {
                    if self.burst.is_none() && self.shared.wake.notified().now_or_never().is_some() {
                        self.last_event = Instant::now();
                        self.burst = Some((self.last_event, self.last_event));
                        continue;
                    }
                    let now = Instant::now();
                    self.rescan = now + RESCAN;
                    if self.burst.take().is_none() && now < self.last_tick + SELDOM && self.is_as_before() {
                        continue;
                    }
                    self.last_tick = now;
                    // Before the reader reads: what changes behind its back from here on makes an event.
                    self.arm();
                    return;
                }
                () = self.shared.wake.notified() => {
                    let now = Instant::now();
                    self.last_event = now;
                    self.burst = Some((self.burst.map_or(now, |(first, _)| first), now));
                }
            }
        }
    }

    /// When the last event came; at first, when the watch began.
    pub fn last_event(&self) -> std::time::Instant {
        self.last_event.into_std()
    }

    /// Whether nothing can have changed without an event: the names still mean the same directories, and files that are
    /// watched by themselves have the same version.
    fn is_as_before(&self) -> bool {
        self.is_told
            && self.watched.iter().all(|(path, before)| identity(path).is_ok_and(|now| now == *before))
            && self.files.iter().all(|(path, before)| version(path) == Some(*before))
    }

    /// Puts watches where the paths lead now.
    fn arm(&mut self) {
        self.files = self.paths.iter().filter_map(|path| Some((path.clone(), version(path)?))).collect();
        let interest = Interest::of(&self.paths);
        let wanted: BTreeMap<PathBuf, Identity> =
            interest.watches().filter_map(|path| Some((path.to_owned(), identity(path).ok()?))).collect();
        *self.shared.interest.lock().unwrap_or_else(PoisonError::into_inner) = interest;
        for (path, identity) in std::mem::take(&mut self.watched) {
            if wanted.get(&path) == Some(&identity) {
                self.watched.insert(path, identity);
            } else {
                // It may be gone already, with its watch.
                let _ = self.watcher.unwatch(&path);
            }
        }
        self.is_told = wanted.keys().all(|path| told::is_told_of(path));
        for (path, identity) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, identity);
                }
                Err(error) => {
                    self.is_told = false;
                    tracing::warn!(path = %path.display(), %error, "cannot watch this path; changes are noticed at the next re-scan, within 10 s");
                }
            }
        }
    }
}

impl Shared {
    fn concerns(&self, event: &notify::Result<notify::Event>) -> bool {
        let Ok(event) = event else { return true };
        let is_change = match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => {
                true
            }
        };
        if event.need_rescan() {
            return true;
        }
        let interest = self.interest.lock().unwrap_or_else(PoisonError::into_inner);
        is_change && event.paths.iter().any(|path| interest.concerns(path))
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

/// The version of a file; `None`: it is a directory, or is not there.
fn version(path: &Path) -> Option<FileVersion> {
    let metadata = fs::metadata(path).ok().filter(|metadata| !metadata.is_dir())?;
    Some(FileVersion::of(&metadata))
}

#[cfg(test)]
mod tests;
