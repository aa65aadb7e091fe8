//! `enforcer wait`: does nothing.
//!
//! Input: SIGTERM or SIGINT. Output: the exit code. The image has no other program that could keep a container alive.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Do nothing until SIGTERM or SIGINT.
///
/// The pods of `deploy/uninstall` wait by this command once they have purged their node, because Kubernetes starts a container
/// again that ends. It needs no rights.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 SIGTERM or SIGINT came.
            2 The command line is wrong, or the command could not wait.")]
pub struct Args {}

/// Runs the command.
pub fn run(Args {}: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.context("cannot wait")?.block_on(async {
        // The first process of a container gets no signal that it does not ask for.
        let [mut terminate, mut interrupt] = [
            signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        ];
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}
