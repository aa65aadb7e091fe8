//! Pods of a real API server as workloads: joined to their veths with routed and with bridged networks, cut off by a policy and
//! named in the flow log, over label changes, a hostile neighbour, restarts, and an API server that is away.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step ends the test, and says how far it came")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::daemon::{Daemon, binary};
use enforcer_tests::net::Site;
use serde_json::{Value, json};

/// Longest wait for anything.
const BOUND: Duration = Duration::from_mins(1);
/// The port on which pods answer.
const PORT: u16 = 8080;

/// Every pod is isolated; `web` may call `db`.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: http}]
";

/// A cluster of two nodes, and the directories of a daemon on the first.
struct Ground {
    name: String,
    site: Site,
    state: Value,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = xtask(&["down", "--name", &self.name]).status();
    }
}

/// `cargo xtask cluster` of this build.
fn xtask(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--locked", "--package", "xtask", "--", "cluster"]).args(arguments);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    command
}

fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a value is as wanted, and gives it.
fn until<T: std::fmt::Debug>(what: &str, mut get: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
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

impl Ground {
    fn new(cni: &str) -> Self {
        let name = format!("pods-{cni}-{}", std::process::id());
        let mut ground = Self { name, site: Site::new(), state: Value::Null };
        said(xtask(&["up", "--name", &ground.name, "--nodes", "2", "--cni", cni, "--family", "dual"]));
        let state = said(xtask(&["status", "--json", "--name", &ground.name]));
        ground.state = serde_json::from_str(&state).unwrap();
        ground.kubectl(&["create", "namespace", "shop"]);
        fs::create_dir(ground.site.file("policies")).unwrap();
        fs::write(ground.site.file("policies").join("shop.yaml"), POLICIES).unwrap();
        ground
    }

    fn member(&self, name: &str) -> &Value {
        self.state["members"].as_array().unwrap().iter().find(|member| member["name"] == name).unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        said(self.kubectl_command(arguments))
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.member("control")["network"].as_str().unwrap()));
        command.arg(self.state["kubectl"].as_str().unwrap());
        command.args(["--kubeconfig", self.state["kubeconfig"].as_str().unwrap(), "--namespace=shop"]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// A pod that answers with its name.
    fn pod(&self, name: &str, app: &str, node: &str, is_host: bool) {
        let port = if is_host { PORT + 1 } else { PORT };
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": node},
                "hostNetwork": is_host,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main",
                    "image": self.state["image"],
                    "args": ["netexec", format!("--http-port={port}")],
                    "ports": [{"name": "http", "containerPort": port}],
                }],
            },
        });
        self.apply(&object);
    }

    fn apply(&self, object: &Value) {
        let file = self.site.file("object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
    }

    /// A Service of both families in front of the pods with a label, and its addresses.
    fn service(&self, name: &str, key: &str, value: &str) -> Vec<String> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": {key: value},
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": PORT, "targetPort": PORT}],
            },
        }));
        let text = self.kubectl(&["get", "service", name, "--output=jsonpath={.spec.clusterIPs[*]}"]);
        text.split(' ').map(str::to_owned).collect()
    }

    fn wait_for_pods(&self) {
        self.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    }

    fn addresses(&self, pod: &str) -> Vec<String> {
        let text = self.kubectl(&["get", "pod", pod, "--output=jsonpath={.status.podIPs[*].ip}"]);
        text.split(' ').map(str::to_owned).collect()
    }

    /// Which of these addresses answer to a pod.
    fn answers(&self, from: &str, to: &[String]) -> Vec<bool> {
        to.iter().map(|address| self.answer(from, address).is_some()).collect()
    }

    /// The name of the pod that answers to another at an address.
    fn answer(&self, from: &str, address: &str) -> Option<String> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let url = format!("http://{host}:{PORT}/hostname");
        // Debian's busybox crashes at wget's own option for this.
        let ask = ["exec", from, "--", "timeout", "2", "wget", "-q", "-O-", &url];
        let output = self.kubectl_command(&ask).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Runs a command of the host in the network of a pod of the first node.
    fn inside(&self, address: &str, command: &str) -> Output {
        let find = format!(
            "for n in $(ls /run/netns); do if ip netns exec $n ip -o addr | grep -q ' {address}/'; then \
             exec ip netns exec $n {command}; fi; done; exit 9"
        );
        let enter = self.member("node1")["enter"].as_array().unwrap();
        let mut words = enter.iter().map(|word| word.as_str().unwrap());
        let mut run = Command::new(words.next().unwrap());
        run.args(words).args(["bash", "-c", &find]).stdin(Stdio::null()).output().unwrap()
    }

    fn daemon(&self) -> Daemon {
        let mut command = Command::new(binary());
        command.args(["run", "--kubernetes", "--node", "node1", "--kubeconfig"]);
        command.arg(self.state["kubeconfig"].as_str().unwrap());
        command.arg("--policies").arg(self.site.file("policies"));
        command.arg("--flow-log").arg(self.site.file("flows.jsonl"));
        command.arg("--netns").arg(self.member("node1")["network"].as_str().unwrap());
        self.place(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Daemon::spawn(command, self.site.pin_dir(), &self.site.file("daemon.log"))
    }

    fn place(&self, command: &mut Command) {
        let settings = self.site.file("settings.yaml");
        fs::write(&settings, json!({"state_dir": self.site.file("state")}).to_string()).unwrap();
        command.arg("--config").arg(settings).arg("--pin-dir").arg(self.site.pin_dir());
    }

    fn report(&self) -> Value {
        let mut command = Command::new(binary());
        command.args(["status", "--json"]);
        self.place(&mut command);
        let status: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default();
        status["report"].clone()
    }

    /// Names and addresses of the workloads; unknown ones have no name.
    fn workloads(&self) -> BTreeMap<String, BTreeSet<String>> {
        let report = self.report();
        let workloads = report["workloads"].as_array().cloned().unwrap_or_default();
        let texts = |values: &Value| {
            let global = values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned());
            global.filter(|address| !address.starts_with("fe80:")).collect()
        };
        workloads.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), texts(&one["addresses"]))).collect()
    }

    /// Waits until the workloads are these, with the addresses that the API tells.
    fn becomes(&self, pods: &[&str]) {
        let expected: BTreeMap<String, BTreeSet<String>> =
            pods.iter().map(|pod| (format!("shop/{pod}"), self.addresses(pod).into_iter().collect())).collect();
        let own = |mut all: BTreeMap<String, BTreeSet<String>>| {
            // What the cluster runs for itself.
            all.retain(|name, _| name.is_empty() || name.starts_with("shop/"));
            all
        };
        until("each pod with its addresses", || own(self.workloads()), |now| *now == expected);
    }

    fn denied(&self) -> BTreeSet<(String, String)> {
        let text = fs::read_to_string(self.site.file("flows.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .map(|line| {
                (line["flow"]["source"]["pod_name"].to_string(), line["flow"]["destination"]["pod_name"].to_string())
            })
            .collect()
    }
}

