//! Names for what a process makes on the machine and has to take away again.
//!
//! Output: `enf-PID-NUMBER`, which no other process and nothing else in this one has. The process id in the name tells
//! whose it was: what stands under the name of a process that is gone may be removed by anybody.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "enf-";

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A name that is used for one thing and never again: `enf-PID-NUMBER`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name(String);

impl Name {
    /// The next name of this process.
    pub fn unique() -> Self {
        Self(format!("{PREFIX}{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed)))
    }

    /// Name of a part: `enf-PID-NUMBER-PART`. A slash in the part becomes a dot, so that the result names one file.
    pub fn of(&self, part: &str) -> String {
        format!("{self}-{}", part.replace('/', "."))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Entries of a directory whose names belong to processes that are gone.
pub fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_orphaned)).map(|e| e.path()).collect()
}

fn is_orphaned(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_a_part_of_it_names_one_file() {
        let (first, second) = (Name::unique(), Name::unique());
        assert_ne!(first, second);
        assert_eq!(first.of("shop/web"), format!("{first}-shop.web"));
    }

    #[test]
    fn only_what_a_process_that_is_gone_has_named_is_left_over() {
        let directory = tempfile::tempdir().unwrap();
        // Above the highest process id of Linux (PID_MAX_LIMIT).
        let gone = "enf-4194305-0-node".to_owned();
        for name in [&gone, &Name::unique().of("node"), "enf-podman", "enforcer-4194305", "other"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(leftovers(directory.path()), [directory.path().join(gone)]);
        assert_eq!(leftovers(&directory.path().join("missing")), Vec::<PathBuf>::new());
    }
}
