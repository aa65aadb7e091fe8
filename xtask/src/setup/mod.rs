//! `cargo xtask setup`. Input: this machine. Output: a machine that builds and tests everything, each command printed
//! before it runs; `TARGET/bpf/toolchain.txt` names the bpf compiler. Where nothing is missing, nothing is done.

mod plan;
pub(crate) mod tools;

use anyhow::{Result, bail, ensure};

use crate::{
    kernel,
    setup::{
        plan::{Step, plan},
        tools::Need,
    },
    toolchain::{self, Machine},
    workspace::Workspace,
};

const EVERYTHING: &[Need] = &[Need::Build, Need::Check, Need::Load, Need::Test, Need::Cluster];

/// The command: everything, and a word on the kernel.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    if !supply(workspace, EVERYTHING)? {
        println!("nothing to do: compiler, linker, tools and bpf file system are there");
    }
    println!("{}", kernel::Kernel::running()?);
    Ok(())
}

/// For the other commands: quiet where nothing is missing.
pub(crate) fn ensure_needs(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    supply(workspace, needs).map(|_| ())
}

/// True if something was missing and now is there.
fn supply(workspace: &Workspace, needs: &[Need]) -> Result<bool> {
    let machine = Machine::this();
    let steps = plan(&machine, needs);
    let changed = !steps.is_empty();
    if changed {
        carry_out(steps)?;
        let left = plan(&machine, needs);
        ensure!(left.is_empty(), "these are still missing after set-up:\n  {}", reasons(&left));
    }
    if let Some(compiler) = machine.find_compiler() {
        toolchain::record(workspace, compiler)?;
    }
    Ok(changed)
}

fn carry_out(steps: Vec<Step>) -> Result<()> {
    if !kernel::is_root() && steps.iter().any(|step| step.as_root) {
        // None of the steps is taken: later ones need what the earlier ones install.
        let lines = steps.iter().map(|step| {
            let sudo = if step.as_root { "sudo " } else { "" };
            format!("{sudo}{}", step.run.line())
        });
        let lines: Vec<String> = lines.collect();
        bail!(
            "this machine lacks:\n  {}\nrun `cargo xtask setup` as root, or run these commands:\n  {}",
            reasons(&steps),
            lines.join("\n  ")
        );
    }
    for step in steps {
        println!("setup: {}", step.reason);
        step.run.status()?;
    }
    Ok(())
}

fn reasons(steps: &[Step]) -> String {
    steps.iter().map(|step| step.reason.as_str()).collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests;
