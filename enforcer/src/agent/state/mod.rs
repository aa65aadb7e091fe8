//! The state directory keeps the policies, the workload sources and the names from which the image in force was made. After
//! a restart the flow log can name what an earlier daemon decided. A bad policy or inventory file at the start does not cost
//! the node its last good policies and names.
//!
//! Input and output: [`InForce`]. Each source has a file of its own, which is never written again: new content goes to a new
//! file with the next version. For each revision that can be in force, an index names the version of every source. The
//! daemon writes the index last, before it stores the revision in the kernel. So a daemon that is killed at any moment
//! leaves either the older set or the newer one, complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use enforcer_common::id::Revision;

use serde::{Deserialize, Serialize};

use crate::plan::Unknown;
use crate::policy::load::SourceFile;
use crate::policy::source::Kept;
use crate::workload::model::Snapshot;

/// Files of policy sources, of workload sources, of the snapshot and of revisions begin so.
const POLICIES: &str = "policies-";
const WORKLOADS: &str = "workloads-";
const SNAPSHOT: &str = "snapshot";
const REVISION: &str = "revision-";

/// What an image was compiled from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InForce {
    /// Its revision.
    pub revision: Revision,
    /// The policy files of each source.
    pub policies: Kept,
    /// The text of each source of workloads that has one.
    pub workloads: BTreeMap<String, Arc<str>>,
    /// The workloads.
    pub snapshot: Arc<Snapshot>,
    /// How workloads without a name were treated.
    pub unknown: Unknown,
}

/// Why the content of the state directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidState {
    /// A file cannot be read, or one that the index names is missing.
    #[error("cannot read the state file {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what was written there.
    #[error("the state file {path} is damaged, or another version wrote it", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Which version of which source belongs to a revision.
#[derive(Deserialize, Serialize)]
struct Index {
    revision: Revision,
    unknown: Unknown,
    versions: BTreeMap<String, u64>,
}

/// What one file keeps. Clones and comparisons with itself cost nothing.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Policies(Vec<Arc<[SourceFile]>>),
    Text(Arc<str>),
    Snapshot(Arc<Snapshot>),
}

/// A part that has a file.
#[derive(Clone, Debug)]
struct Saved {
    name: String,
    part: Part,
    version: u64,
    bytes: u64,
}

/// Files of one pin directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// What this run has written since the last index, and what that one names.
    saved: Vec<Saved>,
    /// No file has a version as high as this one.
    next: u64,
}

