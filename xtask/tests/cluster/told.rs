//! The authors of `FlowPolicies` are told what the agents say: by the controllers that the manifests install, with the rights that
//! these give them, also after the one that writes was killed.

use std::{fs, process::Command};

use enforcer_tests::cluster::{Cluster, said, until};
use serde_json::{Value, json};

use crate::deploy::NAMESPACE;

/// Where the policies are.
const SHOP: &str = "told";

/// Two nodes have agents.
pub(crate) fn by_the_status_of_a_policy(cluster: &Cluster) {
    let rollout = ["rollout", "status", "deployment/enforcer-controller", "--timeout=60s"];
    cluster.kubectl(&[&["--namespace", NAMESPACE], &rollout[..]].concat());
    cluster.kubectl(&["create", "namespace", SHOP]);
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        policy("good", "10.0.0.0/8"),
        // No schema sees that the network has host bits.
        policy("refused", "10.1.2.3/8"),
    ]}));
    // As Flux, Argo CD and people wait.
    cluster.kubectl(&["--namespace", SHOP, "wait", "--for=condition=Ready", "flowpolicy/good", "--timeout=60s"]);
    assert_eq!(told(cluster, "good"), ["Accepted=True", "Enforced=True", "Ready=True", "Stalled=False", "2/2", "of 1"]);
    let status = until(
        "the refusal on both nodes",
        || status(cluster, "refused"),
        |status| message(status, "Enforced").starts_with("refused on 2 of 2 nodes"),
    );
    let why = message(&status, "Accepted");
    assert!(
        why.contains("refused on node1, node2: ") && why.contains("flowpolicy/told/refused spec.allow[0]"),
        "{why}"
    );
    let conditions = ["Accepted=False", "Enforced=False", "Ready=False", "Stalled=True", "0/2", "of 1"];
    assert_eq!(told(cluster, "refused"), conditions);
    let line = cluster.kubectl(&["--namespace", SHOP, "get", "flowpolicy", "good", "--no-headers"]);
    assert!(line.split_whitespace().collect::<Vec<_>>().windows(3).any(|cells| cells == ["True", "2", "2"]), "{line}");

    until("an Event", || events(cluster, SHOP), |events| events.iter().any(|event| event == "refused Refused"));
    only_of_its_own_pods(cluster);

    // An agent hears of nothing more, and nobody is left to write but the other controller.
    let agent = process_of(cluster, "agent", |pod| pod["spec"]["nodeName"] == "node2");
    signal("STOP", &agent);
    let leader = holder(cluster);
    signal("KILL", &process_of(cluster, "controller", |pod| leader.starts_with(&name(pod))));
    cluster.apply(&policy("good", "192.168.0.0/16"));
    let lags = |status: &Value| message(status, "Enforced") == "not in force on 1 of 2 nodes: node2";
    until("the node that lags", || self::status(cluster, "good"), lags);
    assert_ne!(holder(cluster), leader, "another one writes");
    assert_eq!(
        told(cluster, "good"),
        ["Accepted=True", "Enforced=False", "Ready=False", "Stalled=False", "1/2", "of 2"]
    );
    signal("CONT", &agent);
    let all = ["Accepted=True", "Enforced=True", "Ready=True", "Stalled=False", "2/2", "of 2"];
    until("both nodes again", || told(cluster, "good"), |told| *told == all);
    cluster.kubectl(&["delete", "namespace", SHOP, "--wait=false"]);
}

/// A node that names pods of another one gets no Event on them written.
fn only_of_its_own_pods(cluster: &Cluster) {
    // The agent says something else about its node with its next writing.
    let unmanaged = json!([{"reason": "NoVeth", "count": 2, "pods": ["default/db", "default/web"]}]);
    let patch = json!({"status": {"unmanagedPods": unmanaged}}).to_string();
    cluster.kubectl(&["patch", "enforcernode", "node1", "--type=merge", "--patch", &patch]);
    let is_web = |event: &String| event == "web NotEnforced";
    let events = until("an Event on a pod", || events(cluster, "default"), |events| events.iter().any(is_web));
    assert!(!events.iter().any(|event| event == "db NotEnforced"), "db is on node2: {events:?}");
}

/// Name and reason of the controllers' Events.
fn events(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let get = ["get", "events", "--field-selector=source=enforcer-controller"];
    let line = r#"--output=jsonpath={range .items[*]}{.involvedObject.name} {.reason}{"\n"}{end}"#;
    let text = cluster.kubectl(&[&["--namespace", namespace], &get[..], &[line]].concat());
    text.lines().map(str::to_owned).collect()
}

/// A policy that selects no pod of any test.
fn policy(name: &str, network: &str) -> Value {
    json!({
        "apiVersion": "enforcer.dev/v1alpha1", "kind": "FlowPolicy",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {"isolate": ["ingress"], "allow": [{"from": [{"cidr": network}]}]},
    })
}

fn status(cluster: &Cluster, name: &str) -> Value {
    let get = ["--namespace", SHOP, "get", "flowpolicy", name, "--output=json"];
    let object: Value = serde_json::from_str(&cluster.kubectl(&get)).unwrap();
    object["status"].clone()
}

/// What a status says, in short.
fn told(cluster: &Cluster, name: &str) -> Vec<String> {
    let status = status(cluster, name);
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut words: Vec<String> =
        conditions.map(|one| format!("{}={}", word(&one["type"]), word(&one["status"]))).collect();
    words.push(format!("{}/{}", status["nodesProgrammed"], status["nodesTotal"]));
    words.push(format!("of {}", status["observedGeneration"]));
    words
}

/// The message of a condition; empty without it.
fn message(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned()
}

/// Who holds the Lease of the controllers.
fn holder(cluster: &Cluster) -> String {
    let get = ["get", "lease", "enforcer-controller", "--output=jsonpath={.spec.holderIdentity}"];
    cluster.kubectl(&[&["--namespace", NAMESPACE], &get[..]].concat())
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// The process of the one pod of this component that is wanted.
fn process_of(cluster: &Cluster, component: &str, wanted: impl Fn(&Value) -> bool) -> String {
    let selector = format!("--selector=app.kubernetes.io/component={component}");
    let pods = cluster.kubectl(&["--namespace", NAMESPACE, "get", "pods", &selector, "--output=json"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let found: Vec<&Value> = pods["items"].as_array().unwrap().iter().filter(|pod| wanted(pod)).collect();
    let [pod] = found[..] else { panic!("{} pods of {component}", found.len()) };
    let container = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let container = container.trim_start_matches("containerd://");
    assert!(container.len() > 32, "{container}");
    let is_its = |process: &str| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        read("comm").trim() == "enforcer" && read("cgroup").contains(container)
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: Vec<String> =
        processes.filter(|name| name.chars().all(|c| c.is_ascii_digit())).filter(|name| is_its(name)).collect();
    let [process] = &found[..] else { panic!("{found:?} are processes of {}", name(pod)) };
    process.clone()
}

/// Sends a signal to a process.
pub(crate) fn signal(signal: &str, process: &str) {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{signal}")).arg(process);
    said(kill);
}
