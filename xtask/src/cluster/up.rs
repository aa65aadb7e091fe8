//! `cargo xtask cluster up`: from nothing to a cluster in which pods can be made.
//!
//! Input: a name and a shape. Output: a running cluster with its state file. Every process is started in the cluster's
//! cgroups and every file is made in its directory, so `down` needs to know nothing of how far this came.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    cluster::{
        build::Cache,
        cgroup::Cgroups,
        control_plane,
        directory::Directory,
        down, images,
        member::{self, CONTROL, Member},
        network, node,
        part::Part,
        pki::{self, Keys},
        shape::Shape,
        state::State,
        wait::Watch,
    },
    workspace::Workspace,
};

/// Starts the cluster, and removes it again if the start fails, unless `keep` is set.
pub(crate) fn run(workspace: &Workspace, directory: &Directory, shape: Shape, keep: bool) -> Result<()> {
    let begun = Instant::now();
    let name = directory.name();
    if let Some(state) = State::find(directory)?
        && state.ready
    {
        bail!("the cluster {name} exists; run `cargo xtask cluster down --name {name}`, or choose another name");
    }
    let cache = Cache::ensure(workspace)?;
    let cgroups = Cgroups::of(name)?;
    directory.create()?;
    let _lock = directory.lock()?;
    // What an `up` has left that was killed: the lock says that it is gone.
    cgroups.kill()?;
    cgroups.remove()?;
    directory.clear()?;
    let mut start = Start { directory, cgroups, shape, state: State::new(directory, shape, &cache), cache };
    if let Err(error) = start.all() {
        if keep {
            return Err(error.context(format!(
                "the cluster {name} did not start, and was kept; `cargo xtask cluster down --name {name}` removes it"
            )));
        }
        return Err(error.context(match down::clear(directory, &start.cgroups) {
            Ok(()) => format!("the cluster {name} did not start, and was removed again"),
            Err(left) => format!("the cluster {name} did not start, and could not be removed ({left:#})"),
        }));
    }
    let seconds = begun.elapsed().as_secs_f32();
    println!("the cluster {name} is ready after {seconds:.1} s: `cargo xtask cluster kubectl --name {name} get nodes`");
    Ok(())
}

struct Start<'a> {
    directory: &'a Directory,
    cgroups: Cgroups,
    shape: Shape,
    cache: Cache,
    state: State,
}

impl Start<'_> {
    fn all(&mut self) -> Result<()> {
        self.state.save(self.directory)?;
        self.members()?;
        let nodes: Vec<Member> = self.state.nodes().cloned().collect();
        let control = self.state.control()?.clone();
        network::join(&control, &nodes)?;
        let keys = self.keys(&control, &nodes)?;

        let binaries = self.cache.binaries();
        self.part(&control, control_plane::storage(&binaries))?;
        self.part(&control, control_plane::api_server(&binaries, self.shape))?;
        for node in &nodes {
            node::configure(node, self.shape, &keys, &authority(&control), &self.cache)?;
            self.part(node, node::runtime())?;
        }
        for node in &nodes {
            self.watch().until(&format!("{}/containerd", node.name), "listens", || Ok(node::socket(node).exists()))?;
        }
        images::load(nodes.iter(), &self.cache.images())?;
        self.watch().until("control/kube-apiserver", "is ready", || {
            Ok(self.kubectl(&["get", "--raw=/readyz"])?.output()?.status.success())
        })?;

        self.create_nodes(&nodes)?;
        for command in control_plane::controllers(&binaries, self.shape) {
            self.part(&control, command)?;
        }
        for node in &nodes {
            for command in node::programs(&binaries, node) {
                self.part(node, command)?;
            }
        }
        self.until_ready(&nodes)?;
        self.state.ready = true;
        self.state.save(self.directory)
    }

    fn members(&mut self) -> Result<()> {
        let family = self.shape.family;
        let nodes = (1..=self.shape.nodes).map(|n| (format!("node{n}"), family.node(n), family.pods_of(n)));
        let all = std::iter::once((CONTROL.to_owned(), family.control(), Vec::new())).chain(nodes);
        for (name, addresses, pods) in all {
            let member = Member::start(self.directory, &self.cgroups, &name, addresses, pods)?;
            self.state.members.push(member);
            self.state.save(self.directory)?;
        }
        Ok(())
    }

    /// Keys for everybody, the kubeconfig files of the control plane, and that of the user.
    fn keys(&self, control: &Member, nodes: &[Member]) -> Result<Keys> {
        let directory = control.directory.join("kubernetes");
        let family = self.shape.family;
        let server = control.addresses.first().context("a control plane without an address")?;
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let keys = Keys::create(&directory, server, &family.api_server(), &names)?;
        let seen = Path::new(control_plane::CONFIGURATION).join("ca.crt");
        for (file, user) in [("controller-manager", pki::MANAGER), ("scheduler", pki::SCHEDULER)] {
            fs::write(directory.join(format!("{file}.kubeconfig")), keys.kubeconfig(user, &seen))?;
        }
        fs::write(&self.state.kubeconfig, keys.kubeconfig(pki::ADMIN, &authority(control)))?;
        Ok(keys)
    }

    fn part(&mut self, member: &Member, command: Vec<String>) -> Result<()> {
        self.state.parts.push(Part::start(self.directory, member, command)?);
        self.state.save(self.directory)
    }

    /// The nodes are made here rather than by their kubelets: so each has the addresses for pods that its CNI gives out.
    fn create_nodes(&self, nodes: &[Member]) -> Result<()> {
        let items: Vec<Value> = nodes
            .iter()
            .map(|node| {
                json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": node.name},
                    "spec": {"podCIDR": node.pods.first(), "podCIDRs": node.pods},
                })
            })
            .collect();
        let file = self.directory.file("nodes.json");
        fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        let mut run = self.kubectl(&["create", "--filename"])?;
        run.arg(file);
        member::output(run).map(drop)
    }

    fn until_ready(&self, nodes: &[Member]) -> Result<()> {
        for node in nodes {
            let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            self.watch().until(&format!("{}/kubelet", node.name), "reports its node as ready", || {
                let output = self.kubectl(&["get", "node", &node.name, "--output", condition])?.output()?;
                Ok(output.stdout == b"True")
            })?;
        }
        for node in nodes {
            self.watch().until(&format!("{}/kube-proxy", node.name), "says that it works", || {
                let mut ask = node.command("busybox");
                ask.args(["wget", "-q", "-O", "/dev/null", &format!("http://{}/healthz", node::PROXY_HEALTH)]);
                Ok(ask.output()?.status.success())
            })?;
        }
        // Without it no pod can be made.
        self.watch().until("control/kube-controller-manager", "has made the default service account", || {
            Ok(self.kubectl(&["get", "serviceaccount", "default"])?.output()?.status.success())
        })
    }

    fn watch(&self) -> Watch<'_> {
        Watch::of(&self.state)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        let mut run = self.state.control()?.in_network(&self.state.kubectl);
        run.arg("--kubeconfig").arg(&self.state.kubeconfig).args(arguments);
        run.env("KUBECACHEDIR", self.directory.file("kubectl"));
        Ok(run)
    }
}

/// The certificate by which everybody knows the API server.
fn authority(control: &Member) -> PathBuf {
    control.directory.join("kubernetes/ca.crt")
}