impl StateDir {
    /// Makes the directory, which only root can read, because policies and labels are private.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let mut states = Self::at(path);
        let versions = states.files().into_iter().filter_map(|name| version_of(&name));
        states.next = versions.max().unwrap_or_default() + 1;
        Ok(states)
    }

    /// Opens the directory for reading only. It may be missing.
    pub fn at(path: PathBuf) -> Self {
        Self { path, saved: Vec::new(), next: 1 }
    }

    /// Writes the files of what may be in force next, if they have changed. No index names them before [`Self::save`] does, so
    /// this may run while the image is compiled.
    pub fn prepare(&mut self, state: &InForce) -> io::Result<()> {
        self.write_changed(state).map(drop)
    }

    /// Saves the sources of a revision that is about to be in force. Only changed files are written.
    pub fn save(&mut self, state: &InForce) -> io::Result<()> {
        let versions = self.write_changed(state)?;
        self.saved.retain(|saved| versions.get(&saved.name) == Some(&saved.version));
        let index = Index { revision: state.revision, unknown: state.unknown, versions };
        self.replace(&self.path.join(index_name(state.revision)), &framed(&serde_json::to_vec(&index)?))?;
        self.collect();
        Ok(())
    }

    /// The version of each part.
    fn write_changed(&mut self, state: &InForce) -> io::Result<BTreeMap<String, u64>> {
        let mut versions = BTreeMap::new();
        for (name, part) in parts(state) {
            let same = self.saved.iter().find(|saved| saved.name == name && saved.part == part);
            let version = match same.filter(|saved| self.has(saved)) {
                Some(saved) => saved.version,
                None => self.write(&name, part)?,
            };
            versions.insert(name, version);
        }
        Ok(versions)
    }

    fn write(&mut self, name: &str, part: Part) -> io::Result<u64> {
        let version = self.next;
        let bytes = framed(&serialized(&part)?);
        self.replace(&self.path.join(part_name(name, version)), &bytes)?;
        self.next += 1;
        self.saved.push(Saved { name: name.to_owned(), part, version, bytes: bytes.len() as u64 });
        Ok(version)
    }

    /// Whether the file is still there: somebody may have cleared the directory.
    fn has(&self, saved: &Saved) -> bool {
        let file = fs::metadata(self.path.join(part_name(&saved.name, saved.version)));
        file.is_ok_and(|file| file.len() == saved.bytes)
    }

    /// The sources of a revision; `None` if none were saved.
    pub fn load(&self, revision: Revision) -> Result<Option<InForce>, InvalidState> {
        let path = self.path.join(index_name(revision));
        let body = match unframed(&path) {
            Err(InvalidState::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            body => body?,
        };
        let index: Index = parsed(&path, &body)?;
        if index.revision != revision {
            return Err(InvalidState::Damaged { path });
        }
        let mut state = InForce { revision, unknown: index.unknown, ..InForce::default() };
        for (name, version) in index.versions {
            let path = self.path.join(part_name(&name, version));
            let body = unframed(&path)?;
            if let Some(source) = name.strip_prefix(POLICIES) {
                let files: Vec<(String, String)> = parsed(&path, &body)?;
                let files = files.into_iter().map(|(path, text)| SourceFile { path: path.into(), text: text.into() });
                state.policies.insert(source.to_owned(), vec![files.collect()]);
            } else if let Some(source) = name.strip_prefix(WORKLOADS) {
                state.workloads.insert(source.to_owned(), parsed::<String>(&path, &body)?.into());
            } else if name == SNAPSHOT {
                state.snapshot = Arc::new(parsed(&path, &body)?);
            } else {
                return Err(InvalidState::Damaged { path });
            }
        }
        Ok(Some(state))
    }

    /// Removes the sources of all other revisions.
    pub fn keep_only(&self, revision: Revision) {
        for name in self.files() {
            if name.starts_with(REVISION) && name != index_name(revision) {
                self.discard(&name);
            }
        }
        self.collect();
    }

    /// Removes files that no index names, and files that a killed daemon had only begun to write.
    fn collect(&self) {
        let files = self.files();
        let mut named = BTreeSet::new();
        for name in files.iter().filter(|name| name.starts_with(REVISION) && version_of(name).is_some()) {
            let path = self.path.join(name);
            match unframed(&path).and_then(|body| parsed::<Index>(&path, &body)) {
                Ok(index) => {
                    named.extend(index.versions.iter().map(|(name, version)| part_name(name, *version)));
                    named.insert(name.clone());
                }
                // The next call reads it again. What it names must not go for want of, say, a file descriptor.
                Err(InvalidState::Unreadable { .. }) => return,
                Err(InvalidState::Damaged { .. }) => {}
            }
        }
        let ours = |name: &&String| [POLICIES, WORKLOADS, SNAPSHOT, REVISION].iter().any(|ours| name.starts_with(ours));
        for name in files.iter().filter(ours).filter(|name| !named.contains(*name)) {
            self.discard(name);
        }
    }

    /// A file that cannot be removed does no harm, because no valid index names it.
    fn discard(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Path of the report that the daemon writes for `status`.
    pub fn report(&self) -> PathBuf {
        self.path.join("status.json")
    }

    /// Replaces a file as a whole: a reader, or a power cut, sees the old one or the new one.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let beside = path.with_extension("tmp");
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(&self.path)?.sync_all()
    }

    /// Removes the directory and what the daemon put there.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // That of all pin directories goes with the last one. Another one may be in it, or it may be a mount.
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// What a state consists of, each part by its name.
fn parts(state: &InForce) -> Vec<(String, Part)> {
    let InForce { revision: _, policies, workloads, snapshot, unknown: _ } = state;
    let policies = policies.iter().map(|(name, files)| (format!("{POLICIES}{name}"), Part::Policies(files.clone())));
    let texts = workloads.iter().map(|(name, text)| (format!("{WORKLOADS}{name}"), Part::Text(Arc::clone(text))));
    let snapshot = (SNAPSHOT.to_owned(), Part::Snapshot(Arc::clone(snapshot)));
    policies.chain(texts).chain([snapshot]).collect()
}

fn serialized(part: &Part) -> serde_json::Result<Vec<u8>> {
    match part {
        Part::Policies(files) => {
            let files = files.iter().flat_map(|files| files.iter());
            serde_json::to_vec(&files.map(|file| (&*file.path, &*file.text)).collect::<Vec<_>>())
        }
        Part::Text(text) => serde_json::to_vec(&**text),
        Part::Snapshot(snapshot) => serde_json::to_vec(&**snapshot),
    }
}

fn index_name(revision: Revision) -> String {
    format!("{REVISION}{revision}.json")
}

fn part_name(name: &str, version: u64) -> String {
    format!("{name}-{version}.json")
}

/// The number in the name of a file: the version of a part, or the revision of an index.
fn version_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.rsplit_once('-')?.1.parse().ok()
}

/// A body behind a line with its checksum and length.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:08x} {}\n", crc32fast::hash(body), body.len()).into_bytes();
    bytes.extend(body);
    bytes
}

/// The body of a file that is whole.
fn unframed(path: &Path) -> Result<Vec<u8>, InvalidState> {
    let mut bytes = fs::read(path).map_err(|source| InvalidState::Unreadable { path: path.to_owned(), source })?;
    let start = body_of(&bytes).ok_or_else(|| InvalidState::Damaged { path: path.to_owned() })?;
    Ok(bytes.split_off(start))
}

/// Where the body begins; `None`: the file is not whole.
fn body_of(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, body) = (str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
    let (checksum, length) = head.split_once(' ')?;
    let whole =
        u32::from_str_radix(checksum, 16).ok()? == crc32fast::hash(body) && length.parse::<usize>().ok()? == body.len();
    whole.then_some(end + 1)
}

fn parsed<T: serde::de::DeserializeOwned>(path: &Path, body: &[u8]) -> Result<T, InvalidState> {
    serde_json::from_slice(body).map_err(|_| InvalidState::Damaged { path: path.to_owned() })
}

#[cfg(test)]
mod tests;
