//! The agent in a cluster, installed as a user installs it: pods can do what its policies let them.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use enforcer_tests::cluster::agents;
use serde_json::{Value, json};

use crate::{
    PORT, changes,
    deploy::image,
    first_policy, kills, list, live, pod, probes,
    rig::{Cluster, is_privileged, said, xtask},
    told,
};

/// How long a change may take until every node enforces it, on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// A cluster of two nodes whose agents are ready.
pub(crate) fn with_agents(name: &str) -> Cluster {
    let place = tempfile::tempdir().unwrap();
    let archive = image(place.path(), "enforcer.tar");
    let cluster = Cluster::named(name);
    cluster.up(&["--nodes", "2"]);
    agents::install(&cluster, &archive);
    cluster
}

/// `db` lets in `web` alone.
pub(crate) fn db_policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                "ports": [{"port": PORT}],
            }],
        },
    })
}

/// Lines of the node's flow log.
fn flows(cluster: &Cluster, node: &str) -> Vec<Value> {
    let text = said(xtask(&["exec", "--name", &cluster.name, node, "cat", "/var/log/enforcer/flows.json"]));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_network_policy_cuts_a_pod_off_and_the_flow_log_names_both_pods_and_the_policy() {
    if !is_privileged() {
        return;
    }
    let cluster = with_agents("agents");
    for (name, node) in [("web", "node1"), ("guest", "node1"), ("db", "node2")] {
        pod(&cluster, name, node);
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s"]);
    let addresses = list(&cluster.object("pod", "db")["status"]["podIPs"], "/ip");
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in &addresses {
        // Nothing isolates the pods yet.
        cluster.ask_until("web", address, PORT, "db");
        cluster.ask_until("guest", address, PORT, "db");
    }

    cluster.apply(&db_policy());
    for address in &addresses {
        let end = Instant::now() + BOUND;
        while cluster.ask("guest", address, PORT).is_some() {
            assert!(Instant::now() < end, "db still answers guest at {address}");
            sleep(Duration::from_millis(200));
        }
        assert_eq!(cluster.ask("web", address, PORT).as_deref(), Some("db"), "the policy names web");
    }
    let end = Instant::now() + BOUND;
    let of = |flow: &Value, end: &str, name: &str| flow[end]["namespace"] == "default" && flow[end]["pod_name"] == name;
    let is_denied = |line: &Value| {
        let flow = &line["flow"];
        flow["verdict"] == "DROPPED"
            && of(flow, "source", "guest")
            && of(flow, "destination", "db")
            && flow["policy_log"].to_string().contains("networkpolicy/default/db")
    };
    while !flows(&cluster, "node2").iter().any(is_denied) {
        assert!(Instant::now() < end, "no line names guest, db and the policy: {:#?}", flows(&cluster, "node2"));
        sleep(Duration::from_millis(200));
    }
    // A pod that is ready again and again passes its probes: the node reaches its pods.
    assert_eq!(cluster.object("pod", "db")["status"]["containerStatuses"][0]["restartCount"], 0);

    // The same cluster, because a start of another takes minutes of CI's time with the image.
    told::by_the_status_of_a_policy(&cluster);
    probes::pass_where_everything_is_denied(&cluster);
    live::restarts_open_nothing_and_cut_nothing(&cluster);
    kills::open_nothing_and_cut_nothing(&cluster);
    changes::open_nothing_and_cut_nothing(&cluster);
    first_policy::is_made_as_the_page_says(&cluster);
    cluster.down();
    cluster.assert_gone();
}
