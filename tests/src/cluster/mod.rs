//! A cluster of `cargo xtask cluster` as a test has it.
//!
//! Input: a name and options of `cluster up`. Output: kubectl, the state, and commands in the namespaces of its nodes. A cluster
//! is removed on drop, whatever has become of it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test whose cluster cannot be handled has to stop, and says how far it came"
)]

pub mod agents;
pub mod api;
pub mod arrivals;
pub mod ground;
pub mod places;

use std::cell::OnceCell;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cargo::program;

/// How long a cluster may take for anything.
pub const BOUND: Duration = Duration::from_mins(2);

/// Whether this process may make clusters. Without root it fails, or says no where `ENFORCER_SKIP_PRIV=1` allows that.
pub fn is_privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let skips = std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1");
    assert!(skips, "this test makes clusters: it needs root; ENFORCER_SKIP_PRIV=1 skips it");
    println!("SKIPPED: needs root for clusters, and ENFORCER_SKIP_PRIV=1 is set");
    false
}

/// `cargo xtask cluster ARGUMENTS`.
pub fn xtask(arguments: &[&str]) -> Command {
    of_xtask(&[&["cluster"], arguments].concat())
}

/// `cargo xtask ARGUMENTS`.
pub fn of_xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("xtask"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What the command printed. It has to succeed.
pub fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What the command complained of.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a value is as wanted, and gives it.
pub fn until<T: Debug>(what: &str, mut get: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + BOUND;
    loop {
        let value = get();
        if wanted(&value) {
            return value;
        }
        assert!(Instant::now() < end, "{what} does not come; there is {value:#?}");
        sleep(Duration::from_millis(200));
    }
}

/// A cluster that is removed on drop.
#[derive(Debug)]
pub struct Cluster {
    /// The name that `cargo xtask cluster` knows it by.
    pub name: String,
    /// The state after the start. The paths in it do not change any more.
    started: OnceCell<Value>,
}

impl Cluster {
    /// A name that no other process uses, and no cluster yet.
    pub fn named(name: &str) -> Self {
        Self { name: format!("{name}-{}", std::process::id()), started: OnceCell::new() }
    }

    /// Starts it.
    pub fn up(&self, options: &[&str]) {
        println!("{}", said(self.start(options)));
    }

    /// The command that starts it.
    pub fn start(&self, options: &[&str]) -> Command {
        xtask(&[&["up", "--name", &self.name], options].concat())
    }

    /// What there is now.
    pub fn state(&self) -> Value {
        serde_json::from_str(&said(xtask(&["status", "--json", "--name", &self.name]))).unwrap()
    }

    fn started(&self) -> &Value {
        self.started.get_or_init(|| self.state())
    }

    /// The image of the pods: agnhost and busybox.
    pub fn image(&self) -> &Value {
        &self.started()["image"]
    }

    /// The file that tells clients where the API server is, and who they are.
    pub fn kubeconfig(&self) -> &Path {
        Path::new(self.started()["kubeconfig"].as_str().unwrap())
    }

    /// The network namespace of a node, or of `control`.
    pub fn network(&self, member: &str) -> &Path {
        Path::new(self.member(member)["network"].as_str().unwrap())
    }

    /// The files of a node, or of `control`, as the host sees them.
    pub fn root(&self, member: &str) -> &Path {
        Path::new(self.member(member)["root"].as_str().unwrap())
    }

    fn member(&self, name: &str) -> &Value {
        self.started()["members"].as_array().unwrap().iter().find(|member| member["name"] == name).unwrap()
    }

    /// A command in the namespaces of a node, or of `control`.
    pub fn on(&self, member: &str, arguments: &[&str]) -> Command {
        let mut words = self.member(member)["enter"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(arguments).stdin(Stdio::null());
        command
    }

    /// A command of the host in the network of the pod with this address; it exits with 9 if the node has no such pod.
    pub fn in_pod(&self, member: &str, address: &str, arguments: &[&str]) -> Command {
        let find = "address=$1; shift; for n in $(ls /run/netns); do \
                    if ip netns exec $n ip -o addr | grep -qF \" $address/\"; then exec ip netns exec $n \"$@\"; fi; \
                    done; exit 9";
        self.on(member, &[&["bash", "-c", find, "in-pod", address], arguments].concat())
    }

    /// Kills a part such as `control/kube-apiserver`.
    pub fn stop(&self, part: &str) {
        said(xtask(&["stop", "--name", &self.name, part]));
    }

    /// Starts it again.
    pub fn restart(&self, part: &str) {
        said(xtask(&["start", "--name", &self.name, part]));
    }

    /// Runs kubectl, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        said(self.kubectl_command(arguments))
    }

    /// What kubectl printed, or what it complained of.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.kubectl_command(arguments).output().unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(errors(&output)) }
    }

    /// kubectl as a user who may do everything.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network("control").display()));
        command.arg(self.started()["kubectl"].as_str().unwrap()).arg("--kubeconfig").arg(self.kubeconfig());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// An object of the default namespace.
    pub fn object(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", kind, name, "--output=json"])).unwrap()
    }

    /// Applies an object or a list.
    pub fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), object.to_string()).unwrap();
        self.kubectl(&["apply", "--filename", file.path().to_str().unwrap()]);
    }

    /// Waits until all pods of a namespace are ready.
    pub fn wait_for_pods(&self, namespace: &str) {
        let ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"];
        self.kubectl(&[&["--namespace", namespace], &ready[..]].concat());
    }

    /// Addresses of a pod; none before it has them.
    pub fn addresses(&self, namespace: &str, pod: &str) -> Vec<String> {
        let get = ["get", "pod", pod, "--output=jsonpath={.status.podIPs[*].ip}"];
        let text = self.kubectl(&[&["--namespace", namespace], &get[..]].concat());
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// What a pod of a namespace is told at this host and port when it asks for the name of who answers; `None` where nobody
    /// answers in time.
    pub fn ask_from(&self, namespace: &str, pod: &str, host: &str, port: u16) -> Option<String> {
        let url = format!("http://{}/hostname", with_port(host, port));
        // Debian's busybox crashes at wget's own option for this.
        let ask = ["exec", pod, "--", "timeout", "2", "wget", "-q", "-O-", &url];
        self.try_kubectl(&[&["--namespace", namespace], &ask[..]].concat()).ok()
    }

    /// The same for a pod of the default namespace.
    pub fn ask(&self, pod: &str, host: &str, port: u16) -> Option<String> {
        self.ask_from("default", pod, host, port)
    }

    /// Asks until the answer is this one: kube-proxy learns of an endpoint a little later than the API server.
    pub fn ask_until(&self, pod: &str, host: &str, port: u16, expected: &str) {
        until("the answer", || self.ask(pod, host, port), |answer| answer.as_deref() == Some(expected));
    }

    /// Removes it.
    pub fn down(&self) {
        said(xtask(&["down", "--name", &self.name]));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = xtask(&["down", "--name", &self.name]).status();
    }
}

/// Address and port as a URL has them.
pub fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A pod with the label `app` on a node, that tells its name at a port of the name `http` to whoever asks.
pub fn pod(cluster: &Cluster, namespace: &str, name: &str, app: &str, node: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": cluster.image(),
                "args": ["netexec", format!("--http-port={port}")],
                "ports": [{"name": "http", "containerPort": port}],
            }],
        },
    })
}
