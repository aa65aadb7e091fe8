//! Policies of a real API server in force on real pods: applied, changed, refused, deleted, and what happens while the API
//! server is away.
//!
//! The pods' names come from an inventory here, so that nothing but the policies depends on the API.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::cluster::ground::{Ground, NODE};
use enforcer_tests::cluster::{errors, is_privileged, pod, until};
use enforcer_tests::daemon::Daemon;
use serde_json::{Value, json};

/// The port on which pods answer.
const PORT: u16 = 8080;
/// The file of the site with the pods' names.
const INVENTORY: &str = "w.inventory.yaml";

/// A cluster of one node with the pods `web` and `db` in the namespace `shop`, whose names an inventory tells the daemon.
struct Shop(Ground);

impl Deref for Shop {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.0
    }
}

impl Shop {
    fn new() -> Self {
        let shop = Self(Ground::new("policies", &["--nodes", "1", "--cni", "ptp"]));
        for name in ["web", "db"] {
            shop.cluster.apply(&pod(&shop.cluster, "shop", name, name, NODE, PORT));
        }
        let workloads: Vec<Value> = ["web", "db"]
            .map(|pod| {
                let address = until("the address", || shop.address(pod), |address| !address.is_empty());
                json!({"name": pod, "namespace": "shop", "labels": {"app": pod}, "match": {"address": address}})
            })
            .into();
        fs::write(shop.site.file(INVENTORY), json!({"workloads": workloads}).to_string()).unwrap();
        shop
    }

    fn address(&self, pod: &str) -> String {
        self.cluster.addresses("shop", pod).into_iter().next().unwrap_or_default()
    }

