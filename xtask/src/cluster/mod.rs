//! `cargo xtask cluster`: a real Kubernetes on this machine, for the tests of tier 3.
//!
//! Input: a name and a shape. Output: a control plane and nodes, each a set of namespaces with processes of its own, and a
//! kubeconfig. Nothing outside of the cluster's own namespaces, cgroups and directory changes.

mod build;
mod cgroup;
mod cni;
mod control_plane;
mod directory;
mod down;
pub(crate) mod go;
mod image;
mod images;
pub(crate) mod kept;
mod log;
pub(crate) mod member;
mod network;
mod node;
mod part;
mod pki;
mod process;
mod restart;
mod shape;
mod state;
mod status;
mod up;
mod wait;

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{
    cluster::{build::Cache, directory::Directory, shape::Shape, state::State},
    kernel,
    render::programs,
    setup::{self, tools::Need},
    workspace::Workspace,
};

/// What is done with which cluster.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Build Kubernetes, the pods' image, and what renders `deploy` into the cache, unless these versions are there.
    Build,
    /// Start a cluster, and wait until pods can be made in it.
    Up {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        shape: Shape,
        /// Leave everything as it is if the start fails.
        #[arg(long)]
        keep: bool,
    },
    /// Remove a cluster and everything that it made, also one whose start failed or was killed.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Show the clusters, their parts, and what is alive.
    Status {
        /// Show this cluster alone.
        #[arg(long, value_parser = directory::parse_name)]
        name: Option<String>,
        /// Print one cluster's state for programs.
        #[arg(long, requires = "name")]
        json: bool,
    },
    /// Run kubectl as a user who may do everything.
    Kubectl {
        #[command(flatten)]
        name: Name,
        /// What kubectl is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run Helm as a user who may do everything.
    Helm {
        #[command(flatten)]
        name: Name,
        /// What Helm is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command in the namespaces of a node, or of `control`.
    Exec {
        #[command(flatten)]
        name: Name,
        /// `node1`, `node2` and so on, or `control`.
        member: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Put the images of an archive on every node.
    Load {
        #[command(flatten)]
        name: Name,
        /// An archive of OCI or of Docker.
        archive: PathBuf,
    },
    /// Kill a part, such as `control/kube-apiserver` or `node1/kubelet`.
    Stop {
        #[command(flatten)]
        name: Name,
        /// Name of the part, as `status` shows it.
        part: String,
    },
    /// Start a part again.
    Start {
        #[command(flatten)]
        name: Name,
        /// Name of the part, as `status` shows it.
        part: String,
    },
}

/// Which cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Name of the cluster. Clusters of different names do not meet.
    #[arg(long, default_value = "test", value_parser = directory::parse_name)]
    name: String,
}

impl Name {
    fn directory(&self) -> Directory {
        Directory::of(&self.name)
    }
}

/// The command.
pub(crate) fn run(workspace: &Workspace, action: Action) -> Result<()> {
    ensure!(
        kernel::is_root(),
        "a cluster is made of namespaces and mounts, which needs root; run this command as root"
    );
    match action {
        Action::Build => {
            setup::ensure_needs(workspace, &[Need::Test, Need::Cluster])?;
            build(workspace)
        }
        Action::Up { name, shape, keep } => {
            setup::ensure_needs(workspace, &[Need::Test, Need::Cluster])?;
            up::run(workspace, &name.directory(), shape, keep)
        }
        Action::Down { name } => down::run(&name.directory()),
        Action::Status { name: None, json: _ } => status::list(),
        Action::Status { name: Some(name), json: true } => status::json(&Directory::of(&name)),
        Action::Status { name: Some(name), json: false } => status::show(&Directory::of(&name)),
        Action::Kubectl { name, arguments } => kubectl(&name.directory(), &arguments),
        Action::Helm { name, arguments } => helm(workspace, &name.directory(), &arguments),
        Action::Exec { name, member, command } => exec(&name.directory(), &member, &command),
        Action::Load { name, archive } => images::load(State::load(&name.directory())?.nodes(), &archive),
        Action::Stop { name, part } => restart::stop(&name.directory(), &part),
        Action::Start { name, part } => restart::start(&name.directory(), &part),
    }
}

/// Builds the programs of clusters, unless they are there. What this needs has to be installed.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let cache = Cache::ensure(workspace)?;
    println!("Kubernetes {} is in {}", cache.version(), cache.directory().display());
    programs::ensure(workspace).map(drop)
}

/// The kubectl of clusters, built if it is not there.
pub(crate) fn kubectl_program(workspace: &Workspace) -> Result<PathBuf> {
    setup::ensure_needs(workspace, &[Need::Test, Need::Cluster])?;
    Ok(Cache::ensure(workspace)?.binaries().join("kubectl"))
}

/// Becomes kubectl, so that it has this terminal and its exit status is ours. It has the host's files.
fn kubectl(directory: &Directory, arguments: &[OsString]) -> Result<()> {
    let state = State::load(directory)?;
    let mut command = state.control()?.in_network(&state.kubectl);
    command.arg("--kubeconfig").arg(&state.kubeconfig).args(arguments);
    command.env("KUBECACHEDIR", directory.file("kubectl"));
    Err(command.exec()).context("cannot run kubectl")
}

/// Becomes Helm, which keeps what it knows in the cluster's directory.
fn helm(workspace: &Workspace, directory: &Directory, arguments: &[OsString]) -> Result<()> {
    let state = State::load(directory)?;
    let mut command = state.control()?.in_network(programs::ensure(workspace)?.join("helm"));
    command.env("KUBECONFIG", &state.kubeconfig).args(arguments);
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, directory.file("helm"));
    }
    Err(command.exec()).context("cannot run Helm")
}

fn exec(directory: &Directory, member: &str, words: &[OsString]) -> Result<()> {
    let state = State::load(directory)?;
    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = state.member(member)?.command(program);
    Err(command.args(arguments).exec()).context("cannot run the command")
}
