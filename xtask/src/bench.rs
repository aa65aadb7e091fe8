//! `cargo xtask bench`. Input: arguments for the benchmark. Output: its own; it is a binary of the tests crate.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    build_ebpf,
    run::Run,
    setup::{self, tools::Need},
    workspace::Workspace,
};

/// Builds the programs and runs the benchmark.
pub(crate) fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::ensure_needs(workspace, &[Need::Build, Need::Load])?;
    build_ebpf::run(workspace)?;
    let cargo = ["run", "--release", "--locked", "--package", "enforcer-tests", "--bin", "bench", "--"];
    Run::new("cargo").args(cargo).args(arguments).directory(workspace.root()).status()
}