    /// Whether `db` answers to `web`. The API server is not needed for it.
    fn answers(&self, db: &str, web: &str) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{db}/{PORT}");
        let output = self.cluster.in_pod(NODE, web, &["timeout", "2", "bash", "-c", &connect]).output().unwrap();
        assert_ne!(output.status.code(), Some(9), "{web} has no namespace: {}", errors(&output));
        output.status.success()
    }

    fn daemon(&self) -> Daemon {
        self.0.daemon("--inventory", INVENTORY)
    }

    /// What the daemon has written into the API about its node; null: nothing.
    fn enforcer_node(&self) -> Value {
        let text = self.cluster.kubectl(&["get", "enforcernode", "node1", "--ignore-not-found", "--output=json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A field of an object of the API.
    fn field(&self, object: &[&str], path: &str) -> String {
        self.cluster.kubectl(&[&["get"], object, &[&format!("--output=jsonpath={{{path}}}")]].concat())
    }

    fn policies_in_force(&self) -> String {
        String::from_utf8_lossy(&self.command(&["status", "--policies"]).output().unwrap().stdout).into_owned()
    }

    fn explain(&self) -> String {
        let port = format!("{PORT}/tcp");
        let output =
            self.command(&["explain", "--from", "shop/web", "--to", "shop/db", "--port", &port]).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
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
    if !is_privileged() {
        return;
    }
    let ground = Shop::new();
    let (db, web) = (ground.address("db"), ground.address("web"));
    let becomes = |what: &str, answers: bool| {
        until(what, || ground.answers(&db, &web), |answered| *answered == answers);
    };
    let report = |field: &str| ground.report()[field].clone();
    let reported = |field: &str, text: &str| {
        until(text, || report(field), |value| value.to_string().contains(text));
    };
    becomes("the pod answers while nothing enforces", true);

    // Nothing is there yet but the pods: no CRD, no policy.
    let daemon = ground.daemon();
    reported("missing_sources", "install its CRD");
    becomes("no policy isolates", true);
    ground.cluster.apply(&network_policy("db", &json!([])));
    becomes("an applied policy isolates", false);
    ground.cluster.apply(&network_policy("db", &json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])));
    becomes("a changed policy allows", true);
    let explained = until("the rule", || ground.explain(), |text| text.contains("ALLOWED"));
    let place = "networkpolicy/shop/db spec.ingress[0] (from \"apps/db.yaml in https://git.example/shop\")";
    assert!(explained.contains(place), "{explained}");
    ground.cluster.kubectl(&["--namespace=shop", "delete", "networkpolicy", "db"]);
    until("a deleted policy is gone", || report("policy_count"), |count| *count == 0);
    assert!(ground.answers(&db, &web));

    // A first version that is refused isolates; a good one takes its place; a later refused one changes nothing.
    ground.cluster.kubectl(&["apply", "--filename", &crd("flowpolicies")]);
    ground.cluster.kubectl(&["apply", "--filename", &crd("enforcernodes")]);
    ground.cluster.kubectl(&["wait", "--for=condition=Established", "crd/flowpolicies.enforcer.dev"]);
    ground.cluster.apply(&flow_policy(&refused()));
    becomes("a refused policy isolates what it selects", false);
    reported("policy_error", "flowpolicy/shop/flow spec.allow[0].from[0].cidr");
    ground.cluster.apply(&flow_policy(&json!([{"from": "anywhere", "ports": [format!("{PORT}/tcp")]}])));
    becomes("the corrected policy allows", true);
    until("the error goes", || report("policy_error"), Value::is_null);
    ground.cluster.apply(&flow_policy(&json!([])));
    becomes("a policy without rules", false);
    ground.cluster.apply(&flow_policy(&refused()));
    reported("policy_error", "the last good version of this object stays in force");
    assert!(!ground.answers(&db, &web));

    // The API server is away: what it said stays in force, also for a daemon that starts then.
    ground.cluster.stop("control/kube-apiserver");
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
    ground.cluster.restart("control/kube-apiserver");
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
    let generation = || serde_json::from_str::<Value>(&ground.field(&policy, ".metadata.generation")).unwrap();
    let (before, refused) = (in_api("/status/policies/0/generation"), in_api("/status/refused/0"));
    assert!(before.is_u64() && before != generation(), "{before} is in force");
    assert_eq!(refused["generation"], generation(), "the newest is refused");
    assert_eq!(refused["instead"], "LastGood");
    assert!(
        refused["error"].as_str().unwrap().contains("flowpolicy/shop/flow spec.allow[0].from[0].cidr"),
        "{refused}"
    );
    ground.cluster.apply(&flow_policy(&json!([{"from": [{"workloads": {"app": "web"}}]}])));
    becomes("a policy that was applied after it came back", true);
    until("the version", || in_api("/status/policies/0/generation"), |found| *found == generation());
    assert_eq!(in_api("/status/policies/0/uid"), ground.field(&policy, ".metadata.uid"));
    assert_eq!(in_api("/status/refused"), json!([]));
    assert_eq!(in_api("/status/policies").as_array().map(Vec::len), Some(1));
    assert_eq!(in_api("/status/lastError"), Value::Null);
    let listed = ground.policies_in_force();
    assert!(
        listed.contains(&format!("generation {}", generation()))
            && listed.contains("FlowPolicy")
            && listed.contains("in force"),
        "{listed}"
    );
    drop(daemon);
}

/// A thousand policies of a real API server, applied while the daemon runs.
#[test]
fn a_thousand_policies_come_and_go() {
    if !is_privileged() {
        return;
    }
    let ground = Shop::new();
    let _daemon = ground.daemon();
    let count = || ground.report()["policy_count"].clone();
    let items: Vec<Value> = (0..1_000).map(|number| network_policy(&format!("p{number}"), &json!([]))).collect();
    ground.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
    let begin = Instant::now();
    until("all of them", count, |count| *count == 1_000);
    println!("1,000 policies: in force {:?} after kubectl came back", begin.elapsed());
    assert!(!ground.answers(&ground.address("db"), &ground.address("web")));
    // One request for all of them: kubectl's own way asks for each of them and takes minutes.
    ground.cluster.kubectl(&["delete", "--raw", "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"]);
    until("none", count, |count| *count == 0);
    assert!(ground.answers(&ground.address("db"), &ground.address("web")));
}
