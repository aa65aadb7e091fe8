//! The command line, with a file for each command. Data goes to stdout, and log lines go to stderr.

pub mod controller;
pub mod demo;
pub mod explain;
pub mod flows;
pub mod in_force;
mod log;
mod out;
#[cfg(test)]
mod page;
pub mod purge;
pub mod run;
pub mod status;
pub mod validate;
pub mod version;
pub mod wait;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Network microsegmentation for containers.
///
/// Policies declare which connections each container may open and accept. Two eBPF programs on the host side of the
/// container's veth decide each packet. Each denied flow is logged with the names of both containers and the line of the
/// policy that decided.
///
/// To see it at work, run `enforcer demo` as root. The demo starts three workloads in network namespaces of its own,
/// enforces the example policies on them, and prints which connections were allowed or denied by which line. It removes
/// everything that it made.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
    /// Log more to stderr: -v adds debug messages, -vv adds trace messages.
    ///
    /// The environment variable `ENFORCER_LOG` replaces the log level by a filter in the syntax of Rust's tracing-subscriber
    /// crate, such as `warn,enforcer=debug`.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// The commands. The help text of a command is the documentation of its arguments: a text at the variant would replace
/// it in `--help`.
#[allow(missing_docs, reason = "clap shows the documentation of the arguments")]
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Flows(flows::Args),
    Status(status::Args),
    Purge(purge::Args),
    Version(version::Args),
    Wait(wait::Args),
    Controller(controller::Args),
}

/// Exit code of wrong usage and unreadable files, where a command has no other.
const USAGE: u8 = 2;

/// Runs a command. `commit` is what the program was built from, if the build was told.
pub fn dispatch(cli: Cli, commit: Option<&str>) -> ExitCode {
    log::to_stderr(cli.verbose);
    let result = match cli.command {
        Command::Run(args) => return run::run(args),
        Command::Validate(args) => return validate::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Purge(args) => purge::run(&args),
        Command::Version(args) => Ok(version::run(&args, commit)),
        Command::Wait(args) => wait::run(&args),
        Command::Controller(args) => controller::run(args),
    };
    result.unwrap_or_else(|error| {
        out::complain(&error);
        ExitCode::from(USAGE)
    })
}
