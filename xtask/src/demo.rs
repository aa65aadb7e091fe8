//! `cargo xtask demo`. Input: a fresh checkout. Output: the demo's own, after everything it needs is built.

use anyhow::{Result, ensure};

use crate::{
    build_ebpf, kernel,
    kernel::Kernel,
    run::Run,
    setup::{self, tools::Need},
    workspace::Workspace,
};

/// Sets up, builds, and runs `enforcer demo`.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let running = Kernel::running()?;
    ensure!(running.can_enforce(), "{running}");
    ensure!(kernel::is_root(), "the demo loads programs and makes network namespaces: run `cargo xtask demo` as root");
    setup::ensure_needs(workspace, &[Need::Build, Need::Load])?;
    build_ebpf::run(workspace)?;
    Run::new("cargo")
        .args(["build", "--release", "--locked", "--package", "enforcer"])
        .directory(workspace.root())
        .status()?;
    Run::new(workspace.target().join("release/enforcer")).arg("demo").directory(workspace.root()).become_it()
}
