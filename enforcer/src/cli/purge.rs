//! `enforcer purge`: removes enforcement from the node.
//!
//! Input: the daemon's pin directory and settings. Output: a message, and the exit code.

use std::process::ExitCode;

use super::in_force::Place;
use super::out;
use crate::kernel;

/// Remove enforcement from this node.
///
/// The command detaches all programs and removes the pins and the state directory. Afterwards no container is protected.
/// It fails while a daemon runs, so stop the daemon first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 Nothing of Enforcer is left in the pin directory.
            1 Something could not be removed, or a daemon still runs.
            2 The command line or the settings are wrong, or the state directory is still there.")]
pub struct Args {
    /// The daemon's pin directory and settings.
    #[command(flatten)]
    pub place: Place,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let states = args.place.states()?;
    if let Err(errors) = kernel::purge(&args.place.pin_dir) {
        for error in errors {
            out::complain(&error.into());
        }
        return Ok(ExitCode::FAILURE);
    }
    states.remove()?;
    out::note(&format!("nothing of enforcer is left in {}", args.place.pin_dir.display()));
    Ok(ExitCode::SUCCESS)
}
