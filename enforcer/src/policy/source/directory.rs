//! A directory of policy files as a source. Its policies count as a whole or not at all.
//!
//! Input: a directory. Output: the policies of every policy file in it, sorted by path, or all errors. Nothing here can
//! block: pipes and devices are never opened for reading, and the size of a file is bounded. The daemon reads no file that is
//! open for writing.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::shape::{Config, Opened, Said, Source, Unit};
use crate::policy::PolicyError;
use crate::policy::encoding::Encoding;
use crate::policy::error::Problem;
use crate::policy::finding::PolicyFinding;
use crate::policy::load::{Loaded, PolicyErrors, SourceFile, assemble, from_sources};
use crate::watch::read::{Unread, Writers, read};
use crate::watch::{ChangeStream, watch};

/// Bytes of one file.
const FILE_BYTES: u64 = 8 << 20;
/// Directories below the first one.
const DEPTH: usize = 32;

/// A directory and the watch over it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    changes: ChangeStream,
}

/// Watches the directory before it is read for the first time, so that no change is missed.
pub(super) fn open(config: &Config) -> Opened {
    let path = config.directory.clone();
    let changes = watch(vec![path.clone()])?;
    Ok(Some(Box::new(Directory { path, changes })))
}

/// The policies of the files that an earlier run kept.
pub(super) fn restore(files: Vec<SourceFile>) -> Said {
    Said::from([(Unit::Whole, from_sources(files))])
}

impl Source for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        self.changes.changed().boxed()
    }

    fn last_change(&self) -> Instant {
        self.changes.last_event()
    }

    fn read(&mut self) -> Said {
        Said::from([(Unit::Whole, load_from(&self.path, Writers::Awaited))])
    }
}

/// Reads every policy below `directory`, also of files that are open for writing.
pub fn load(directory: &Path) -> Result<Loaded, PolicyErrors> {
    load_from(directory, Writers::Ignored)
}

fn load_from(directory: &Path, writers: Writers) -> Result<Loaded, PolicyErrors> {
    let Tree { files, errors, .. } = Tree::read(directory, writers);
    let mut loaded = assemble(files, errors)?;
    if loaded.set.policies.is_empty() {
        loaded.warn_if_empty(&directory.to_string_lossy(), &BTreeSet::new());
    }
    Ok(loaded)
}

/// Reads files and directories as one set. A file is read whatever its ending, and shown by the path given for it.
pub fn load_paths(paths: &[PathBuf]) -> Result<Loaded, PolicyErrors> {
    let mut all = Tree::new(Writers::Ignored);
    let mut of_each = Vec::with_capacity(paths.len());
    for path in paths {
        let before = all.files.len();
        if path.is_dir() {
            let Tree { files, errors, .. } = Tree::read(path, Writers::Ignored);
            let full = |inner: &str| path.join(inner).to_string_lossy().into();
            all.files.extend(files.into_iter().map(|file| SourceFile { path: full(&file.path), ..file }));
            all.errors.extend(errors.into_iter().map(|error| PolicyFinding { file: full(&error.file), ..error }));
        } else {
            all.file(path, &path.to_string_lossy());
        }
        of_each.push(all.files[before..].iter().map(|file| Arc::clone(&file.path)).collect());
    }
    let mut loaded = assemble(all.files, all.errors)?;
    for (path, files) in paths.iter().zip(&of_each) {
        loaded.warn_if_empty(&path.to_string_lossy(), files);
    }
    Ok(loaded)
}

/// What a directory tree holds.
#[derive(Debug)]
struct Tree {
    writers: Writers,
    files: Vec<SourceFile>,
    errors: Vec<PolicyError>,
}

/// Whether a file of this name is read as a policy; upper case counts as lower case.
fn is_policy_file(name: &str) -> bool {
    let Some((stem, ending)) = name.rsplit_once('.') else { return false };
    let is_one_of = |ending: &str, all: &[&str]| all.iter().any(|one| one.eq_ignore_ascii_case(ending));
    let beside = stem.rsplit_once('.').map(|(_, beside)| beside);
    !stem.is_empty()
        && is_one_of(ending, &["yaml", "yml", "json"])
        && !beside.is_some_and(|beside| is_one_of(beside, &["cases", "inventory"]))
}

