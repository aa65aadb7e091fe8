//! Decides which directories to watch, and which of their events count.
//!
//! Input: paths, resolved through symbolic links. Output: directories by their canonical names. In a directory inside a watched
//! path every event counts. In a directory on the way there, only the names of links and of paths that may still appear count.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Symbolic links that one path is followed through, as in the kernel.
const LINKS: usize = 40;
/// Directories below each other.
const DEPTH: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Interest {
    /// Directories of which every entry counts.
    whole: BTreeSet<PathBuf>,
    /// Names that count in directories where others do not.
    names: BTreeSet<PathBuf>,
}

impl Interest {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut interest = Self::default();
        for path in paths {
            if let Ok(path) = std::path::absolute(path) {
                interest.way(&path, LINKS);
                interest.tree(&path, DEPTH);
            }
        }
        interest
    }

    /// The directories to watch.
    pub(super) fn watches(&self) -> impl Iterator<Item = &Path> {
        let parents: BTreeSet<_> = self.names.iter().filter_map(|name| name.parent()).collect();
        let mut all = parents;
        all.extend(self.whole.iter().map(PathBuf::as_path));
        all.into_iter()
    }

    /// Whether an event about `path` counts.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        self.names.contains(path)
            || self.whole.contains(path)
            || path.parent().is_some_and(|parent| self.whole.contains(parent))
    }

    /// Notes the names on the way to `path` by which it could come to mean something else.
    fn way(&mut self, path: &Path, links_left: usize) {
        for step in path.ancestors() {
            let (Some(parent), Some(name)) = (step.parent(), step.file_name()) else {
                continue;
            };
            let link = fs::read_link(step).ok();
            let is_missing = fs::symlink_metadata(step).is_err();
            // A directory that is really there changes its meaning by being renamed only: left to the re-scan, since
            // watching /etc or /tmp for it would cost more than it is worth.
            if step != path && link.is_none() && !is_missing {
                continue;
            }
            let Ok(parent) = fs::canonicalize(parent) else { continue };
            self.names.insert(parent.join(name));
            if let Some(target) = link
                && links_left > 0
            {
                self.way(&parent.join(target), links_left - 1);
            }
        }
    }

    /// Notes all of the directory `path`, if it is one, and where the links in it lead.
    fn tree(&mut self, path: &Path, depth_left: usize) {
        let Ok(path) = fs::canonicalize(path) else { return };
        let Ok(entries) = fs::read_dir(&path) else { return };
        // The same directory by another link needs no second visit; this ends loops of links too.
        if depth_left == 0 || !self.whole.insert(path) {
            return;
        }
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_symlink() {
                self.way(&entry.path(), LINKS);
            }
            // Hidden directories are not read; a link through one has been noted above.
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if (kind.is_symlink() || kind.is_dir()) && !is_hidden {
                self.tree(&entry.path(), depth_left - 1);
            }
        }
    }
}