/// Whether this process may make clusters.
fn is_privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let skips = std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1");
    assert!(skips, "this test makes a cluster: it needs root; ENFORCER_SKIP_PRIV=1 skips it");
    println!("SKIPPED: needs root for a cluster, and ENFORCER_SKIP_PRIV=1 is set");
    false
}

#[test]
fn pods_with_routed_veths_are_joined_and_cut_off() {
    if is_privileged() {
        pods_are_joined_and_cut_off("ptp");
    }
}

#[test]
fn pods_of_a_bridge_are_joined_and_cut_off() {
    if is_privileged() {
        pods_are_joined_and_cut_off("bridge");
    }
}

fn pods_are_joined_and_cut_off(cni: &str) {
    let ground = Ground::new(cni);
    for (name, app, node) in
        [("db", "db", "node1"), ("web", "web", "node1"), ("other", "other", "node1"), ("far", "other", "node2")]
    {
        ground.pod(name, app, node, false);
    }
    ground.pod("host", "web", "node2", true);
    ground.wait_for_pods();
    let db = ground.addresses("db");
    assert_eq!(db.len(), 2, "{db:?}");
    let all = [true; 2];
    let none = [false; 2];
    for from in ["web", "other", "far", "host"] {
        assert_eq!(ground.answers(from, &db), all, "{from}: nothing enforces yet");
    }
    println!("{cni}: the pods answer each other");

    // Pods that were there before, one that comes later, and the node's way out, which is a veth too.
    let mut daemon = ground.daemon();
    ground.becomes(&["db", "web", "other"]);
    assert_eq!(ground.report()["uplinks"], json!(["eth0"]));
    assert_eq!(ground.answers("web", &db), all);
    for from in ["other", "far", "host"] {
        assert_eq!(ground.answers(from, &db), none, "{from}");
    }
    ground.pod("late", "web", "node1", false);
    ground.wait_for_pods();
    ground.becomes(&["db", "web", "other", "late"]);
    assert_eq!(ground.answers("late", &db), all);
    println!("{cni}: the policy holds for peers here, elsewhere, and in the network of a node");

    // Labels.
    ground.kubectl(&["label", "pod", "far", "app=web", "--overwrite"]);
    until("a peer with the label", || ground.answers("far", &db), |answers| *answers == all);
    ground.kubectl(&["label", "pod", "far", "app=other", "--overwrite"]);
    until("a peer without it", || ground.answers("far", &db), |answers| *answers == none);
    let named = |from: &str| ground.denied().iter().any(|(src, dst)| src.contains(from) && dst.contains("db"));
    until("both in the flow log", || (named("other"), named("far")), |both| *both == (true, true));

    // A neighbour puts on the address of `web`, and takes off its own.
    let (web, other) = (ground.addresses("web"), ground.addresses("other"));
    let put_on = ground.inside(&other[0], &format!("ip address add {}/32 dev eth0", web[0]));
    assert!(put_on.status.success(), "{put_on:?}");
    sleep(Duration::from_secs(3));
    ground.becomes(&["db", "web", "other", "late"]);
    assert!(daemon.terminate().success());
    daemon = ground.daemon();
    ground.becomes(&["db", "web", "other", "late"]);
    assert_eq!((ground.answers("web", &db), ground.answers("other", &db)), (all.into(), none.into()));
    println!("{cni}: a neighbour with the address of another has gained nothing");

    // A pod comes back under its name.
    ground.kubectl(&["delete", "pod", "web"]);
    ground.becomes(&["db", "other", "late"]);
    ground.pod("web", "web", "node1", false);
    ground.wait_for_pods();
    assert_ne!(ground.addresses("web"), web);
    ground.becomes(&["db", "web", "other", "late"]);
    assert_eq!(ground.answers("web", &db), all);

    services(&ground, cni);

    // The API server is away, and the daemon starts anew.
    ground_without_api(&ground, daemon, &db);
}

