//! Running goes on, and what is forbidden does not arrive, while all agents are replaced one after the other and while the API
//! server is away. The evidence is what the server behind the policy has logged, by the nonce of each attempt.

use std::{collections::BTreeSet, io::Write, process::Stdio, thread::sleep, time::Duration};

use enforcer_tests::cluster::{Cluster, said, until};
use serde_json::Value;

use crate::{
    PORT,
    agent::db_policy,
    deploy::NAMESPACE,
    pod,
    traffic::{ATTEMPTS, CONNECTION, CONNECTIONS, Running},
};

/// Attempts of each kind that a claim rests on.
pub(crate) const ENOUGH: usize = 20;
/// Where the program is in the image.
const PROGRAM: &str = "/enforcer";

/// The pods `web`, `guest` and `db` are there, and `db` lets in `web` alone.
pub(crate) fn restarts_open_nothing_and_cut_nothing(cluster: &Cluster) {
    // A neighbour of `db`, since guest comes from the other node.
    pod(cluster, "near", "node2");
    cluster.wait_for_pods("default");
    let first = |name: &str| cluster.addresses("default", name).remove(0);
    let senders = [("node1", first("guest")), ("node2", first("near"))];
    let db = cluster.addresses("default", "db");
    let attempts = |tag: &str| -> Vec<Running> {
        let each = senders.iter().enumerate().flat_map(|(number, (node, from))| {
            let numbered = db.iter().enumerate();
            numbered.map(move |(family, to)| (*node, from, to, format!("{tag}-{number}-{family}")))
        });
        each.map(|(node, from, to, tag)| Running::script(cluster, node, from, ATTEMPTS, to, &tag)).collect()
    };

    // The positive control: without the policy every kind of attempt arrives from every sender.
    cluster.kubectl(&["delete", "networkpolicy", "db"]);
    let control = attempts("control");
    for (sender, family, kind) in kinds() {
        let tag = format!("control-{sender}-{family}-{kind}-");
        until(&tag, || arrived(cluster, &tag).len(), |count| *count >= 3);
    }
    drop(control);
    cluster.apply(&db_policy());
    for address in &db {
        until("isolation", || cluster.ask("guest", address, PORT), Option::is_none);
        until("isolation", || cluster.ask("near", address, PORT), Option::is_none);
    }

    let web = first("web");
    let mut allowed: Vec<Running> = db
        .iter()
        .flat_map(|to| [(CONNECTION, "kept"), (CONNECTIONS, "new")].map(|(script, tag)| (to, script, tag)))
        .map(|(to, script, tag)| Running::script(cluster, "node1", &web, script, to, tag))
        .collect();
    let forbidden = attempts("forbidden");
    enough(&allowed);

    rolling_restart(cluster);
    go_on(&mut allowed);
    without_api(cluster, &db, &mut allowed);
    // Behind that: a kubelet that has just started does not know its pods before the API server has answered, and starts none again.
    for part in ["node1/kubelet", "node2/kubelet", "node1/kube-proxy", "node2/kube-proxy"] {
        cluster.stop(part);
        cluster.restart(part);
    }
    go_on(&mut allowed);

    // Also to say what a pod has logged.
    until("the log of db", || cluster.try_kubectl(&["logs", "db"]).is_ok(), |is_there| *is_there);
    enough(&forbidden);
    println!("steps of what is allowed: {:?}", allowed.iter().map(Running::lines).collect::<Vec<_>>());
    println!("steps of what is forbidden: {:?}", forbidden.iter().map(Running::lines).collect::<Vec<_>>());
    assert_eq!(arrived(cluster, "forbidden-"), [].into(), "attempts that the policy forbids have arrived");
}

/// Each sender, family and kind of attempt.
fn kinds() -> impl Iterator<Item = (usize, usize, &'static str)> {
    (0..2).flat_map(|sender| (0..2).flat_map(move |family| ["udp", "tcp"].map(move |kind| (sender, family, kind))))
}

/// Nonces with this beginning that `db` has heard.
pub(crate) fn arrived(cluster: &Cluster, tag: &str) -> BTreeSet<String> {
    nonces(&cluster.kubectl(&["logs", "db"]), tag)
}

/// Nonces with this beginning in a log.
pub(crate) fn nonces(log: &str, tag: &str) -> BTreeSet<String> {
    let words = log.split([' ', '=', '&', '\n']).filter(|word| word.starts_with(tag));
    words.map(str::to_owned).collect()
}

pub(crate) fn enough(traffic: &[Running]) {
    let least = || traffic.iter().map(Running::lines).min().unwrap();
    until("enough traffic", least, |steps| *steps >= ENOUGH);
}

