//! `cargo xtask render`. Input: the kustomization `deploy/base`, of which the definitions of our kinds are generated first.
//! Output: `deploy/install.yaml`, the same as one file for those who have no kustomization; a test of tier 3 compares them.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::{self, member},
    generate,
    workspace::Workspace,
};

const BASE: &str = "deploy/base";
const RENDERED: &str = "deploy/install.yaml";
const HEAD: &str = "# Rendered from deploy/base by `cargo xtask render`, which a test compares: change the base.\n";

/// What to do with what is rendered.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Write nothing, and fail if the file is not what the base says.
    #[arg(long)]
    check: bool,
}

/// The command. It renders by the kubectl of the test cluster, so that everybody gets the same text.
pub(crate) fn run(workspace: &Workspace, options: Options) -> Result<()> {
    generate::run(workspace, generate::Options { check: options.check })?;
    let mut kubectl = Command::new(cluster::kubectl_program(workspace)?);
    kubectl.arg("kustomize").arg(workspace.root().join(BASE));
    let text = format!("{HEAD}{}", member::output(kubectl)?);
    let file = workspace.root().join(RENDERED);
    if options.check {
        let shown = fs::read_to_string(&file).unwrap_or_default();
        ensure!(shown == text, "{RENDERED} is not what {BASE} says; run `cargo xtask render` and commit the file");
        return Ok(());
    }
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}
