//! What takes minutes to make and is kept for later runs. Input: a directory's path, and how to make what is in it. Output: the
//! directory, which is there as a whole or not at all.

use std::{
    fs::{self, File},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result};

/// What the directory of a build is called until it is whole. The process that builds is in its name: the compiler that a
/// killed one has left behind writes elsewhere than the next.
const PARTIAL: &str = "partial-";

/// Makes the directory in another one beside it, unless it is there.
pub(crate) fn ensure(directory: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let all = directory.parent().context("a cache without a directory around it")?;
    fs::create_dir_all(all).with_context(|| format!("cannot make {}", all.display()))?;
    let lock = File::create(all.join("lock")).context("cannot make the lock of the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if !directory.exists() {
        let begun = Instant::now();
        clear(all)?;
        let partial = all.join(format!("{PARTIAL}{}", std::process::id()));
        make(&partial)?;
        fs::rename(&partial, directory).with_context(|| format!("cannot make {}", directory.display()))?;
        println!("built {} in {} s", directory.display(), begun.elapsed().as_secs());
    }
    Ok(())
}

/// FNV-1a over what decides what is built.
pub(crate) fn hash(recipe: &[&str]) -> u64 {
    let bytes = recipe.iter().flat_map(|text| text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Removes what builds have left that did not come to their end. The lock is the caller's, so none goes on.
fn clear(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all).with_context(|| format!("cannot read {}", all.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PARTIAL)) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_was_interrupted_is_removed_and_a_whole_one_is_kept() {
        let all = tempfile::tempdir().unwrap();
        for name in ["partial-7/bin", "1.35.4-0123/bin"] {
            fs::create_dir_all(all.path().join(name)).unwrap();
        }
        clear(all.path()).unwrap();
        assert!(all.path().join("1.35.4-0123/bin").exists() && !all.path().join("partial-7").exists());
    }
}
