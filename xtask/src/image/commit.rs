//! The commit that an image is made from. Input: git. Output: its name and its date, so that a program that runs somewhere
//! can be found here again; nothing where there is no repository, as in an unpacked archive of the sources.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

/// A commit, and whether the files differ from it.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    name: String,
    date: String,
}

impl Commit {
    /// The commit of the work tree at `root`.
    pub(crate) fn of(root: &Path) -> Result<Option<Self>> {
        if !root.join(".git").exists() {
            return Ok(None);
        }
        let said =
            git(root, &["show", "--no-patch", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%H %cd", "HEAD"])?;
        let (hash, date) = said.trim().split_once(' ').context("git show printed no commit")?;
        let clean = git(root, &["status", "--porcelain"])?.trim().is_empty();
        let name = if clean { hash.to_owned() } else { format!("{hash}-dirty") };
        Ok(Some(Self { name, date: date.to_owned() }))
    }

    /// The whole hash, with `-dirty` behind it if files were changed since.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// When it was made, in UTC.
    pub(crate) fn date(&self) -> &str {
        &self.date
    }

    #[cfg(test)]
    pub(crate) fn made(name: &str, date: &str) -> Self {
        Self { name: name.into(), date: date.into() }
    }
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    // "Local" in the date's format is the time zone of this variable.
    command.env("TZ", "UTC").arg("-C").arg(root).args(arguments);
    let output = command.output().context("cannot run git, which tells the commit that the image is made from")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn repository() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "--quiet"]).unwrap();
        fs::write(root.path().join("a"), "1").unwrap();
        git(root.path(), &["add", "a"]).unwrap();
        let author = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false"];
        git(root.path(), &[&author[..], &["commit", "--quiet", "--message=a"]].concat()).unwrap();
        root
    }

    #[test]
    fn a_changed_file_is_told() {
        let root = repository();
        let clean = Commit::of(root.path()).unwrap().unwrap();
        assert_eq!(clean.name().len(), 40, "{clean:?}");
        assert!(clean.date().ends_with('Z') && clean.date().len() == 20, "{clean:?}");
        fs::write(root.path().join("a"), "2").unwrap();
        let dirty = Commit::of(root.path()).unwrap().unwrap();
        assert_eq!(dirty.name(), format!("{}-dirty", clean.name()));
        assert_eq!(dirty.date(), clean.date());
    }

    #[test]
    fn sources_without_a_repository_have_no_commit() {
        assert!(Commit::of(tempfile::tempdir().unwrap().path()).unwrap().is_none());
    }
}
