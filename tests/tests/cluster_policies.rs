//! Policies of a real API server in force on real pods: applied, changed, refused, deleted, and what happens while the API
//! server is away.
//!
//! The pods' names come from an inventory here, so that nothing but the policies depends on the API.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::daemon::{Daemon, binary};
use enforcer_tests::net::Site;
use serde_json::{Value, json};

/// Longest wait for anything.
const BOUND: Duration = Duration::from_mins(2);
/// The port on which pods answer.
const PORT: &str = "8080";

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
        assert!(Instant::now() < end, "{what} does not come; there is {value:?}");
        sleep(Duration::from_millis(200));
    }
}

/// A cluster of one node with the pods `web` and `db` in the namespace `shop`, and the directories of a daemon.
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

impl Ground {
    fn new() -> Self {
        let name = format!("policies-{}", std::process::id());
        let mut ground = Self { name, site: Site::new(), state: Value::Null };
        said(xtask(&["up", "--name", &ground.name, "--nodes", "1", "--cni", "ptp"]));
        let state = said(xtask(&["status", "--json", "--name", &ground.name]));
        ground.state = serde_json::from_str(&state).unwrap();
        ground.kubectl(&["create", "namespace", "shop"]);
        for pod in ["web", "db"] {
            ground.apply(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod, "namespace": "shop", "labels": {"app": pod}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "main", "image": ground.state["image"], "args": ["netexec", format!("--http-port={PORT}")],
                }]},
            }));
        }
        let workloads: Vec<Value> = ["web", "db"]
            .map(|pod| {
                let address = until("the address", || ground.address(pod), |address| !address.is_empty());
                json!({"name": pod, "namespace": "shop", "labels": {"app": pod}, "match": {"address": address}})
            })
            .into();
        fs::write(ground.site.file("w.inventory.yaml"), json!({"workloads": workloads}).to_string()).unwrap();
        ground
    }

    fn member(&self) -> &Value {
        self.state["members"].as_array().unwrap().iter().find(|member| member["name"] == "node1").unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.state["kubectl"].as_str().unwrap());
        let control = &self.state["members"].as_array().unwrap().iter().find(|m| m["name"] == "control").unwrap();
        let network = format!("--net={}", control["network"].as_str().unwrap());
        let mut inside = Command::new("nsenter");
        inside.arg(network).arg(command.get_program()).arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command = inside;
        said(command)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.state["kubeconfig"].as_str().unwrap().into()
    }

    fn apply(&self, object: &Value) {
        let file = self.site.file("object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
    }

    fn address(&self, pod: &str) -> String {
        self.kubectl(&["--namespace=shop", "get", "pod", pod, "--output=jsonpath={.status.podIP}"])
    }

    /// Runs a command in the node.
    fn node(&self, arguments: &[&str]) -> Output {
        let enter = self.member()["enter"].as_array().unwrap();
        let words: Vec<&str> =
            enter.iter().map(|word| word.as_str().unwrap()).chain(arguments.iter().copied()).collect();
        Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap()
    }

    /// Whether `db` answers to `web`. The API server is not needed for it.
    fn answers(&self, db: &str, web: &str) -> bool {
        let ask = format!(
            "for n in $(ls /run/netns); do if ip netns exec $n ip -o addr | grep -q ' {web}/'; then \
             ip netns exec $n timeout 2 bash -c 'exec 3<>/dev/tcp/{db}/{PORT}'; exit; fi; done; exit 9"
        );
        let output = self.node(&["bash", "-c", &ask]);
        assert_ne!(
            output.status.code(),
            Some(9),
            "{web} has no namespace: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.status.success()
    }

    fn daemon(&self) -> Daemon {
        let mut command = Command::new(binary());
        command.args(["run", "--kubernetes", "--node", "node1", "--kubeconfig"]).arg(self.kubeconfig());
        command.arg("--inventory").arg(self.site.file("w.inventory.yaml"));
        command.arg("--flow-log").arg(self.site.file("flows.jsonl"));
        command.arg("--netns").arg(self.member()["network"].as_str().unwrap());
        self.place(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Daemon::spawn(command, self.site.pin_dir(), &self.site.file("daemon.log"))
    }

    fn place(&self, command: &mut Command) {
        let settings = self.site.file("settings.yaml");
        fs::write(&settings, json!({"state_dir": self.site.file("state")}).to_string()).unwrap();
        command.arg("--config").arg(settings).arg("--pin-dir").arg(self.site.pin_dir());
    }

    fn status(&self) -> Value {
        let mut command = Command::new(binary());
        command.args(["status", "--json"]);
        self.place(&mut command);
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// What the daemon has written into the API about its node; null: nothing.
    fn enforcer_node(&self) -> Value {
        let text = self.kubectl(&["get", "enforcernode", "node1", "--ignore-not-found", "--output=json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A field of an object of the API.
    fn field(&self, object: &[&str], path: &str) -> String {
        self.kubectl(&[&["get"], object, &[&format!("--output=jsonpath={{{path}}}")]].concat())
    }

    fn policies_in_force(&self) -> String {
        let mut command = Command::new(binary());
        command.args(["status", "--policies"]);
        self.place(&mut command);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    fn explain(&self) -> String {
        let mut command = Command::new(binary());
        command.args(["explain", "--from", "shop/web", "--to", "shop/db", "--port", &format!("{PORT}/tcp")]);
        self.place(&mut command);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    fn part(&self, action: &str, part: &str) {
        said(xtask(&[action, "--name", &self.name, part]));
    }
}

fn network_policy(name: &str, ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "annotations": {
            "config.kubernetes.io/origin": "path: apps/db.yaml\nrepo: https://git.example/shop\n",
        }},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

fn flow_policy(allow: &Value) -> Value {
    json!({
        "apiVersion": "enforcer.dev/v1alpha1", "kind": "FlowPolicy",
        "metadata": {"name": "flow", "namespace": "shop"},
        "spec": {"workloads": {"app": "db"}, "isolate": ["ingress"], "allow": allow},
    })
}

/// A rule that the schema takes, and the agents refuse: no schema sees that the network has host bits.
fn refused() -> Value {
    json!([{"from": [{"cidr": "10.1.2.3/8"}]}])
}

/// The definition of a kind that a cluster gets from us.
fn crd(plural: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/base/crds/{plural}.yaml"));
    file.to_string_lossy().into_owned()
}

#[test]
fn policies_of_a_real_api_server_are_in_force_while_it_is_there_and_while_it_is_away() {
    if !nix::unistd::geteuid().is_root() {
        let skips = std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1");
        assert!(skips, "this test makes a cluster: it needs root; ENFORCER_SKIP_PRIV=1 skips it");
        println!("SKIPPED: needs root for a cluster, and ENFORCER_SKIP_PRIV=1 is set");
        return;
    }
    let ground = Ground::new();
    let (db, web) = (ground.address("db"), ground.address("web"));
    let becomes = |what: &str, answers: bool| {
        until(what, || ground.answers(&db, &web), |answered| *answered == answers);
    };
    let report = |field: &str| ground.status()["report"][field].clone();
    let reported = |field: &str, text: &str| {
        until(text, || report(field), |value| value.to_string().contains(text));
    };
    becomes("the pod answers while nothing enforces", true);

    // Nothing is there yet but the pods: no CRD, no policy.
    let daemon = ground.daemon();
    reported("missing_sources", "install its CRD");
    becomes("no policy isolates", true);
    ground.apply(&network_policy("db", &json!([])));
    becomes("an applied policy isolates", false);
    ground.apply(&network_policy("db", &json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])));
    becomes("a changed policy allows", true);
    let explained = until("the rule", || ground.explain(), |text| text.contains("ALLOWED"));
    let place = "networkpolicy/shop/db spec.ingress[0] (from \"apps/db.yaml in https://git.example/shop\")";
    assert!(explained.contains(place), "{explained}");
    ground.kubectl(&["--namespace=shop", "delete", "networkpolicy", "db"]);
    until("a deleted policy is gone", || report("policy_count"), |count| *count == 0);
    assert!(ground.answers(&db, &web));

    // A first version that is refused isolates; a good one takes its place; a later refused one changes nothing.
    ground.kubectl(&["apply", "--filename", &crd("flowpolicies")]);
    ground.kubectl(&["apply", "--filename", &crd("enforcernodes")]);
    ground.kubectl(&["wait", "--for=condition=Established", "crd/flowpolicies.enforcer.dev"]);
    ground.apply(&flow_policy(&refused()));
    becomes("a refused policy isolates what it selects", false);
    reported("policy_error", "flowpolicy/shop/flow spec.allow[0].from[0].cidr");
    ground.apply(&flow_policy(&json!([{"from": "anywhere", "ports": [format!("{PORT}/tcp")]}])));
    becomes("the corrected policy allows", true);
    until("the error goes", || report("policy_error"), Value::is_null);
    ground.apply(&flow_policy(&json!([])));
    becomes("a policy without rules", false);
    ground.apply(&flow_policy(&refused()));
    reported("policy_error", "the last good version of this object stays in force");
    assert!(!ground.answers(&db, &web));

    // The API server is away: what it said stays in force, also for a daemon that starts then.
    ground.part("stop", "control/kube-apiserver");
    reported("stale_sources", "NetworkPolicy");
    assert!(!ground.answers(&db, &web));
    assert!(daemon.terminate().success());
    let daemon = ground.daemon();
    reported("stale_sources", "FlowPolicy");
    until("the kept policy", || report("policy_count"), |count| *count == 1);
    for _ in 0..5 {
        assert!(!ground.answers(&db, &web), "nothing has opened");
        sleep(Duration::from_secs(1));
    }
    ground.part("start", "control/kube-apiserver");
    until("the API is heard", || report("stale_sources"), |stale| *stale == json!([]));
    reported("policy_error", "the last good version of this object stays in force");
    assert!(!ground.answers(&db, &web));

    // The object of the node says so as well, a little later.
    let in_api = |pointer: &str| ground.enforcer_node().pointer(pointer).cloned().unwrap_or_default();
    until(
        "the error",
        || in_api("/status/lastError"),
        |error| error.to_string().contains("flowpolicy/shop/flow spec.allow[0].from[0].cidr"),
    );
    assert_eq!(in_api("/status/ready"), true);
    assert_eq!(in_api("/metadata/ownerReferences/0/uid"), ground.field(&["node", "node1"], ".metadata.uid"));
    let policy = ["--namespace=shop", "flowpolicy", "flow"];
    let refused = ground.field(&policy, ".metadata.resourceVersion");
    let before = in_api("/status/policies/0/resourceVersion");
    assert!(before.is_string() && before != refused, "{before} is in force, and {refused} is refused");
    ground.apply(&flow_policy(&json!([{"from": [{"workloads": {"app": "web"}}]}])));
    becomes("a policy that was applied after it came back", true);
    ground.kubectl(&["--namespace=shop", "annotate", "flowpolicy", "flow", "team=shop"]);
    let version = ground.field(&policy, ".metadata.resourceVersion");
    until("the version", || in_api("/status/policies/0/resourceVersion"), |found| *found == version.as_str());
    assert_eq!(in_api("/status/policies").as_array().map(Vec::len), Some(1));
    assert_eq!(in_api("/status/lastError"), Value::Null);
    let listed = ground.policies_in_force();
    assert!(listed.contains(&version) && listed.contains("FlowPolicy") && listed.contains("in force"), "{listed}");
    drop(daemon);
}

/// A thousand policies of a real API server, applied while the daemon runs.
#[test]
fn a_thousand_policies_come_and_go() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1"), "this test needs root");
        return;
    }
    let ground = Ground::new();
    let _daemon = ground.daemon();
    let count = || ground.status()["report"]["policy_count"].clone();
    let items: Vec<Value> = (0..1_000).map(|number| network_policy(&format!("p{number}"), &json!([]))).collect();
    ground.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
    let begin = Instant::now();
    until("all of them", count, |count| *count == 1_000);
    println!("1,000 policies: in force {:?} after kubectl came back", begin.elapsed());
    assert!(!ground.answers(&ground.address("db"), &ground.address("web")));
    // One request for all of them: kubectl's own way asks for each of them and takes minutes.
    ground.kubectl(&["delete", "--raw", "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"]);
    until("none", count, |count| *count == 0);
    assert!(ground.answers(&ground.address("db"), &ground.address("web")));
}
