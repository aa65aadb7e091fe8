//! Programs of this workspace for tests. Input: a package whose program has the same name. Output: the path of the program as
//! the sources under test make it.

#![allow(clippy::unwrap_used, reason = "a test without the program under test has to stop")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// How the names of the variables begin in which cargo tells a test about the test's own package.
const OF_THE_PACKAGE: [&str; 5] = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];

/// The cargo that runs this test, in the workspace; `None` where no cargo runs it.
///
/// It gets the environment of the user's shell. The build script of `ring` runs again when the variables of a package change, and
/// everything that depends on it is compiled again then: rustls, kube and Enforcer.
pub fn cargo() -> Option<Command> {
    let mut command = Command::new(std::env::var_os("CARGO")?);
    for (name, _) in std::env::vars_os() {
        if OF_THE_PACKAGE.iter().any(|begin| name.to_string_lossy().starts_with(begin)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    Some(command)
}

/// The program of a package.
pub fn program(package: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let own = std::env::current_exe().unwrap();
    // The tests lie in `TARGET/PROFILE/deps`, and the benchmark beside it.
    let directory = own.ancestors().skip(1).find(|directory| !directory.ends_with("deps")).unwrap();
    let mut built = BUILT.lock().unwrap();
    // Under cargo: a program that is older than the code under test would prove nothing.
    if let Some(mut build) = cargo().filter(|_| !built.contains(package)) {
        build.args(["build", "--locked", "--quiet", "--bin", package]);
        // Without the others cargo would choose other features than for the tests, and compile most crates again.
        build.args(["--package", "enforcer", "--package", "enforcer-tests", "--package", "xtask"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the program {package} does not build");
        built.insert(package);
    }
    let program = directory.join(package);
    assert!(program.exists(), "{} is not there: `cargo build -p {package}` makes it", program.display());
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cargo_hears_nothing_of_the_package_of_this_test() {
        let Some(command) = cargo() else { return };
        let removed: BTreeSet<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR"] {
            assert!(std::env::var_os(name).is_some(), "cargo sets {name}");
            assert!(removed.contains(std::ffi::OsStr::new(name)), "{name}");
        }
    }
}
