//! `cargo xtask image`: Enforcer as an image for a container runtime.
//!
//! Input: this workspace. Output: `TARGET/image/enforcer.tar`, an archive of OCI with the program alone, which `podman load`,
//! `ctr images import` and `cargo xtask cluster load` take. The same commit gives the same bytes.

mod archive;
mod commit;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    build_ebpf,
    image::{archive::Archive, commit::Commit},
    run::Run,
    setup::{self, tools::Need},
    workspace::Workspace,
};

/// Where the program is in the image, and what the image runs.
const PROGRAM: &str = "/enforcer";

/// The profile of the optimised program: see the workspace's Cargo.toml.
const PROFILE: &str = "image";

/// Where the archive goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// File to write, in the place of TARGET/image/enforcer.tar.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compile without optimisation, in seconds where the tests have compiled the rest already. This image is for tests: its
    /// program is large and slow, contains paths of this machine, and does not tell its commit.
    #[arg(long)]
    unoptimised: bool,
}

/// The command.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::ensure_needs(workspace, &[Need::Build])?;
    build_ebpf::run(workspace)?;
    let commit = Commit::of(workspace.root())?;
    let program = if options.unoptimised { unoptimised(workspace)? } else { optimised(workspace, commit.as_ref())? };
    ensure!(!is_dynamic(&fs::read(&program)?), "{} needs libraries, which the image does not have", program.display());
    let directory = workspace.target().join("image");
    let output = options.output.clone().unwrap_or_else(|| directory.join("enforcer.tar"));
    let files = directory.join("rootfs");
    fill(&files, &program)?;
    let made = Archive::create(&directory.join("oci"), &files, &configuration(commit.as_ref()), &name())?;
    made.write(&output)?;
    println!("{} in {}", name(), output.display());
    println!("program {}, archive {}, manifest {}", megabytes(&program)?, megabytes(&output)?, made.digest());
    Ok(())
}

/// Name of the image. No registry has a name that begins so, and none is asked for it.
fn name() -> String {
    format!("localhost/enforcer:{}", env!("CARGO_PKG_VERSION"))
}

/// Flag of the compiler: no library at run time.
///
/// The program is linked with glibc's own archive, which belongs to the C compiler that every build needs anyway. musl would need a
/// standard library for a second target, which only rustup brings, and a C compiler of its own for the crates with C code. It
/// would also ship another allocator and another C library than those that the tests run with.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// Compiles the program for an image in which nothing else is.
fn optimised(workspace: &Workspace, commit: Option<&Commit>) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut run = Run::new("cargo")
        .env("RUSTFLAGS", flags(workspace).join(" "))
        .args(["build", "--locked", "--package", "enforcer", "--bin", "enforcer"])
        // With a target the flags are for the program alone: a procedural macro cannot be static.
        .args(["--profile", PROFILE, "--target", &target])
        .directory(workspace.root());
    if let Some(commit) = commit {
        run = run.env("ENFORCER_COMMIT", commit.name());
    }
    run.status()?;
    Ok(workspace.target().join(&target).join(PROFILE).join("enforcer"))
}

/// Links the program of an ordinary build with no library at run time. Only the last of its crates is compiled with the flag,
/// so all others are those of `cargo build`.
fn unoptimised(workspace: &Workspace) -> Result<PathBuf> {
    Run::new("cargo")
        .args(["rustc", "--locked", "--package", "enforcer", "--bin", "enforcer"])
        // What is in the archive is compressed and unpacked by every node.
        .args(["--", STATIC, "-Cstrip=symbols"])
        .directory(workspace.root())
        .status()?;
    Ok(workspace.target().join("debug/enforcer"))
}

/// Flags of the compiler: no library at run time, and no path of this machine in the program.
fn flags(workspace: &Workspace) -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").or_else(|| Some(std::env::home_dir()?.join(".cargo").into_os_string()));
    let places = [
        (Some(workspace.root().as_os_str().to_owned()), "/enforcer"),
        (Some(workspace.target().as_os_str().to_owned()), "/target"),
        (home, "/cargo"),
    ];
    let remap = |(place, name): (Option<OsString>, &str)| {
        place.map(|place| format!("--remap-path-prefix={}={name}", place.to_string_lossy()))
    };
    std::iter::once(STATIC.to_owned()).chain(places.into_iter().filter_map(remap)).collect()
}

/// Whether a program for 64 bits in little-endian ELF asks for a loader, by its program headers.
fn is_dynamic(program: &[u8]) -> bool {
    const INTERPRETER: usize = 3;
    let word = |at: usize, length: usize| {
        let bytes = program.get(at..at + length).unwrap_or_default();
        bytes.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (start, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    (0..count).any(|number| word(start + number * size, 4) == INTERPRETER)
}

/// The image's files: the program, and nothing that could run another.
fn fill(files: &Path, program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if files.exists() {
        fs::remove_dir_all(files).with_context(|| format!("cannot remove {}", files.display()))?;
    }
    fs::create_dir_all(files).with_context(|| format!("cannot make {}", files.display()))?;
    let place = files.join(PROGRAM.trim_start_matches('/'));
    fs::copy(program, &place).with_context(|| format!("cannot copy {}", program.display()))?;
    // Whatever this user's umask says.
    fs::set_permissions(files, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).context("cannot set the program's mode")
}

fn configuration(commit: Option<&Commit>) -> Value {
    let mut labels = json!({
        "org.opencontainers.image.title": "enforcer",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    });
    let mut configuration = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [PROGRAM], "User": "0:0", "WorkingDir": "/"},
    });
    if let Some(commit) = commit {
        labels["org.opencontainers.image.revision"] = commit.name().into();
        configuration["created"] = commit.date().into();
    }
    configuration["config"]["Labels"] = labels;
    configuration
}

/// This machine's architecture, by the name that OCI gives it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn megabytes(file: &Path) -> Result<String> {
    let bytes = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    Ok(format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_asks_for_a_loader_is_told_from_one_that_does_not() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_dynamic(&own), "the test itself is linked as usual");
        let mut header = [0_u8; 64];
        // Program headers behind the header, 56 bytes each, and only one.
        (header[32], header[54], header[56]) = (64, 56, 1);
        let of_kind = |kind: u8| [&header[..], &[kind], &[0; 55]].concat();
        assert!(!is_dynamic(&of_kind(1)), "a segment that is loaded");
        assert!(is_dynamic(&of_kind(3)), "the name of a loader");
    }

    #[test]
    fn no_path_of_this_machine_is_in_the_program() {
        let flags = flags(&Workspace::at("/home/a/enforcer", "/home/a/enforcer/target"));
        assert_eq!(flags[0], STATIC);
        assert!(flags.contains(&"--remap-path-prefix=/home/a/enforcer=/enforcer".to_owned()), "{flags:?}");
        assert!(flags.contains(&"--remap-path-prefix=/home/a/enforcer/target=/target".to_owned()), "{flags:?}");
    }

    #[test]
    fn the_image_tells_its_commit_where_there_is_one() {
        let commit = Commit::made("0123", "2026-01-02T03:04:05Z");
        let with = configuration(Some(&commit));
        assert_eq!(with["config"]["Labels"]["org.opencontainers.image.revision"], "0123");
        assert_eq!(with["created"], "2026-01-02T03:04:05Z");
        let without = configuration(None);
        assert_eq!(without["created"], Value::Null);
        assert_eq!(without["config"]["Labels"]["org.opencontainers.image.revision"], Value::Null);
        assert_eq!(without["config"]["Entrypoint"], json!(["/enforcer"]));
    }
}
