//! `enforcer demo`: runs the daemon on three workloads in temporary network namespaces and tries connections.
//!
//! The daemon is `enforcer run` as a child process, and it does not know that it runs in a demo. The table combines the
//! results of the connections with the flow log, and both must agree.

mod shop;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::out;

/// Show enforcement at work in temporary network namespaces.
///
/// The demo makes network namespaces for three workloads (web, api, db) and for an outside host. It runs the daemon on them
/// with the example policies and tries connections. It prints which connections were allowed or denied, and the file and
/// line of the policy that decided. At the end it removes everything, also after a failure or Ctrl-C. It needs root.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 Every connection was allowed or denied as the policies say.
            1 At least one connection was not.
            2 The demo could not be set up or finished, or the command line is wrong.")]
pub struct Args {
    /// Print the daemon's log to stderr, too.
    #[arg(long)]
    pub show_log: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is made: a signal that finds no handler would leave it behind.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let mut shop = shop::Shop::prepare(args.show_log)?;
    let pids = shop.stop_handle();
    // The shop is dropped, and with it all that it has made, on every way out of here.
    let outcome = std::thread::scope(|scope| {
        let work = scope.spawn(|| shop.serve());
        runtime.block_on(async {
            while !work.is_finished() {
                tokio::select! {
                    _ = interrupt.recv() => pids.interrupt(),
                    _ = terminate.recv() => pids.interrupt(),
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        });
        work.join().map_err(|_| anyhow::anyhow!("the demo panicked"))?
    });
    drop(shop);
    let rows = outcome.context("the demo could not be finished; everything that it made is removed")?;
    out::tell(table::render(&rows).trim_end_matches('\n'));
    Ok(if rows.iter().all(table::Row::agrees) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
