//! The `enforcer` binary.

use std::process::ExitCode;

use clap::Parser;
use enforcer::cli::{Cli, dispatch};

fn main() -> ExitCode {
    // `cargo xtask image` sets it. Here and not in the library, so that a commit alone compiles little anew.
    dispatch(Cli::parse(), option_env!("ENFORCER_COMMIT"))
}
