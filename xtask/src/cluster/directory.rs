//! Where the files of one cluster are. Input: its name. Output: paths below `/var/lib/enforcer-cluster/NAME`, and the lock
//! that keeps two commands from changing one cluster at a time.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

const LOCK: &str = "lock";
const LOGS: &str = "logs";

/// Directory of all clusters.
const ALL: &str = "/var/lib/enforcer-cluster";

/// The files of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    name: String,
    path: PathBuf,
}

impl Directory {
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new(ALL).join(name) }
    }

    /// Names of the clusters that have files.
    pub(crate) fn names() -> Vec<String> {
        let Ok(entries) = fs::read_dir(ALL) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn member(&self, name: &str) -> PathBuf {
        self.path.join("members").join(name)
    }

    /// Log of a part: `kubelet` of `node1` has `logs/node1-kubelet.log`.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.path.join(LOGS).join(format!("{}.log", part.replace('/', "-")))
    }

    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.path).with_context(|| format!("cannot make {}", self.path.display()))
    }

    /// Makes it as empty as that of a new cluster. The lock stays the caller's meanwhile.
    pub(crate) fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).with_context(|| format!("cannot read {}", self.path.display()))? {
            let path = entry?.path();
            let removed = match path.file_name() {
                Some(name) if name == LOCK => Ok(()),
                _ if path.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let logs = self.path.join(LOGS);
        fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))
    }

    /// The cluster is the caller's for as long as it keeps the file. The kernel gives the lock back if the caller dies.
    pub(crate) fn lock(&self) -> Result<File> {
        match self.try_lock()? {
            Some(lock) => Ok(lock),
            None => bail!("another command is changing the cluster {}; wait for its end, or end it", self.name),
        }
    }

    /// `None` if another command holds the lock.
    pub(crate) fn try_lock(&self) -> Result<Option<File>> {
        let path = self.path.join(LOCK);
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Removes all files, and the directory of all clusters if this was the last.
    pub(crate) fn remove(&self) -> Result<()> {
        while let Err(error) = fs::remove_dir_all(&self.path) {
            match error.kind() {
                io::ErrorKind::NotFound if !self.path.exists() => break,
                // Another command removes the same files, and was faster with one of them.
                io::ErrorKind::NotFound => {}
                _ => return Err(error).with_context(|| format!("cannot remove {}", self.path.display())),
            }
        }
        // Other clusters may be in it.
        let _ = fs::remove_dir(ALL);
        Ok(())
    }
}

/// Writes a file as a whole: a reader sees the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// A name that fits into paths and cgroups.
pub(crate) fn parse_name(text: &str) -> Result<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 40 || text.starts_with('-') || !text.chars().all(fits) {
        bail!("a name has up to 40 of the characters a-z, 0-9 and -, and does not begin with -");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_out_of_its_directory() {
        for name in ["", "..", "a/b", "a.b", "-a", "A", "a b", "a:b"] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
        assert_eq!(parse_name("smoke-4711").unwrap(), "smoke-4711");
    }

    #[test]
    fn a_cleared_directory_keeps_its_lock() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory { name: "a".into(), path: root.path().join("a") };
        directory.create().unwrap();
        let _lock = directory.lock().unwrap();
        fs::create_dir_all(directory.member("node1")).unwrap();
        fs::write(directory.file("cluster.json"), "{}").unwrap();
        directory.clear().unwrap();
        assert!(!directory.member("node1").exists() && !directory.file("cluster.json").exists());
        assert!(directory.log("node1/kubelet").parent().unwrap().exists());
        let refused = directory.lock().unwrap_err().to_string();
        assert!(refused.contains("another command is changing the cluster a"), "{refused}");
    }

    #[test]
    fn a_part_has_one_log() {
        let log = Directory::of("a").log("node1/kubelet");
        assert_eq!(log, Path::new("/var/lib/enforcer-cluster/a/logs/node1-kubelet.log"));
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