/// A pod that may call `db` alone reaches what is `db` behind a Service, and nothing else (D5). kube-proxy of the node translates.
fn services(ground: &Ground, cni: &str) {
    ground.kubectl(&["label", "pod", "late", "role=caller"]);
    ground.kubectl(&["label", "pod", "db", "far", "tier=back"]);
    let [good, bad, mixed] =
        [("good", "app", "db"), ("bad", "app", "other"), ("mixed", "tier", "back")].map(|(name, key, value)| {
            let addresses = ground.service(name, key, value);
            assert_eq!(addresses.len(), 2, "{addresses:?}");
            addresses
        });
    let all = vec![true; 2];
    for service in [&good, &bad, &mixed] {
        until("positive control", || ground.answers("late", service), |answers| *answers == all);
    }
    let who = |rounds: usize| -> BTreeSet<Option<String>> {
        let rounds = (0..rounds).flat_map(|_| &mixed);
        rounds.map(|address| ground.answer("late", address)).collect()
    };
    let both: BTreeSet<Option<String>> = ["db", "far"].map(|name| Some(name.to_owned())).into();
    until("positive control: both are behind it", || who(6), |answers| *answers == both);
    ground.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "caller"},
        "spec": {
            "podSelector": {"matchLabels": {"role": "caller"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": PORT}]}],
        },
    }));
    until("the policy", || ground.answers("late", &bad), |answers| *answers == [false; 2]);
    for proxy in ["runs", "stands still"] {
        assert_eq!(ground.answers("late", &good), all, "kube-proxy {proxy}");
        assert_eq!(ground.answers("late", &bad), [false; 2], "kube-proxy {proxy}");
        let answers = who(6);
        let only: BTreeSet<Option<String>> = [Some("db".to_owned()), None].into();
        assert_eq!(answers, only, "kube-proxy {proxy}: one backend is allowed, and one is not");
        if proxy == "runs" {
            said(xtask(&["stop", "--name", &ground.name, "node1/kube-proxy"]));
        }
    }
    said(xtask(&["start", "--name", &ground.name, "node1/kube-proxy"]));
    let named = || ground.denied().iter().any(|(src, dst)| src.contains("late") && dst.contains("far"));
    until("the flow log names the backend", named, |named| *named);
    ground.kubectl(&["delete", "networkpolicy", "caller"]);
    println!("{cni}: a Service is judged by its backends");
}

/// What holds stays, and a daemon that starts goes on from it.
fn ground_without_api(ground: &Ground, daemon: Daemon, db: &[String]) {
    let expected = ground.workloads();
    said(xtask(&["stop", "--name", &ground.name, "control/kube-apiserver"]));
    let is_told = |report: &Value| report["findings"].to_string().contains("the Kubernetes API cannot be read");
    until("a note", || ground.report(), is_told);
    assert!(daemon.terminate().success());
    let _daemon = ground.daemon();
    until("the same workloads", || ground.workloads(), |now| *now == expected);
    until("a note", || ground.report(), is_told);
    said(xtask(&["start", "--name", &ground.name, "control/kube-apiserver"]));
    until("no note", || ground.report(), |report| !is_told(report));
    assert_eq!(ground.workloads(), expected);
    assert_eq!((ground.answers("late", db), ground.answers("other", db)), (vec![true; 2], vec![false; 2]));
}
