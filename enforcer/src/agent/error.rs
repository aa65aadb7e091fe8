//! The errors that end `enforcer run`. Each one has an exit code, so that a supervisor can tell them apart.

use std::io;
use std::sync::Arc;

use crate::compile::CompileError;
use crate::flow::sink::InvalidFlowLog;
use crate::kernel::KernelError;
use crate::kubernetes::ConnectError;
use crate::policy::load::PolicyErrors;
use crate::watch::WatchError;
use crate::workload::WorkloadError;
use crate::workload::source::StartError;

/// An error that ends `enforcer run`.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The policies are refused and none are in force.
    #[error("{0}\n\nthe policies are refused, so no policy is in force and nothing was attached")]
    Policies(#[from] Arc<PolicyErrors>),
    /// The policies pass a budget, and none are in force.
    #[error("{0}; therefore no policy is in force and nothing was attached")]
    Compile(#[from] CompileError),
    /// The kernel side cannot be opened, or refused the first image.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Workloads cannot be discovered.
    #[error(transparent)]
    Workloads(#[from] WorkloadError),
    /// Files cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The flow log cannot be opened.
    #[error(transparent)]
    FlowLog(#[from] InvalidFlowLog),
    /// The state directory cannot be made.
    #[error("cannot write to the state directory: {0}; the setting `state_dir` can name another directory")]
    State(#[source] io::Error),
    /// A thread cannot be started.
    #[error("the daemon cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// There is no client of the Kubernetes API.
    #[error(transparent)]
    Kubernetes(#[from] ConnectError),
    /// Signals cannot be received.
    #[error("the daemon cannot set up its signal handlers: {0}")]
    Signals(#[source] io::Error),
}

impl AgentError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Policies(_)
            | Self::Compile(_)
            | Self::Kubernetes(_)
            | Self::Workloads(WorkloadError::Source(StartError::Refused(_))) => 2,
            Self::Workloads(WorkloadError::SourceSilent { .. }) => 3,
            Self::Kernel(KernelError::Busy { .. }) => 5,
            Self::Kernel(_) => 4,
            Self::Workloads(_)
            | Self::Watch(_)
            | Self::FlowLog(_)
            | Self::State(_)
            | Self::Thread(_)
            | Self::Signals(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_tells_a_kernel_that_is_too_old_from_a_second_daemon() {
        let old = KernelError::KernelTooOld { release: "6.1.0-32-amd64".to_owned() };
        let error = AgentError::from(old);
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("6.1.0-32-amd64"), "{error}");
        let busy = KernelError::Busy { path: "/x".into() };
        assert_eq!(AgentError::from(busy).exit_code(), 5);
    }
}
