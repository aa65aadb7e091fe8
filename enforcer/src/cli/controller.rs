//! `enforcer controller`: writes the status of `FlowPolicies`.
//!
//! Input: where the Kubernetes API is. Output: the exit code, once a signal has come.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::kubernetes::{Cluster, Config};
use crate::{agent, controller};

/// Write the status of each FlowPolicy in the Kubernetes API: whether the agents accept the policy, and on how many nodes it
/// is in force. Write Events on policies that are refused, and on pods that are not enforced.
///
/// Of several controllers one writes, by the Lease `enforcer-controller`. Another one takes over within 20 seconds of its end.
/// A controller enforces nothing and decides nothing, so it needs no rights on its node, and without any controller enforcement
/// is the same.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes: 0 SIGTERM or SIGINT came.
            2 The command line is wrong, or the Kubernetes API cannot be found.")]
pub struct Args {
    /// The kubeconfig file. Without it, the controller uses the files of the variable KUBECONFIG, and without that variable
    /// the service account of its pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease. [default: that of the service account or of the kubeconfig]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { kubeconfig, namespace } = args;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the controller")?.block_on(async {
        let [mut terminate, mut interrupt] = [
            signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        ];
        let host = agent::host_name();
        let cluster = Cluster::open(&Config { kubeconfig, node: host.clone() }).await?;
        // A container that starts again has the name of its host, and is another process.
        let holder = format!("{host}_{}", Uuid::new_v4());
        let mut lease = cluster.lease(namespace.as_deref(), controller::LEASE, holder);
        tokio::select! {
            () = controller::run(&cluster, &mut lease) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        lease.give_up().await;
        Ok(ExitCode::SUCCESS)
    })
}
