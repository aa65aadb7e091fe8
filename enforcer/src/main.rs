//! The `enforcer` binary.

use std::process::ExitCode;

use clap::Parser;
use enforcer::cli::{Cli, dispatch};

fn main() -> ExitCode {
    dispatch(Cli::parse())
}
