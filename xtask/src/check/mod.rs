//! `cargo xtask check`. Input: the sources. Output: every complaint of rustfmt, clippy for both targets, rustdoc and the
//! laws of the layout; all are run, so that one look shows everything.

mod citations;
mod laws;
mod layers;
mod pages;

use std::{fmt, path::PathBuf};

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    run::Run,
    setup::{self, tools::Need},
    source::{Source, sources},
    workspace::Workspace,
};

/// A place that breaks a law.
#[derive(Debug)]
pub(crate) struct Violation {
    path: PathBuf,
    line: usize,
    message: String,
}

impl Source {
    fn violation(&self, line: usize, message: String) -> Violation {
        Violation { path: self.path.clone(), line, message }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// Runs every check; fails if any did.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::ensure_needs(workspace, &[Need::Build, Need::Check])?;
    let cargo = || Run::new("cargo").directory(workspace.root());
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-Dwarnings"];
    let doc = ["doc", "--workspace", "--no-deps", "--locked"];
    let results = [
        ("laws", laws(workspace)),
        ("pages", pages::run(workspace.root())),
        ("rustfmt", cargo().args(["fmt", "--all", "--check"]).status()),
        ("clippy", cargo().args(clippy).status()),
        ("clippy for the bpf target", build_ebpf::lint(workspace)),
        ("rustdoc", cargo().env("RUSTDOCFLAGS", "-Dwarnings").args(doc).status()),
    ];
    let failed: Vec<&str> = results.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
    for (name, result) in &results {
        match result {
            Ok(()) => println!("check {name}: ok"),
            Err(error) => println!("check {name}: FAILED: {error:#}"),
        }
    }
    if !failed.is_empty() {
        bail!("these checks failed: {}", failed.join(", "));
    }
    Ok(())
}

fn laws(workspace: &Workspace) -> Result<()> {
    let sources = sources(workspace.root(), &["rs", "md", "yaml"])?;
    let laws = [layers::check, laws::length, laws::unsafety];
    let rust = sources.iter().filter(|source| source.is_rust());
    let mut violations: Vec<Violation> = rust.flat_map(|source| laws.iter().flat_map(|law| law(source))).collect();
    violations.extend(citations::check(&sources));
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} violations of the laws in {} files", violations.len(), sources.len());
    }
    Ok(())
}