/// Every connection is there, and has carried more than before.
pub(crate) fn go_on(allowed: &mut [Running]) {
    let before: Vec<usize> = allowed.iter().map(Running::lines).collect();
    for (traffic, before) in allowed.iter_mut().zip(before) {
        let lines = || {
            traffic.assert_goes_on();
            traffic.lines()
        };
        until("an answer", lines, |now| *now > before + 3);
    }
}

/// Unique ids of the agents' pods.
fn agents(cluster: &Cluster) -> BTreeSet<String> {
    let ids = "--output=jsonpath={.items[*].metadata.uid}";
    let text = cluster.kubectl(&[
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app.kubernetes.io/component=agent",
        ids,
    ]);
    text.split_whitespace().map(str::to_owned).collect()
}

fn rolling_restart(cluster: &Cluster) {
    let before = agents(cluster);
    assert_eq!(before.len(), 2, "{before:?}");
    let of_set = |action: &str| -> String {
        let set = ["daemonset/enforcer-agent"];
        cluster.kubectl(&[&["--namespace", NAMESPACE, "rollout", action], &set[..]].concat())
    };
    of_set("restart");
    println!("{}", of_set("status").trim());
    assert_eq!(agents(cluster).intersection(&before).count(), 0, "both agents were replaced");
}

/// A pod that starts while nobody can say whose it is gets nothing, not even what its labels would allow.
fn without_api(cluster: &Cluster, db: &[String], allowed: &mut [Running]) {
    let known = networks(cluster, "node2");
    cluster.stop("control/kube-apiserver");
    // The kubelet runs what lies in this directory without an API server.
    let mut late = enforcer_tests::cluster::pod(cluster, "default", "late", "web", "node2", PORT);
    late["spec"]["nodeSelector"] = Value::Null;
    let mut write = cluster.on("node2", &["tee", "/etc/kubernetes/manifests/late.json"]);
    let mut child = write.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(late.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let new = || networks(cluster, "node2").difference(&known).next().cloned();
    let address = until("the pod's address", new, Option::is_some).unwrap();

    let unnamed: Vec<Running> =
        db.iter().map(|to| Running::script(cluster, "node2", &address, ATTEMPTS, to, "unnamed")).collect();
    enough(&unnamed);
    go_on(allowed);
    // An agent that starts now goes on from the state that the one before it kept.
    let killed = agent(cluster, "node2", "kill -9");
    assert_eq!(killed.lines().count(), 1, "{killed:?}");
    until("another agent", || agent(cluster, "node2", ":"), |now| !now.is_empty() && *now != killed);
    sleep(Duration::from_secs(10));
    go_on(allowed);
    drop(unnamed);

    cluster.restart("control/kube-apiserver");
    until("the API server", || cluster.try_kubectl(&["get", "--raw", "/readyz"]).is_ok(), |ready| *ready);
    assert_eq!(arrived(cluster, "unnamed-"), [].into(), "a pod without a name was let in");
    // The positive control: as soon as the API says that it is one of `web`, it is let in.
    let named: Vec<Running> = (0_u8..)
        .zip(db)
        .map(|(family, to)| Running::script(cluster, "node2", &address, ATTEMPTS, to, &format!("named-{family}")))
        .collect();
    for family in 0..2 {
        until("the named pod", || arrived(cluster, &format!("named-{family}-tcp-")).len(), |count| *count >= 3);
    }
    drop(named);
    cluster.on("node2", &["rm", "/etc/kubernetes/manifests/late.json"]).status().unwrap();
}

/// Does this to the agent of a node, and tells its process. No other cluster has the node's network.
fn agent(cluster: &Cluster, node: &str, command: &str) -> String {
    let find = format!(
        "own=$(readlink /proc/self/ns/net); for p in /proc/[0-9]*; do \
         if [ \"$(readlink $p/ns/net)\" = \"$own\" ] && [ \"$(readlink $p/exe)\" = {PROGRAM} ]; then \
         {command} ${{p#/proc/}} && echo $p; fi; done"
    );
    said(cluster.on(node, &["bash", "-c", &find]))
}

/// IPv4 addresses of the pods of a node, as their networks show them.
fn networks(cluster: &Cluster, node: &str) -> BTreeSet<String> {
    let list = "for n in $(ls /run/netns); do ip netns exec $n ip -o -4 addr show dev eth0; done";
    let output = cluster.on(node, &["bash", "-c", list]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
    words.map(str::to_owned).collect()
}
