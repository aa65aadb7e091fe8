//! `cargo xtask generate`. Input: the types of `enforcer`. Output: `deploy/base/crds`, the definitions of our kinds, which a
//! test compares with the types.

use anyhow::Result;

use crate::{run::Run, workspace::Workspace};

/// What to do with what is generated.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Write nothing, and fail if the files are not what the types say.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Lets the test that checks the files write them.
pub(crate) fn run(workspace: &Workspace, options: Options) -> Result<()> {
    let mut test = Run::new("cargo")
        .args(["test", "--locked", "--package", "enforcer", "--lib", "kubernetes::crd"])
        .directory(workspace.root());
    if !options.check {
        test = test.env("ENFORCER_WRITE_CRDS", "1");
    }
    test.status()
}
