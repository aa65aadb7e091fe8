//! `cargo xtask cluster` as a developer and the tests of tier 3 use it: clusters that work, beside each other, and that leave
//! nothing on the machine, however they end.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step ends the test, and says how far it came")]

mod agent;
mod changes;
mod deploy;
mod first_policy;
mod gitops;
mod kills;
mod live;
mod probes;
mod render;
mod rig;
mod told;
mod traffic;
mod uninstall;

use std::{fs, os::unix::fs::PermissionsExt, os::unix::fs::symlink, path::Path};

use enforcer_tests::cluster;
use serde_json::{Value, json};

use rig::{Cluster, errors, is_privileged, namespaces, said, still_used, xtask};

/// Port of the pods.
const PORT: u16 = 8080;

/// A pod on a node that tells its name to whoever asks.
fn pod(cluster: &cluster::Cluster, name: &str, node: &str) {
    let mut object = cluster::pod(cluster, "default", name, name, node, PORT);
    let probe = json!({"httpGet": {"path": "/hostname", "port": PORT}, "periodSeconds": 1});
    object["spec"]["containers"][0]["readinessProbe"] = probe;
    cluster.apply(&object);
}

/// A Service in front of one pod, with an address of each of the families.
fn service(cluster: &Cluster, pod: &str, families: &[&str]) {
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": pod},
        "spec": {
            "selector": {"app": pod},
            "ports": [{"port": 80, "targetPort": PORT}],
            "ipFamilyPolicy": if families.len() == 2 { "RequireDualStack" } else { "SingleStack" },
            "ipFamilies": families,
        },
    }));
}

