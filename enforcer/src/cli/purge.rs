//! `enforcer purge`: takes enforcement off the node.

#![allow(clippy::print_stderr, reason = "what was removed is told to the person who asked")]

use std::process::ExitCode;

use super::in_force::Place;
use crate::kernel;

/// Remove enforcement from this node.
///
/// Detaches all programs and removes pins and state. Containers are open afterwards. Refused while a daemon runs.
///
/// Exit codes: 0 nothing is left, 1 something could not be removed, 2 wrong usage.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to remove.
    #[command(flatten)]
    pub place: Place,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let states = args.place.states()?;
    if let Err(errors) = kernel::purge(&args.place.pin_dir) {
        for error in errors {
            super::complain(&error.into());
        }
        return Ok(ExitCode::FAILURE);
    }
    states.remove()?;
    eprintln!("nothing of enforcer is left in {}", args.place.pin_dir.display());
    Ok(ExitCode::SUCCESS)
}
