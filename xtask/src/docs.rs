//! `cargo xtask docs`. Input: the help texts of `enforcer`. Output: `docs/cli.md`, which a test compares with them.

use anyhow::Result;

use crate::{run::Run, workspace::Workspace};

/// Lets the test that checks the page write it.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    Run::new("cargo")
        .args(["test", "--locked", "--package", "enforcer", "--lib", "cli::page"])
        .env("ENFORCER_WRITE_DOCS", "1")
        .directory(workspace.root())
        .status()
}