impl Tree {
    fn new(writers: Writers) -> Self {
        Self { writers, files: Vec::new(), errors: Vec::new() }
    }

    /// Reads the tree below `directory`.
    fn read(directory: &Path, writers: Writers) -> Self {
        let mut tree = Self::new(writers);
        let name = directory.to_string_lossy();
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => tree.directory(directory, "", &[identity(&metadata)]),
            Ok(_) => tree.refuse(&name, Problem::NotADirectory),
            Err(cause) => tree.refuse(&name, Problem::Unreadable { cause }),
        }
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree.errors.sort_by(|a, b| a.file.cmp(&b.file));
        tree
    }

    /// Reads one file under the name `path`, whatever its ending.
    fn file(&mut self, file: &Path, path: &str) {
        match read_file(file, self.writers) {
            Ok(text) => self.files.push(SourceFile { path: path.into(), text }),
            Err(problem) => self.refuse(path, problem),
        }
    }

    /// `above`: the directories on the way here, to see a link that leads back to one of them.
    fn directory(&mut self, directory: &Path, prefix: &str, above: &[(u64, u64)]) {
        let shown = if prefix.is_empty() { "." } else { prefix.trim_end_matches('/') };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(cause) => return self.refuse(shown, Problem::Unreadable { cause }),
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.entry(&entry.path(), prefix, above),
                Err(cause) => self.refuse(shown, Problem::Unreadable { cause }),
            }
        }
    }

    fn entry(&mut self, path: &Path, prefix: &str, above: &[(u64, u64)]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Kubernetes mounts a ConfigMap as links into `..data`: without this every file would be read twice.
        if name.starts_with('.') {
            return;
        }
        let relative = format!("{prefix}{name}");
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // A link to nowhere may have led to a whole directory of policies: without them, less would be isolated.
            Err(cause) => return self.refuse(&relative, Problem::Unreadable { cause }),
        };
        let is_plain = !name.contains(|c: char| c.is_control() || c == '\u{fffd}');
        if metadata.is_dir() {
            let identity = identity(&metadata);
            if !is_plain {
                self.refuse(&relative, Problem::FileName);
            } else if above.contains(&identity) || above.len() > DEPTH {
                self.refuse(&relative, Problem::LinkLoop);
            } else {
                self.directory(path, &format!("{relative}/"), &[above, &[identity]].concat());
            }
        } else if is_policy_file(&name) {
            if is_plain {
                self.file(path, &relative);
            } else {
                self.refuse(&relative, Problem::FileName);
            }
        }
    }

    fn refuse(&mut self, path: &str, what: Problem) {
        // A name with a newline must not look like two lines of a log.
        let file: String = path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.errors.push(PolicyFinding { file: file.into(), place: None, what });
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn read_file(path: &Path, writers: Writers) -> Result<String, Problem> {
    let bytes = read(path, FILE_BYTES, writers).map_err(|unread| match unread {
        Unread::Failed(cause) => Problem::Unreadable { cause },
        Unread::NotRegular => Problem::NotRegular,
        Unread::TooLarge { size: _ } => Problem::FileTooLarge { limit: FILE_BYTES },
        Unread::BeingWritten => Problem::BeingWritten,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        Problem::NotUtf8 { encoding: Encoding::of(error.as_bytes(), valid) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_files_are_told_by_their_ending() {
        for name in [
            "a.yaml",
            "a.yml",
            "a.json",
            "a.b.yaml",
            "cases.yaml",
            "inventory.yml",
            "mycases.yaml",
            "a.YAML",
            "A.Yml",
            "a.JSON",
        ] {
            assert!(is_policy_file(name), "{name}");
        }
        for name in [
            "a.cases.yaml",
            "a.inventory.yml",
            "a.Cases.YAML",
            "a.inventory.json",
            "a.yaml~",
            "a.jsonl",
            "yaml",
            ".yaml",
        ] {
            assert!(!is_policy_file(name), "{name}");
        }
    }
}
