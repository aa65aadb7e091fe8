//! Pods of a real API server as workloads: joined to their veths with routed and with bridged networks, cut off by a policy and
//! named in the flow log, over label changes, a hostile neighbour, restarts, and an API server that is away.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step ends the test, and says how far it came")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Deref;
use std::thread::sleep;
use std::time::Duration;

use enforcer_tests::cluster::ground::{Ground, NODE};
use enforcer_tests::cluster::{is_privileged, pod, until};
use enforcer_tests::daemon::Daemon;
use serde_json::{Value, json};

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

/// The cluster with the policies in a file, and what the test asks it.
struct Shop(Ground);

impl Deref for Shop {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.0
    }
}

impl Shop {
    fn new(cni: &str) -> Self {
        // Each with another way to translate the addresses of Services.
        let proxy = if cni == "bridge" { "iptables" } else { "nftables" };
        let options = ["--nodes", "2", "--cni", cni, "--family", "dual", "--proxy", proxy];
        let ground = Ground::new(&format!("pods-{cni}"), &options);
        fs::create_dir(ground.site.file("policies")).unwrap();
        fs::write(ground.site.file("policies").join("shop.yaml"), POLICIES).unwrap();
        Self(ground)
    }

    /// A pod that answers with its name.
    fn pod(&self, name: &str, app: &str, node: &str, is_host: bool) {
        let port = if is_host { PORT + 1 } else { PORT };
        let mut object = pod(&self.cluster, "shop", name, app, node, port);
        object["spec"]["hostNetwork"] = is_host.into();
        self.cluster.apply(&object);
    }

    /// A Service of both families in front of the pods with a label, and its addresses.
    fn service(&self, name: &str, key: &str, value: &str) -> Vec<String> {
        self.cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "selector": {key: value},
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": PORT, "targetPort": PORT}],
            },
        }));
        let get = ["--namespace=shop", "get", "service", name, "--output=jsonpath={.spec.clusterIPs[*]}"];
        let text = self.cluster.kubectl(&get);
        text.split(' ').map(str::to_owned).collect()
    }

    fn wait_for_pods(&self) {
        self.cluster.wait_for_pods("shop");
    }

    fn addresses(&self, pod: &str) -> Vec<String> {
        self.cluster.addresses("shop", pod)
    }

    /// Which of these addresses answer to a pod.
    fn answers(&self, from: &str, to: &[String]) -> Vec<bool> {
        self.0.answers(from, to, PORT)
    }

    fn daemon(&self) -> Daemon {
        self.0.daemon("--policies", "policies")
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
    let ground = Shop::new(cni);
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
    ground.cluster.kubectl(&["--namespace=shop", "label", "pod", "far", "app=web", "--overwrite"]);
    until("a peer with the label", || ground.answers("far", &db), |answers| *answers == all);
    ground.cluster.kubectl(&["--namespace=shop", "label", "pod", "far", "app=other", "--overwrite"]);
    until("a peer without it", || ground.answers("far", &db), |answers| *answers == none);
    let named = |from: &str| ground.denied().iter().any(|(src, dst)| src.contains(from) && dst.contains("db"));
    until("both in the flow log", || (named("other"), named("far")), |both| *both == (true, true));

    // A neighbour puts on the address of `web`, and takes off its own.
    let (web, other) = (ground.addresses("web"), ground.addresses("other"));
    let put_on = ["ip", "address", "add", &format!("{}/32", web[0]), "dev", "eth0"];
    let put_on = ground.cluster.in_pod(NODE, &other[0], &put_on).output().unwrap();
    assert!(put_on.status.success(), "{put_on:?}");
    sleep(Duration::from_secs(3));
    ground.becomes(&["db", "web", "other", "late"]);
    assert!(daemon.terminate().success());
    daemon = ground.daemon();
    ground.becomes(&["db", "web", "other", "late"]);
    assert_eq!((ground.answers("web", &db), ground.answers("other", &db)), (all.into(), none.into()));
    println!("{cni}: a neighbour with the address of another has gained nothing");

    // A pod comes back under its name.
    ground.cluster.kubectl(&["--namespace=shop", "delete", "pod", "web"]);
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
fn services(ground: &Shop, cni: &str) {
    ground.cluster.kubectl(&["--namespace=shop", "label", "pod", "late", "role=caller"]);
    ground.cluster.kubectl(&["--namespace=shop", "label", "pod", "db", "far", "tier=back"]);
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
        rounds.map(|address| ground.cluster.ask_from("shop", "late", address, PORT)).collect()
    };
    let both: BTreeSet<Option<String>> = ["db", "far"].map(|name| Some(name.to_owned())).into();
    until("positive control: both are behind it", || who(6), |answers| *answers == both);
    ground.cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "caller", "namespace": "shop"},
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
        let only: BTreeSet<Option<String>> = [Some("db".to_owned()), None].into();
        // A first segment that is denied leaves no connection in the kernel, so the next one may be given the other backend, and
        // the caller hears nothing of the first.
        let mut answers = BTreeSet::new();
        for _ in 0..10 {
            answers.extend(who(6));
            if answers.len() >= only.len() {
                break;
            }
        }
        assert_eq!(answers, only, "kube-proxy {proxy}: one backend is allowed, and one is not");
        if proxy == "runs" {
            ground.cluster.stop("node1/kube-proxy");
        }
    }
    ground.cluster.restart("node1/kube-proxy");
    let named = || ground.denied().iter().any(|(src, dst)| src.contains("late") && dst.contains("far"));
    until("the flow log names the backend", named, |named| *named);
    ground.cluster.kubectl(&["--namespace=shop", "delete", "networkpolicy", "caller"]);
    println!("{cni}: a Service is judged by its backends");
}

/// What holds stays, and a daemon that starts goes on from it.
fn ground_without_api(ground: &Shop, daemon: Daemon, db: &[String]) {
    let expected = ground.workloads();
    ground.cluster.stop("control/kube-apiserver");
    let is_told = |report: &Value| report["findings"].to_string().contains("the Kubernetes API cannot be read");
    until("a note", || ground.report(), is_told);
    assert!(daemon.terminate().success());
    let _daemon = ground.daemon();
    until("the same workloads", || ground.workloads(), |now| *now == expected);
    until("a note", || ground.report(), is_told);
    ground.cluster.restart("control/kube-apiserver");
    until("no note", || ground.report(), |report| !is_told(report));
    assert_eq!(ground.workloads(), expected);
    assert_eq!((ground.answers("late", db), ground.answers("other", db)), (vec![true; 2], vec![false; 2]));
}
