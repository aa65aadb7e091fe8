//! `enforcer purge`: removes enforcement from the node.
//!
//! Input: the daemon's pin directory, settings and flow log. Output: a message, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::in_force::Place;
use super::out;
use crate::flow::sink;
use crate::kernel;

/// Remove enforcement from this node.
///
/// The command detaches all programs and removes the pins and the state directory. Afterwards no container is protected.
/// It fails while a daemon runs, so stop the daemon first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 Nothing of Enforcer is left in the pin directory.
            1 Something could not be removed, or a daemon still runs.
            2 The command line or the settings are wrong, or the state directory or the flow log is still there.")]
pub struct Args {
    /// The daemon's pin directory and settings.
    #[command(flatten)]
    pub place: Place,
    /// Also remove this flow log, the older files that the daemon put aside, and their directory if it is then empty.
    #[arg(long, value_name = "FILE")]
    pub flow_log: Option<PathBuf>,
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
    if let Some(path) = &args.flow_log {
        sink::remove(path).with_context(|| format!("cannot remove the flow log {}", path.display()))?;
    }
    out::note(&format!("nothing of enforcer is left in {}", args.place.pin_dir.display()));
    Ok(ExitCode::SUCCESS)
}
