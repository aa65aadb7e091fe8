//! Finds out which network namespaces the paths of the sources stand for.
//!
//! Input: what the sources say, every second. Output: the kernel's id (nsid) of each namespace to which a veth of this node leads. A path can
//! come to stand for another namespace without any event, so each is looked at again. Asking the kernel for an id costs much
//! more than a look at the file, so it is asked again only if the file is another one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::netlink::Requests;
use super::source::SourceState;
use super::statement::{FoundBy, Statement};

/// How long an answer of the kernel is believed while the file stays the same: numbers of namespaces are used again.
const BELIEVED: Duration = Duration::from_secs(10);
/// A directory of so many wanted paths is listed instead of looked at path by path: an inventory of many nodes names mostly
/// namespaces of others.
const LISTED: usize = 64;

/// What paths have stood for.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The statements that were looked through last, by source, and the paths in them.
    of: Vec<Arc<Vec<Arc<Statement>>>>,
    wanted: ByDirectory,
    known: HashMap<PathBuf, Answer>,
}

/// Paths by the directory in which they are.
type ByDirectory = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

#[derive(Clone, Copy, Debug)]
struct Answer {
    file: File,
    nsid: i32,
    asked: Instant,
}

/// Device and inode.
type File = (u64, u64);

impl Paths {
    /// The nsid of each path that has one. `holding`: those of the last look that no event has put in doubt.
    pub(super) async fn look(
        &mut self,
        sources: &[SourceState],
        holding: &BTreeMap<PathBuf, i32>,
        requests: &Requests,
    ) -> BTreeMap<PathBuf, i32> {
        self.look_through(sources);
        let (mut found, mut known) = (BTreeMap::new(), HashMap::new());
        for path in there(&self.wanted) {
            let Some(file) = file_at(path) else { continue };
            let before = self.known.get(path).filter(|before| {
                before.file == file && before.asked.elapsed() < BELIEVED && holding.get(path) == Some(&before.nsid)
            });
            let answer = match before {
                Some(before) => Some(*before),
                None => ask(path, file, requests).await,
            };
            if let Some(answer) = answer {
                found.insert(path.to_owned(), answer.nsid);
                known.insert(path.to_owned(), answer);
            }
        }
        self.known = known;
        found
    }

    /// Collects the paths of the statements, unless they are the same as before.
    fn look_through(&mut self, sources: &[SourceState]) {
        let same = |(known, source): (&Arc<_>, &SourceState)| Arc::ptr_eq(known, &source.statements);
        if self.of.len() == sources.len() && self.of.iter().zip(sources).all(same) {
            return;
        }
        self.of = sources.iter().map(|source| Arc::clone(&source.statements)).collect();
        let statements = self.of.iter().flat_map(|statements| statements.iter());
        let paths = statements.flat_map(|statement| match &statement.found_by {
            FoundBy::Netns(candidates) => candidates.as_slice(),
            FoundBy::Interface(_) | FoundBy::Address | FoundBy::Pod { .. } | FoundBy::Elsewhere => &[],
        });
        self.wanted = by_directory(paths.cloned());
    }
}

async fn ask(path: &Path, file: File, requests: &Requests) -> Option<Answer> {
    let asked = Instant::now();
    match requests.nsid_of(path).await {
        Ok(nsid) => nsid.map(|nsid| Answer { file, nsid, asked }),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                error = &error as &dyn std::error::Error,
                "cannot find out which network namespace this path stands for; its workload stays unknown for now"
            );
            None
        }
    }
}

fn by_directory(paths: impl Iterator<Item = PathBuf>) -> ByDirectory {
    let mut wanted = ByDirectory::new();
    for path in paths {
        wanted.entry(path.parent().unwrap_or(&path).to_owned()).or_default().insert(path);
    }
    wanted
}

/// The paths without those that are certainly not there.
fn there(wanted: &ByDirectory) -> Vec<&Path> {
    let mut there = Vec::new();
    for (directory, paths) in wanted {
        let names = (paths.len() >= LISTED).then(|| names(directory));
        there.extend(paths.iter().map(PathBuf::as_path).filter(|path| match (&names, path.file_name()) {
            (Some(names), Some(name)) => names.contains(name),
            // `..` is in no list.
            (Some(_), None) | (None, _) => true,
        }));
    }
    there
}

fn names(directory: &Path) -> HashSet<OsString> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

fn file_at(path: &Path) -> Option<File> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_paths_in_one_directory_only_those_that_are_there_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("n7"), "").unwrap();
        let many: Vec<PathBuf> = (0..LISTED).map(|number| directory.path().join(format!("n{number}"))).collect();
        let paths = |count: usize| by_directory(many[..count].iter().cloned());
        assert_eq!(there(&paths(LISTED)), [directory.path().join("n7")]);
        assert_eq!(there(&paths(LISTED - 1)).len(), LISTED - 1, "few are looked at one by one");
        let missing = by_directory((0..LISTED).map(|number| format!("/none/n{number}").into()));
        assert_eq!(there(&missing), [] as [&Path; 0]);
    }
}
