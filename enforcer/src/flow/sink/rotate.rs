//! Puts a full flow log aside: `flows.json` becomes `flows.json.1`, `flows.json.1` becomes `flows.json.2`, and so on.
//!
//! Input: the path of the log. Output: nothing is at the path any more, and at most so many older files are beside it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// When a file is put aside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// From this size on.
    pub bytes: u64,
    /// Older files that are kept.
    pub kept: u32,
}

/// Renames the file at `path` and the older ones, the oldest first, so that a crash in between leaves a gap in the numbers
/// and loses no file. The one that is too many is replaced by the next.
pub(super) fn put_aside(path: &Path, kept: u32) -> io::Result<()> {
    // Behind a symbolic link lies the file; the link stays.
    let path = fs::canonicalize(path)?;
    for number in (1..kept).rev() {
        match fs::rename(numbered(&path, number), numbered(&path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(&path, numbered(&path, 1))
}

/// Removes the log and what was put aside of it, and then their directory, unless something else is in it.
pub fn remove(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_ours = |other: &OsStr| {
        let rest = other.as_encoded_bytes().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(b".").is_some_and(is_number))
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if is_ours(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    // The directory of somebody else is not empty, or a file system is mounted there.
    let _ = fs::remove_dir(directory);
    Ok(())
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Names and contents, sorted.
    fn found(directory: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let read = |entry: fs::DirEntry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path()).unwrap())
        };
        let mut found: Vec<_> = entries.map(read).collect();
        found.sort();
        found
    }

    #[test]
    fn so_many_older_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.json");
        for number in 1..=4 {
            fs::write(&path, number.to_string()).unwrap();
            put_aside(&path, 2).unwrap();
        }
        let expected = [("flows.json.1", "4"), ("flows.json.2", "3")].map(|(name, text)| (name.into(), text.into()));
        assert_eq!(found(directory.path()), expected);
    }

    #[test]
    fn a_gap_in_the_numbers_is_left_by_a_crash_and_closed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.json");
        for (name, text) in [("flows.json", "new"), ("flows.json.2", "old"), ("flows.json.3", "oldest")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        put_aside(&path, 3).unwrap();
        let expected =
            [("flows.json.1", "new"), ("flows.json.3", "old")].map(|(name, text)| (name.into(), text.into()));
        assert_eq!(found(directory.path()), expected);
    }

    #[test]
    fn the_log_is_removed_with_its_older_files_and_what_belongs_to_others_stays() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("enforcer");
        let path = directory.join("flows.json");
        remove(&path).unwrap();
        fs::create_dir(&directory).unwrap();
        let others = ["flows.json.", "flows.json.1.gz", "flows.jsonl", "old.flows.json"];
        for name in ["flows.json", "flows.json.1", "flows.json.12"].iter().chain(&others) {
            fs::write(directory.join(name), "").unwrap();
        }
        remove(&path).unwrap();
        let left: Vec<String> = found(&directory).into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, others);
        for name in others {
            fs::remove_file(directory.join(name)).unwrap();
        }
        fs::write(&path, "").unwrap();
        remove(&path).unwrap();
        assert!(!directory.exists(), "nobody else uses the directory");
    }

    #[test]
    fn the_file_behind_a_link_is_put_aside_and_the_link_stays() {
        let directory = tempfile::tempdir().unwrap();
        let [links, files] = ["links", "files"].map(|name| directory.path().join(name));
        fs::create_dir(&links).unwrap();
        fs::create_dir(&files).unwrap();
        fs::write(files.join("f"), "text").unwrap();
        symlink(files.join("f"), links.join("flows.json")).unwrap();
        put_aside(&links.join("flows.json"), 3).unwrap();
        assert_eq!(found(&files), [("f.1".to_owned(), "text".to_owned())]);
        assert_eq!(fs::read_link(links.join("flows.json")).unwrap(), files.join("f"));
    }
}
