//! `cargo xtask COMMAND`: what a developer and CI run.
//!
//! Input: the command line. Output: each command that is run, printed before it runs, and the command's own output. Here
//! is the dispatch alone; one file a command holds the rest.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a build tool talks to the person who started it")]

mod bench;
mod build_ebpf;
mod check;
mod cluster;
mod demo;
mod docs;
mod generate;
mod image;
mod kernel;
mod mutants;
mod render;
mod run;
mod setup;
mod source;
mod test;
mod toolchain;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Set up, build, check and test this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the bpf programs into TARGET/bpf/object/enforcer.o, which the next build of `enforcer` embeds.
    BuildEbpf {
        /// Has no effect: the programs are always optimised, because others do not pass the verifier.
        #[arg(long)]
        release: bool,
    },
    /// Install what this machine lacks to build and test everything.
    Setup,
    /// Run rustfmt, clippy for both targets, rustdoc and the laws of the layout; any warning is an error.
    Check,
    /// Install what the tests need, and run the tests of all tiers or of one.
    Test {
        /// Tier to run. 0 needs no privilege, 1 tests the loaded programs, 2 tests real traffic and containers, and 3 tests
        /// on clusters of Kubernetes.
        #[arg(long, value_parser = test::parse_tier)]
        tier: Option<u8>,
    },
    /// Build everything and run the benchmark with these arguments.
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Start and remove clusters of real Kubernetes on this machine, for the tests of tier 3.
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Build Enforcer as an image for a container runtime: one file, which needs no registry.
    Image(image::Options),
    /// Change single lines of the code that decides, and list the changes that no fast test notices.
    Mutants(mutants::Options),
    /// Build everything and run `enforcer demo`.
    Demo,
    /// Write docs/cli.md anew from the help texts of `enforcer`.
    Docs,
    /// Write deploy/base/crds anew from the types of `enforcer`.
    Generate(generate::Options),
    /// Write what is rendered from deploy/base anew: deploy/install.yaml, and files of the chart.
    Render(render::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain without a backtrace: nearly every error here is a command that failed and already said why.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let workspace = Workspace::locate()?;
    match command {
        Command::BuildEbpf { release: _ } => build_ebpf::run(&workspace),
        Command::Bench { arguments } => bench::run(&workspace, &arguments),
        Command::Cluster { action } => cluster::run(&workspace, action),
        Command::Image(options) => image::run(&workspace, &options),
        Command::Mutants(options) => mutants::run(&workspace, &options),
        Command::Demo => demo::run(&workspace),
        Command::Docs => docs::run(&workspace),
        Command::Generate(options) => generate::run(&workspace, options),
        Command::Render(options) => render::run(&workspace, &options),
        Command::Test { tier } => test::run(&workspace, tier),
        Command::Check => check::run(&workspace),
        Command::Setup => setup::run(&workspace),
    }
}
