//! Agents that come and go, on one cluster: what each may write, what stays when they are deleted, and what takes it off.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use enforcer_tests::cluster::until;
use serde_json::{Value, json};

use crate::{
    PORT,
    agent::with_agents,
    deploy::{NAMESPACE, root},
    list, pod,
    rig::{Cluster, is_privileged, said, xtask},
};

/// How long a change may take until every node enforces it, on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

const NODES: [&str; 2] = ["node1", "node2"];

/// Where Enforcer has something on a node.
const PLACES: [&str; 3] = ["/sys/fs/bpf/enforcer", "/run/enforcer", "/var/log/enforcer"];

#[test]
fn deleted_agents_leave_enforcement_on_until_deploy_uninstall_or_helm_takes_it_off() {
    if !is_privileged() {
        return;
    }
    let cluster = with_agents("uninstall");
    an_agent_writes_of_its_own_node_alone(&cluster);

    // One on each node, so that both nodes enforce.
    pod(&cluster, "a", "node1");
    pod(&cluster, "b", "node2");
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let address = |name: &str| list(&cluster.object("pod", name)["status"]["podIPs"], "/ip")[0].clone();
    let ways = [("a", "b", address("b")), ("b", "a", address("a"))];
    until_open(&cluster, &ways);
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }));
    until_closed(&cluster, &ways);
    let mut installed = NODES.map(|node| Installed::on(&cluster, node));

    let deploy = |name: &str| root().join("deploy").join(name).to_string_lossy().into_owned();
    cluster.kubectl(&["delete", "-k", &deploy("base"), "--timeout=120s"]);
    assert!(cluster.try_kubectl(&["get", "namespace", NAMESPACE]).is_err(), "the agents are gone");
    for (from, to, address) in &ways {
        assert_eq!(cluster.ask(from, address, PORT), None, "{to} is open without an agent");
    }

    cluster.kubectl(&["apply", "-k", &deploy("uninstall")]);
    until_purged(&cluster, &installed);
    until_open(&cluster, &ways);
    cluster.kubectl(&["delete", "-k", &deploy("uninstall"), "--timeout=120s"]);

    let helm = |arguments: &[&str]| {
        said(xtask(&[&["helm", "--name", &cluster.name, "--"], arguments, &["--namespace", "kube-system"]].concat()))
    };
    let chart = deploy("helm/enforcer");
    let notes = helm(&["install", "enforcer", &chart, "--set", "uninstall.purge=true", "--wait", "--timeout", "120s"]);
    assert!(notes.contains("takes enforcement off the nodes"), "{notes}");
    until_closed(&cluster, &ways);
    installed = NODES.map(|node| Installed::on(&cluster, node));
    helm(&["uninstall", "enforcer"]);
    until_purged(&cluster, &installed);
    until_open(&cluster, &ways);
    cluster.down();
    cluster.assert_gone();
}

fn until_open(cluster: &Cluster, ways: &[(&str, &str, String)]) {
    for (from, to, address) in ways {
        cluster.ask_until(from, address, PORT, to);
    }
}

fn until_closed(cluster: &Cluster, ways: &[(&str, &str, String)]) {
    for (from, to, address) in ways {
        let end = Instant::now() + BOUND;
        while cluster.ask(from, address, PORT).is_some() {
            assert!(Instant::now() < end, "{to} still answers {from}");
            sleep(Duration::from_millis(200));
        }
    }
}

/// Waits until the pods say that their nodes are free of it, and looks.
fn until_purged(cluster: &Cluster, installed: &[Installed]) {
    let rollout = ["rollout", "status", "daemonset/enforcer-purge", "--timeout=120s"];
    let asked = cluster.try_kubectl(&[&["--namespace", "enforcer-uninstall"], &rollout[..]].concat());
    if let Err(said) = asked {
        let logs = ["logs", "--selector=app.kubernetes.io/component=purge", "--all-containers", "--prefix"];
        let logs = cluster.try_kubectl(&[&["--namespace", "enforcer-uninstall"], &logs[..]].concat());
        panic!("{said}\n{}", logs.unwrap_or_else(|said| said));
    }
    for node in installed {
        node.assert_gone(cluster);
    }
}

/// What Enforcer has on a node.
struct Installed {
    node: &'static str,
    /// Numbers of its programs, which no other program gets until the machine starts again.
    programs: BTreeSet<u64>,
}

impl Installed {
    fn on(cluster: &Cluster, node: &'static str) -> Self {
        let each = "for program in /sys/fs/bpf/enforcer/*/programs/*/*; do bpftool -j prog show pinned $program; done";
        let programs = said(exec(cluster, node, &["sh", "-c", each]));
        let programs = programs.lines().map(|line| number(&serde_json::from_str(line).unwrap(), "id"));
        let installed = Self { node, programs: programs.collect() };
        assert_eq!(installed.places(cluster), PLACES, "{node}");
        assert_eq!(installed.loaded(cluster), installed.programs, "{node}");
        let links = listed(cluster, node, "link");
        let attached = links.iter().filter(|link| installed.programs.contains(&number(link, "prog_id"))).count();
        assert!(attached >= 3, "{node} has {attached} links: two for a pod, and those of its other devices");
        installed
    }

