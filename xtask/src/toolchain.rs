//! The compiler and the linker of the bpf programs. Input: a machine's PATH and file system. Output: a `BpfCompiler`
//! that can build `core` for the bpf target, and its record in the target directory.
//!
//! `bpfel-unknown-none` comes with no built `core`, so a compiler counts only where its own library sources are there.

use std::{ffi::OsString, fmt, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    run::{Run, find_program},
    workspace::Workspace,
};

/// LLVM that bpf-linker is built with. It reads the bitcode of compilers up to this one, so a newer one's is of no use.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// bpf-linker 0.13: what `setup` installs.
pub(crate) const LINKER_MINOR: u32 = 13;

/// The oldest compiler that takes the bpf crate and its dependencies.
const MINIMUM_MINOR: u32 = 95;

/// A compiler with sources of its own `core`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BpfCompiler {
    /// rustup's nightly with its component rust-src.
    Nightly,
    /// Debian's packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

/// Where to look: the running machine, or a made-up one in a unit test.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) root: PathBuf,
    pub(crate) path: OsString,
    pub(crate) cargo_bin: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let home = std::env::home_dir().map(|home| home.join(".cargo"));
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
        Self {
            root: PathBuf::from("/"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            cargo_bin: cargo_home.map(|home| home.join("bin")),
        }
    }

    /// A program on PATH, or where cargo installs: root's PATH often lacks that.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let installed = self.cargo_bin.as_ref().map(OsString::from).unwrap_or_default();
        find_program(&self.path, name).or_else(|| find_program(&installed, name))
    }

    pub(crate) fn below_root(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A nightly with its sources is preferred, as most people who write bpf programs have it; else Debian's.
    pub(crate) fn find_compiler(&self) -> Option<BpfCompiler> {
        [BpfCompiler::Nightly, BpfCompiler::Debian].into_iter().find(|compiler| self.is_usable(*compiler))
    }

    /// A linker of the version that was tried. One that is there but cannot start, for want of its LLVM, counts as none.
    pub(crate) fn has_linker(&self) -> bool {
        let version = self.program("bpf-linker").and_then(|linker| output(&[linker.into()], &["--version"]));
        version.is_some_and(|text| number_after(&text, "bpf-linker 0.").is_some_and(|minor| minor == LINKER_MINOR))
    }

    /// Whether `cargo fmt` or `cargo clippy` starts, in the toolchain in use or in a named one of rustup: its proxies on
    /// PATH are there with or without the component.
    pub(crate) fn has_component(&self, toolchain: Option<&str>, subcommand: &str) -> bool {
        let words: Option<Vec<OsString>> = match toolchain {
            Some(name) => self.program("rustup").map(|rustup| {
                let rest = ["run", name, "cargo"].map(OsString::from);
                std::iter::once(rustup.into()).chain(rest).collect()
            }),
            None => self.program("cargo").map(|cargo| vec![cargo.into()]),
        };
        words.is_some_and(|words| output(&words, &[subcommand, "--version"]).is_some())
    }

    fn is_usable(&self, compiler: BpfCompiler) -> bool {
        let Some(rustc) = compiler.rustc(self) else {
            return false;
        };
        let (Some(version), Some(sysroot)) = (output(&rustc, &["-vV"]), output(&rustc, &["--print", "sysroot"])) else {
            return false;
        };
        let library = format!("{}/lib/rustlib/src/rust/library/core/Cargo.toml", sysroot.trim());
        let sources = if compiler == BpfCompiler::Debian { self.below_root(&library) } else { PathBuf::from(library) };
        let cargo = compiler == BpfCompiler::Nightly || self.below_root(DEBIAN_CARGO).exists();
        cargo
            && sources.exists()
            && number_after(&version, "release: 1.").is_some_and(|minor| minor >= MINIMUM_MINOR)
            && number_after(&version, "LLVM version: ").is_some_and(|major| major <= LLVM_MAJOR)
    }
}

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

impl BpfCompiler {
    fn rustc(self, machine: &Machine) -> Option<Vec<OsString>> {
        match self {
            Self::Nightly => {
                let rustup = machine.program("rustup")?;
                Some(
                    [rustup.as_os_str(), "run".as_ref(), "nightly".as_ref(), "rustc".as_ref()]
                        .map(OsString::from)
                        .into(),
                )
            }
            Self::Debian => {
                let rustc = machine.below_root(DEBIAN_RUSTC);
                rustc.exists().then(|| vec![rustc.into()])
            }
        }
    }

    /// `cargo SUBCOMMAND` by this compiler, for the bpf target. `lint` puts clippy in the compiler's place.
    pub(crate) fn cargo(self, machine: &Machine, lint: bool) -> Result<Run> {
        let linker = machine.program("bpf-linker").context("bpf-linker is not installed; run `cargo xtask setup`")?;
        let run = match self {
            Self::Nightly => Run::new(machine.program("rustup").context("rustup is not installed")?)
                .foreign_toolchain()
                .args(["run", "nightly", "cargo", if lint { "clippy" } else { "build" }]),
            Self::Debian => {
                let run =
                    Run::new(DEBIAN_CARGO).foreign_toolchain().env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                // By name: `cargo clippy` would find rustup's clippy, which is of another compiler.
                let run = if lint { run.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY) } else { run };
                run.arg(if lint { "check" } else { "build" })
            }
        };
        Ok(run.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Debian => "debian",
        }
    }
}

impl fmt::Display for BpfCompiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Debian => "Debian's rustc-web with rust-web-src",
        })
    }
}

/// Notes for `build-ebpf` what was found.
pub(crate) fn record(workspace: &Workspace, compiler: BpfCompiler) -> Result<()> {
    let file = workspace.toolchain_record();
    std::fs::create_dir_all(file.parent().context("the record has no directory")?)?;
    std::fs::write(&file, format!("{}\n", compiler.name())).with_context(|| format!("cannot write {}", file.display()))
}

/// The compiler on record if it still works, else the one that is found now.
pub(crate) fn recorded_or_found(workspace: &Workspace, machine: &Machine) -> Option<BpfCompiler> {
    let recorded = std::fs::read_to_string(workspace.toolchain_record()).ok().and_then(|text| {
        [BpfCompiler::Nightly, BpfCompiler::Debian].into_iter().find(|compiler| compiler.name() == text.trim())
    });
    recorded.filter(|compiler| machine.is_usable(*compiler)).or_else(|| machine.find_compiler())
}

/// What the program prints, `None` if it fails.
pub(crate) fn output(words: &[OsString], arguments: &[&str]) -> Option<String> {
    let (program, first) = words.split_first()?;
    let mut command = Command::new(program);
    // Inside `cargo run` this names the libraries of the toolchain that runs xtask.
    command.env_remove("LD_LIBRARY_PATH");
    // A probe installs nothing.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    let output = command.args(first).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The number after `prefix` at the start of a line.
fn number_after(text: &str, prefix: &str) -> Option<u32> {
    let rest = text.lines().find_map(|line| line.strip_prefix(prefix))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
