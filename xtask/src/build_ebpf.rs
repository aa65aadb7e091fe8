//! `cargo xtask build-ebpf`. Input: the crate enforcer-ebpf and the compiler that `setup` found. Output: the object at
//! `Workspace::bpf_object`, replaced in one step, and only if it differs so that nothing is built again for nothing.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    run::Run,
    toolchain::{BpfCompiler, Machine, recorded_or_found},
    workspace::Workspace,
};

const PACKAGE: &str = "enforcer-ebpf";
const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";

/// Builds the object.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let machine = Machine::this();
    let Some(compiler) = recorded_or_found(workspace, &machine) else {
        bail!("no compiler on this machine can build for {TARGET}; run `cargo xtask setup`");
    };
    println!("bpf compiler: {compiler}");
    command(workspace, &machine, compiler, false)?.status()?;
    let built = workspace.bpf_target().join(TARGET).join(PROFILE).join(PACKAGE);
    let object = workspace.bpf_object();
    if replace(&built, &object)? {
        println!("wrote {}", object.display());
    } else {
        println!("unchanged {}", object.display());
    }
    Ok(())
}

/// The same compilation by clippy, where any warning is an error.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let machine = Machine::this();
    let compiler =
        recorded_or_found(workspace, &machine).context("no bpf compiler is installed; run `cargo xtask setup`")?;
    command(workspace, &machine, compiler, true)?.status()
}

fn command(workspace: &Workspace, machine: &Machine, compiler: BpfCompiler, lint: bool) -> Result<Run> {
    // The kernel's registers on the machine that will load the programs; named like Rust's architectures.
    let architecture = std::env::consts::ARCH;
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Without 32-bit arithmetic the verifier refuses plain index checks as unbounded.
        "-Ctarget-cpu=v3".to_owned(),
    ];
    if lint {
        flags.push("-Dwarnings".to_owned());
    }
    // A target directory of its own for lints: other flags would make the two builds evict each other.
    let target = if lint { workspace.bpf_target().join("lint") } else { workspace.bpf_target() };
    Ok(compiler
        .cargo(machine, lint)?
        .env("RUSTFLAGS", flags.join(" "))
        .args(["--locked", "--package", PACKAGE, "--target", TARGET, "--profile", PROFILE, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(target)
        .directory(workspace.root()))
}

/// Copies over a temporary name, so that whoever reads `to` sees the old object or the new one. False if they are equal.
fn replace(from: &Path, to: &Path) -> Result<bool> {
    let object = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == object) {
        return Ok(false);
    }
    // Outside the destination's directory, which holds the object alone; inside the same file system.
    let temporary = from.with_extension("new");
    fs::write(&temporary, object)?;
    fs::create_dir_all(to.parent().context("the object has no directory")?)?;
    fs::rename(&temporary, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}
