//! Runs a command in sight of the user. Input: program, arguments, environment. Output: the line that would do the same
//! in a shell, then the command's own output; an error names the command.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What `cargo run` sets for this process and what would lead a cargo of another toolchain astray.
const TOOLCHAIN_VARIABLES: &[&str] = &[
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// What `cargo run` tells this process about the package xtask; build scripts of a nested cargo would take it for theirs.
const PACKAGE_VARIABLES: &[&str] = &[
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
];

/// A command that is printed before it runs.
#[derive(Debug)]
pub(crate) struct Run {
    command: Command,
    shown: Vec<(String, String)>,
}

impl Run {
    /// A program in the environment of the user's shell, without what `cargo run` added about xtask itself.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        let package = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for name in package.filter(|name| PACKAGE_VARIABLES.contains(&name.as_str()) || name.starts_with("CARGO_PKG_"))
        {
            command.env_remove(name);
        }
        Self { command, shown: Vec::new() }
    }

    /// A cargo of another toolchain than the one that runs xtask.
    pub(crate) fn foreign_toolchain(mut self) -> Self {
        for name in TOOLCHAIN_VARIABLES {
            self.command.env_remove(name);
        }
        // `cargo run` puts its own toolchain's libraries first, where another rustc must not find them.
        self.command.env_remove("LD_LIBRARY_PATH");
        self
    }

    /// A cargo that must not build into this workspace's target directory.
    pub(crate) fn own_target(mut self) -> Self {
        self.command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
        self
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self.command.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// The line to type for the same effect.
    pub(crate) fn line(&self) -> String {
        let variables = self.shown.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        variables.chain(words.map(|word| quoted(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
    }

    /// Prints the line and becomes the program: an interrupt then reaches it alone, and it can clean up at leisure.
    pub(crate) fn become_it(mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let line = self.line();
        println!("$ {line}");
        Err(self.command.exec()).with_context(|| format!("cannot run: {line}"))
    }

    /// Prints the line, and starts it without input. What it says goes into the file.
    pub(crate) fn start(mut self, log: &Path) -> Result<Child> {
        let line = self.line();
        println!("$ {line} >{} 2>&1 &", log.display());
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        self.command.stdin(Stdio::null()).stdout(file.try_clone().context("cannot share the log")?).stderr(file);
        self.command.spawn().with_context(|| format!("cannot start: {line}"))
    }

    /// Prints the line, runs it, and fails when it fails.
    pub(crate) fn status(mut self) -> Result<()> {
        let line = self.line();
        println!("$ {line}");
        let status = self.command.status().with_context(|| format!("cannot run: {line}"))?;
        if !status.success() {
            bail!("{status}: {line}");
        }
        Ok(())
    }
}

/// The first executable of that name in the directories of `path`.
pub(crate) fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
