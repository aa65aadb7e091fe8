//! A directory of policy files as a source. Its policies count as a whole or not at all.
//!
//! Input: a directory. Output: the policies of every policy file in it, sorted by path, or all errors. Nothing here can
//! block: pipes and devices are never opened for reading, and the size of a file is bounded. The daemon reads no file that is
//! open for writing.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::shape::{Config, Opened, Refusal, Said, Source, Stale, Unit, Word};
use crate::policy::PolicyError;
use crate::policy::encoding::Encoding;
use crate::policy::error::Problem;
use crate::policy::finding::PolicyFinding;
use crate::policy::load::{LastReading, Loaded, PolicyErrors, SourceFile, assemble, from_sources};
use crate::watch::read::{FileVersion, Unread, Writers, read};
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
    texts: Texts,
    known: LastReading,
}

/// The texts of the last reading, by path, with the versions of their files where these can be known.
type Texts = HashMap<Arc<str>, (FileVersion, Arc<str>)>;

/// Watches the directory before it is read for the first time, so that no change is missed.
pub(super) fn open(config: &Config) -> Opened {
    let Some(path) = config.directory.clone() else { return Ok(None) };
    let changes = watch(vec![path.clone()])?;
    Ok(Some(Box::new(Directory { path, changes, texts: Texts::new(), known: LastReading::default() })))
}

/// The policies of the files that an earlier run kept.
pub(super) fn restore(files: Vec<SourceFile>) -> Said {
    Said::from([(Unit::Whole, from_sources(files).map_err(Refusal::from))])
}

impl Source for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        self.changes.changed().boxed()
    }

    fn last_change(&self) -> Option<Instant> {
        Some(self.changes.last_event())
    }

    fn read(&mut self) -> Word {
        let tree = Tree { texts: std::mem::take(&mut self.texts), ..Tree::new(Writers::Awaited) };
        let Tree { files, errors, settled, .. } = tree.read(&self.path);
        self.texts = settled;
        let whole = whole(&self.path, files, errors, &mut self.known);
        Word::All(Said::from([(Unit::Whole, whole.map_err(Refusal::from))]))
    }

    /// A directory that cannot be read is refused as a whole.
    fn stale(&self) -> Option<Stale> {
        None
    }
}

/// Reads every policy below `directory`, also of files that are open for writing.
pub fn load(directory: &Path) -> Result<Loaded, PolicyErrors> {
    let Tree { files, errors, .. } = Tree::new(Writers::Ignored).read(directory);
    whole(directory, files, errors, &mut LastReading::default())
}

/// The policies of a directory.
fn whole(
    directory: &Path,
    files: Vec<SourceFile>,
    errors: Vec<PolicyError>,
    known: &mut LastReading,
) -> Result<Loaded, PolicyErrors> {
    let mut loaded = assemble(files, errors, known)?;
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
            let Tree { files, errors, .. } = Tree::new(Writers::Ignored).read(path);
            let full = |inner: &str| path.join(inner).to_string_lossy().into();
            all.files.extend(files.into_iter().map(|file| SourceFile { path: full(&file.path), ..file }));
            all.errors.extend(errors.into_iter().map(|error| PolicyFinding { file: full(&error.file), ..error }));
        } else {
            all.file(path, &path.to_string_lossy());
        }
        of_each.push(all.files[before..].iter().map(|file| Arc::clone(&file.path)).collect());
    }
    let mut loaded = assemble(all.files, all.errors, &mut LastReading::default())?;
    for (path, files) in paths.iter().zip(&of_each) {
        loaded.warn_if_empty(&path.to_string_lossy(), files);
    }
    Ok(loaded)
}

/// What a directory tree holds.
#[derive(Debug)]
struct Tree {
    writers: Writers,
    /// What an earlier reading has found.
    texts: Texts,
    files: Vec<SourceFile>,
    errors: Vec<PolicyError>,
    /// What the next reading may rely on.
    settled: Texts,
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
        Self { writers, texts: Texts::new(), files: Vec::new(), errors: Vec::new(), settled: Texts::new() }
    }

    /// Reads the tree below `directory`.
    fn read(mut self, directory: &Path) -> Self {
        let name = directory.to_string_lossy();
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => self.directory(directory, "", &[identity(&metadata)]),
            Ok(_) => self.refuse(&name, Problem::NotADirectory),
            Err(cause) => self.refuse(&name, Problem::Unreadable { cause }),
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.errors.sort_by(|a, b| a.file.cmp(&b.file));
        self
    }

    /// Takes a file that has not changed since it was read, or reads it.
    fn file_of(&mut self, file: &Path, path: &str, metadata: &Metadata) {
        let known = self.texts.get_key_value(path).filter(|(_, (version, _))| *version == FileVersion::of(metadata));
        let Some((path, (version, text))) = known else { return self.file(file, path) };
        self.settled.insert(Arc::clone(path), (*version, Arc::clone(text)));
        self.files.push(SourceFile { path: Arc::clone(path), text: Arc::clone(text) });
    }

    /// Reads one file under the name `path`, whatever its ending.
    fn file(&mut self, file: &Path, path: &str) {
        let (text, version) = match read_file(file, self.writers) {
            Ok(read) => read,
            Err(problem) => return self.refuse(path, problem),
        };
        let path = Arc::<str>::from(path);
        // The same text again is the same text to all who hold it.
        let same = self.texts.get(&path).filter(|(_, before)| **before == *text);
        let text = same.map_or_else(|| Arc::from(text), |(_, before)| Arc::clone(before));
        if let Some(version) = version {
            self.settled.insert(Arc::clone(&path), (version, Arc::clone(&text)));
        }
        self.files.push(SourceFile { path, text });
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
                self.file_of(path, &relative, &metadata);
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

fn read_file(path: &Path, writers: Writers) -> Result<(String, Option<FileVersion>), Problem> {
    let whole = read(path, FILE_BYTES, writers).map_err(|unread| match unread {
        Unread::Failed(cause) => Problem::Unreadable { cause },
        Unread::NotRegular => Problem::NotRegular,
        Unread::TooLarge { size: _ } => Problem::FileTooLarge { limit: FILE_BYTES },
        Unread::BeingWritten => Problem::BeingWritten,
    })?;
    let text = String::from_utf8(whole.bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        Problem::NotUtf8 { encoding: Encoding::of(error.as_bytes(), valid) }
    })?;
    Ok((text, whole.version))
}

#[cfg(test)]
mod tests;