    fn assert_gone(&self, cluster: &Cluster) {
        assert_eq!(self.places(cluster), [""; 0], "{}", self.node);
        // The kernel frees them a moment after their last pin.
        until(self.node, || self.loaded(cluster), BTreeSet::is_empty);
    }

    /// Those of the places that are there.
    fn places(&self, cluster: &Cluster) -> Vec<&'static str> {
        let exists = |path: &str| exec(cluster, self.node, &["test", "-e", path]).status().unwrap().success();
        PLACES.into_iter().filter(|path| exists(path)).collect()
    }

    /// Those of the programs that the kernel has.
    fn loaded(&self, cluster: &Cluster) -> BTreeSet<u64> {
        let all = listed(cluster, self.node, "prog").iter().map(|program| number(program, "id")).collect();
        self.programs.intersection(&all).copied().collect()
    }
}

/// Programs or links of the kernel, those of all nodes.
fn listed(cluster: &Cluster, node: &str, what: &str) -> Vec<Value> {
    serde_json::from_str(&said(exec(cluster, node, &["bpftool", "-j", what, "show"]))).unwrap()
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_default()
}

fn exec(cluster: &Cluster, node: &str, words: &[&str]) -> Command {
    xtask(&[&["exec", "--name", &cluster.name, node], words].concat())
}

/// An agent's token is good for the `EnforcerNode` of the node on which its pod runs.
fn an_agent_writes_of_its_own_node_alone(cluster: &Cluster) {
    let kind = "enforcernodes.enforcer.dev";
    if cluster.try_kubectl(&["get", "customresourcedefinition", kind]).is_err() {
        cluster.apply(&definition());
    }
    cluster.kubectl(&["wait", "--for=condition=Established", &format!("crd/{kind}"), "--timeout=60s"]);
    // More than an agent has, so that the admission alone refuses.
    let verbs = ["create", "update", "patch", "delete", "get"].join(",");
    let role = ["create", "clusterrole", "writes-nodes", "--resource", kind, "--verb", &verbs];
    cluster.kubectl(&role);
    let account = format!("--serviceaccount={NAMESPACE}:enforcer-agent");
    cluster.kubectl(&["create", "clusterrolebinding", "writes-nodes", "--clusterrole=writes-nodes", &account]);

    let token = |bound: &[&str]| {
        let create = ["--namespace", NAMESPACE, "create", "token", "enforcer-agent"];
        cluster.kubectl(&[&create[..], bound].concat()).trim().to_owned()
    };
    let of_node = |node: &str| {
        let select = format!("--field-selector=spec.nodeName={node}");
        let name = ["--namespace", NAMESPACE, "get", "pods", &select, "--output=jsonpath={.items[0].metadata.name}"];
        token(&["--bound-object-kind=Pod", "--bound-object-name", &cluster.kubectl(&name)])
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |token: &str, node: &str| {
        let object = json!({
            "apiVersion": "enforcer.dev/v1alpha1",
            "kind": "EnforcerNode",
            "metadata": {"name": node, "labels": {"written": "yes"}},
        });
        fs::write(file.path(), object.to_string()).unwrap();
        let path = file.path().to_str().unwrap();
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=test", "--filename", path];
        cluster.try_kubectl(&[&["--token", token], &apply[..]].concat())
    };
    let refused = |answer: Result<String, String>, reason: &str| {
        let said = answer.unwrap_err();
        assert!(said.contains("may write the EnforcerNode of its own node alone") && said.contains(reason), "{said}");
    };
    let [first, second] = NODES.map(of_node);
    // Made before there is one, and changed afterwards.
    for (token, other, reason) in [(&first, "node2", "runs on node1"), (&second, "node1", "runs on node2")] {
        refused(write(token, other), reason);
    }
    for (token, own) in [(&first, "node1"), (&second, "node2"), (&first, "node1")] {
        write(token, own).unwrap();
    }
    refused(write(&first, "node2"), "runs on node1");
    refused(cluster.try_kubectl(&["--token", &first, "delete", kind, "node2"]), "runs on node1");
    refused(write(&token(&[]), "node1"), "this token names no node");
    cluster.kubectl(&["--token", &first, "delete", kind, "node1"]);
    // The administrator is no agent.
    cluster.kubectl(&["delete", kind, "node2"]);
}

/// The kind, for as long as the base does not define it.
fn definition() -> Value {
    let object = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "enforcernodes.enforcer.dev"},
        "spec": {
            "group": "enforcer.dev",
            "scope": "Cluster",
            "names": {"kind": "EnforcerNode", "plural": "enforcernodes", "singular": "enforcernode"},
            "versions": [
                {"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": object}},
            ],
        },
    })
}