/// Makes these pods on these nodes. Each reaches the others and itself, by pod address and through a Service, in each family.
fn pods_reach_each_other(cluster: &Cluster, pods: &[(&str, &str)], families: &[&str]) {
    for (name, node) in pods {
        pod(cluster, name, node);
        service(cluster, name, families);
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    for (to, node) in pods {
        let seen = cluster.object("pod", to);
        assert_eq!(seen["spec"]["nodeName"], *node, "{to}");
        let addresses = list(&seen["status"]["podIPs"], "/ip");
        let services = list(&cluster.object("service", to)["spec"]["clusterIPs"], "");
        assert_eq!((addresses.len(), services.len()), (families.len(), families.len()), "{addresses:?} {services:?}");
        for (from, _) in pods {
            for address in &addresses {
                assert_eq!(cluster.ask(from, address, PORT).as_deref(), Some(*to), "{from} asks {address}");
            }
            for service in &services {
                cluster.ask_until(from, service, 80, to);
            }
        }
    }
}

fn list(values: &Value, pointer: &str) -> Vec<String> {
    let values = values.as_array().unwrap().iter();
    values.map(|value| value.pointer(pointer).unwrap().as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_clusters_work_beside_each_other_and_each_leaves_nothing_behind() {
    if !is_privileged() {
        return;
    }
    let (routed, bridged) = (Cluster::named("routed"), Cluster::named("bridged"));
    routed.up(&["--cni", "ptp", "--proxy", "nftables"]);
    bridged.up(&["--cni", "bridge", "--proxy", "iptables"]);
    // Two on one node: a Service whose pod is a neighbour on the same bridge takes another way than any other.
    let pods = [("a", "node1"), ("b", "node1"), ("c", "node2")];
    pods_reach_each_other(&routed, &pods, &["IPv4", "IPv6"]);
    pods_reach_each_other(&bridged, &pods, &["IPv4", "IPv6"]);
    assert_eq!(namespaces(&routed).intersection(&namespaces(&bridged)).count(), 0);

    let was = namespaces(&routed);
    // The control plane, two nodes, and three pods, each in a network of its own.
    assert!(was.iter().filter(|namespace| namespace.starts_with("net:")).count() >= 6, "{was:?}");
    routed.down();
    routed.assert_gone();
    assert_eq!(still_used(&was), [].into(), "namespaces that some process keeps");

    let service = list(&bridged.object("service", "c")["spec"]["clusterIPs"], "").remove(0);
    assert_eq!(bridged.ask("a", &service, 80).as_deref(), Some("c"), "the other cluster goes on");
    let state = bridged.state();
    for part in state["parts"].as_array().unwrap() {
        assert_eq!(part["alive"], true, "{part}");
    }
    bridged.down();
    bridged.assert_gone();
}

#[test]
fn a_cluster_of_one_family_works() {
    if !is_privileged() {
        return;
    }
    for (family, name) in [("ipv6", "IPv6"), ("ipv4", "IPv4")] {
        let cluster = Cluster::named(family);
        cluster.up(&["--nodes", "1", "--family", family]);
        pods_reach_each_other(&cluster, &[("a", "node1"), ("b", "node1")], &[name]);
        cluster.down();
        cluster.assert_gone();
    }
}

#[test]
fn parts_are_stopped_and_started_again() {
    if !is_privileged() {
        return;
    }
    let cluster = Cluster::named("parts");
    cluster.up(&["--nodes", "1"]);
    let name = ["--name", &cluster.name];
    let alive = |part: &str| {
        let state = cluster.state();
        let parts = state["parts"].as_array().unwrap();
        parts.iter().find(|value| value["name"] == part).unwrap()["alive"] == true
    };
    for part in ["control/kube-apiserver", "node1/kubelet", "node1/kube-proxy", "node1/containerd"] {
        assert!(alive(part), "{part}");
        said(xtask(&[&["stop", part], &name[..]].concat()));
        assert!(!alive(part), "{part} was stopped");
        said(xtask(&[&["start", part], &name[..]].concat()));
        assert!(alive(part), "{part} was started");
    }
    let hostname = said(xtask(&[&["exec"], &name[..], &["node1", "cat", "/proc/sys/kernel/hostname"]].concat()));
    assert_eq!(hostname.trim(), "node1");
    let refused = xtask(&[&["stop", "node9/kubelet"], &name[..]].concat()).output().unwrap();
    assert!(errors(&refused).contains("has no part node9/kubelet, but "), "{}", errors(&refused));
    cluster.down();
    cluster.assert_gone();
}

#[test]
fn a_start_that_is_killed_leaves_nothing_after_down_and_does_not_stop_the_next_start() {
    if !is_privileged() {
        return;
    }
    let cluster = Cluster::named("killed");
    // While the members are made, while the control plane starts, and while the nodes start.
    for parts in [0, 1, 3, 5, 8] {
        cluster.kill_start(&["--nodes", "2"], parts);
        assert_ne!(cluster.traces(), [].into(), "the positive control: {parts} parts were there");
        cluster.down();
        cluster.assert_gone();
    }
    cluster.kill_start(&["--nodes", "1"], 4);
    cluster.up(&["--nodes", "1"]);
    cluster.down();
    cluster.assert_gone();
}

#[test]
fn down_ends_a_start_that_goes_on() {
    if !is_privileged() {
        return;
    }
    let cluster = Cluster::named("ended");
    for parts in [0, 4] {
        let mut start = cluster.start_until(&["--nodes", "2"], parts);
        let second = cluster.start(&[]).output().unwrap();
        assert!(errors(&second).contains("another command is changing the cluster"), "{}", errors(&second));
        cluster.down();
        assert!(!start.wait().unwrap().success(), "its cluster was removed");
        cluster.assert_gone();
    }
}

#[test]
fn a_start_that_fails_shows_the_log_of_the_part_and_leaves_nothing() {
    if !is_privileged() {
        return;
    }
    let built = said(xtask(&["build"]));
    let built = Path::new(built.trim().rsplit(' ').next().unwrap());
    // The same build with a scheduler that gives up.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join(built.file_name().unwrap());
    fs::create_dir_all(copy.join("bin")).unwrap();
    symlink(built.join("images.tar"), copy.join("images.tar")).unwrap();
    for program in fs::read_dir(built.join("bin")).unwrap().flatten() {
        symlink(program.path(), copy.join("bin").join(program.file_name())).unwrap();
    }
    let scheduler = copy.join("bin/kube-scheduler");
    fs::remove_file(&scheduler).unwrap();
    fs::write(&scheduler, "#!/bin/sh\necho no plan for today\nexit 3\n").unwrap();
    fs::set_permissions(&scheduler, fs::Permissions::from_mode(0o755)).unwrap();

    let cluster = Cluster::named("failing");
    let output = cluster.start(&["--nodes", "1"]).env("ENFORCER_CLUSTER_CACHE", elsewhere.path()).output().unwrap();
    let said = errors(&output);
    assert!(!output.status.success());
    assert!(said.contains("control/kube-scheduler has ended") && said.contains("no plan for today"), "{said}");
    cluster.assert_gone();
}

#[test]
fn down_does_nothing_where_there_is_no_cluster() {
    if !is_privileged() {
        return;
    }
    let cluster = Cluster::named("missing");
    cluster.down();
    cluster.assert_gone();
    let refused = xtask(&["kubectl", "--name", &cluster.name, "get", "nodes"]).output().unwrap();
    assert!(errors(&refused).contains(&format!("run `cargo xtask cluster up --name {}`", cluster.name)));
}
