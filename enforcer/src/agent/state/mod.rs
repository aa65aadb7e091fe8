//! The sources of the image in force, kept beside it: after a restart records name what an earlier run decided, and a bad
//! policy or inventory file does not leave the node without its last good policies and names.
//!
//! Written whole to a file of its own before the revision is stored in the kernel, so that for every revision that can be
//! in force there is one. Input and output: [`InForce`].

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Unknown;
use crate::policy::load::SourceFile;
use crate::workload::model::Snapshot;

/// What an image was compiled from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct InForce {
    /// Its revision.
    pub revision: u32,
    /// The policy files: path relative to the policy directory, and text.
    pub policies: Vec<(String, String)>,
    /// Text of the inventory; empty: there was none.
    pub inventory: String,
    /// The workloads.
    pub snapshot: Snapshot,
    /// What became of those that nobody had named.
    #[serde(default)]
    pub unknown: Unknown,
}

impl InForce {
    /// The policy files as the loader takes them.
    pub fn sources(&self) -> Vec<SourceFile> {
        self.policies.iter().map(|(path, text)| SourceFile { path: path.as_str().into(), text: text.clone() }).collect()
    }
}

/// Files of one pin directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes the directory, for root only: policies and labels are nobody else's business.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// For reading only; the directory may be missing.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    fn file(&self, revision: u32) -> PathBuf {
        self.path.join(format!("revision-{revision}.json"))
    }

    /// Keeps the sources of a revision that is about to be in force.
    pub fn save(&self, state: &InForce) -> io::Result<()> {
        let body = serde_json::to_vec(state)?;
        let mut bytes = format!("{:08x} {}\n", crc32fast::hash(&body), body.len()).into_bytes();
        bytes.extend(body);
        self.replace(&self.file(state.revision), &bytes)
    }

    /// The sources of a revision; `None`: there are none, or they are not whole.
    pub fn load(&self, revision: u32) -> Option<InForce> {
        let bytes = fs::read(self.file(revision)).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (head, body) = (str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let (checksum, length) = head.split_once(' ')?;
        let whole = u32::from_str_radix(checksum, 16).ok()? == crc32fast::hash(body)
            && length.parse::<usize>().ok()? == body.len();
        let state: InForce = whole.then(|| serde_json::from_slice(body).ok())??;
        (state.revision == revision).then_some(state)
    }

    /// Removes the sources of all other revisions.
    pub fn keep_only(&self, revision: u32) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("revision-") && entry.path() != self.file(revision) {
                // What cannot be removed is of no harm: it names another revision.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Where the daemon says how it is, for `status`.
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revision: u32) -> InForce {
        let policies = vec![("shop.yaml".to_owned(), "kind: FlowPolicy\n".to_owned())];
        let (inventory, snapshot) = ("workloads: []\n".to_owned(), Snapshot::default());
        InForce { revision, policies, inventory, snapshot, unknown: Unknown::Open }
    }

    #[test]
    fn what_was_saved_comes_back_for_its_revision_only() {
        let directory = tempfile::tempdir().unwrap();
        let states = StateDir::create(directory.path().join("a")).unwrap();
        states.save(&state(7)).unwrap();
        states.save(&state(8)).unwrap();
        assert_eq!(states.load(7), Some(state(7)));
        assert_eq!(states.load(9), None);
        states.keep_only(8);
        assert_eq!((states.load(7), states.load(8)), (None, Some(state(8))));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let states = StateDir::create(directory.path().to_owned()).unwrap();
        states.save(&state(7)).unwrap();
        let whole = fs::read(states.file(7)).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(states.file(7), &bytes).unwrap();
            let loaded = states.load(7);
            assert!(loaded.is_none(), "byte {at} changed: {loaded:?}");
            fs::write(states.file(7), &whole[..at]).unwrap();
            assert_eq!(states.load(7), None, "cut at {at}");
        }
    }
}
