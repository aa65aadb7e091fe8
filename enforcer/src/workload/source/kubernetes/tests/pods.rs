//! Tests of what is kept of one pod.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Api, NODE, ip, kept, pod, shown, status};

#[test]
fn a_pod_of_this_node_and_one_of_another() {
    let mut api = Api::new();
    api.apply(&pod("web", NODE, &["10.0.1.2", "fd00::2"]));
    api.apply(&pod("db", "node2", &["10.0.2.2"]));
    let state = api.state();
    assert_eq!(shown(&state), ["shop/web {10.0.1.2, fd00::2} here", "shop/db {10.0.2.2} elsewhere"]);
    assert_eq!(state.namespaces["shop"]["team"], "a");
    let web = &state.statements[0];
    assert_eq!((web.by.as_str(), web.object.as_str()), ("pod shop/web", "pod web-uid"));
    assert_eq!(web.labels.single().unwrap()["app"], "web");
}

#[test]
fn a_pod_without_a_node_or_an_address_is_no_peer() {
    let mut api = Api::new();
    api.apply(&pod("starts", NODE, &[]));
    api.apply(&pod("far", "node2", &[]));
    let mut pending = pod("pending", "", &[]);
    pending["spec"].as_object_mut().unwrap().remove("nodeName");
    api.apply(&pending);
    assert_eq!(shown(&api.state()), ["shop/starts {} here"], "it keeps what it had, once it had something");
}

#[test]
fn addresses_that_no_pod_can_have_are_left_out() {
    let mut api = Api::new();
    api.apply(&pod("web", NODE, &["127.0.0.1", "0.0.0.0", "::ffff:10.0.0.1", "x", "224.0.0.1", "10.0.1.2"]));
    assert_eq!(shown(&api.state()), ["shop/web {10.0.1.2} here"]);
    // A server that fills in the older field alone.
    let mut old = pod("web", NODE, &["10.0.1.3"]);
    old["status"].as_object_mut().unwrap().remove("podIPs");
    api.apply(&old);
    assert_eq!(shown(&api.state()), ["shop/web {10.0.1.3} here"]);
}

/// D6.
#[test]
fn a_pod_in_the_network_of_its_node_is_the_node() {
    let mut api = Api::new();
    for (name, node, address) in [("proxy", NODE, "192.0.2.1"), ("proxy2", "node2", "192.0.2.2")] {
        let mut host = pod(name, node, &[address]);
        host["spec"]["hostNetwork"] = json!(true);
        api.apply(&host);
    }
    let state = api.state();
    assert_eq!(shown(&state), Vec::<String>::new());
    let nodes: Vec<String> = state.nodes.iter().map(|(address, node)| format!("{address} {node}")).collect();
    assert_eq!(nodes, ["192.0.2.1 node1", "192.0.2.2 node2"]);
}

/// N25.
#[test]
fn a_pod_stays_until_nothing_of_it_runs() {
    let running = json!({"running": {}});
    let ended = json!({"terminated": {"exitCode": 0}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let with = |phase: &str, leaving: bool, kinds: &[(&str, &[&Value])]| {
        let mut pod = pod("web", NODE, &["10.0.1.2"]);
        pod["status"]["phase"] = json!(phase);
        if leaving {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        pod["status"].as_object_mut().unwrap().remove("containerStatuses");
        for (kind, states) in kinds {
            pod["status"][*kind] = states.iter().map(|state| status(state)).collect();
        }
        pod
    };
    let (main, init, debug) = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses");
    for (pod, expected) in [
        (with("Running", false, &[(main, &[&running])]), "here"),
        (with("Running", true, &[(main, &[&running, &ended])]), "here, leaving"),
        (with("Running", true, &[(main, &[&ended]), (init, &[&running])]), "here, leaving"),
        (with("Running", true, &[(main, &[&ended]), (debug, &[&running])]), "here, leaving"),
        (with("Running", true, &[(main, &[&ended, &json!({})])]), "here, leaving"),
        (with("Running", true, &[]), "here, leaving"),
        (with("Running", true, &[(main, &[&ended, &waiting]), (init, &[&ended])]), ""),
        // Between two runs of its containers.
        (with("Running", false, &[(main, &[&waiting])]), "here"),
        (with("Running", false, &[(main, &[&ended])]), "here"),
        (with("Succeeded", false, &[(main, &[&ended])]), ""),
        (with("Failed", false, &[(main, &[&ended])]), ""),
        (with("Failed", true, &[(main, &[&running])]), ""),
    ] {
        let mut api = Api::new();
        api.apply(&pod);
        let expected: Vec<String> = Some(expected)
            .filter(|place| !place.is_empty())
            .map(|place| format!("shop/web {{10.0.1.2}} {place}"))
            .into_iter()
            .collect();
        assert_eq!(shown(&api.state()), expected, "{pod}");
    }
}

#[test]
fn named_ports_are_those_of_containers_and_of_sidecars() {
    let port = |name: Option<&str>, number: i32, protocol: Option<&str>| {
        let mut port = json!({"containerPort": number});
        if let Some(name) = name {
            port["name"] = json!(name);
        }
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    };
    let mut web = pod("web", NODE, &["10.0.1.2"]);
    web["spec"]["containers"] = json!([
        {"name": "a", "ports": [port(Some("http"), 8080, None), port(Some("dns"), 53, Some("UDP")), port(None, 9, None)]},
        {"name": "b", "ports": [
            port(Some("http"), 9090, None),
            port(Some("dns"), 53, Some("TCP")),
            port(Some("odd"), 70000, None),
            port(Some("new"), 1, Some("QUIC")),
        ]},
    ]);
    web["spec"]["initContainers"] = json!([
        {"name": "proxy", "restartPolicy": "Always", "ports": [port(Some("mesh"), 15001, Some("SCTP"))]},
        {"name": "setup", "ports": [port(Some("setup"), 1234, None)]},
    ]);
    let mut api = Api::new();
    api.apply(&web);
    let ports: BTreeMap<String, Vec<(u8, u16)>> = api
        .said()
        .ports
        .into_iter()
        .map(|(name, numbers)| (name, numbers.into_iter().map(|port| (port.protocol, port.port)).collect()))
        .collect();
    let expected = [("dns", vec![(6, 53), (17, 53)]), ("http", vec![(6, 8080)]), ("mesh", vec![(132, 15001)])];
    assert_eq!(ports, expected.map(|(name, numbers)| (name.to_owned(), numbers)).into());
}

#[test]
fn the_object_of_a_static_pod_is_the_pod_that_runs_and_not_its_mirror() {
    let mut api = Api::new();
    let mut mirror = pod("etcd-node1", NODE, &["10.0.1.9"]);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    api.apply(&mirror);
    let before = api.said().object;
    mirror["metadata"]["uid"] = json!("made-again");
    api.apply(&mirror);
    assert_eq!(api.said().object, before);
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "def"});
    api.apply(&mirror);
    assert_ne!(api.said().object, before, "another manifest is another pod");
}

/// A pod with as many and as long labels as a person may think of.
#[test]
fn sixty_four_labels_of_full_length_are_kept_whole() {
    let labels: BTreeMap<String, String> = (0..64)
        .map(|n| (format!("{}/{n:02}{}", "p".repeat(253), "k".repeat(61)), format!("{n:02}{}", "v".repeat(61))))
        .collect();
    let mut web = pod("web", NODE, &["10.0.1.2"]);
    web["metadata"]["labels"] = json!(labels);
    let mut api = Api::new();
    api.apply(&web);
    assert_eq!(api.said().labels.single(), Some(&labels));
    let kept = api.state().kept.unwrap();
    let mut later = super::super::kept::read(&kept).unwrap();
    assert_eq!(later.state(kept::text).statements[0].labels.single(), Some(&labels));
}

#[test]
fn a_node_has_its_addresses_and_not_its_names() {
    let mut api = Api::new();
    api.node(
        "node2",
        &json!([
            {"type": "InternalIP", "address": "192.0.2.2"},
            {"type": "InternalIP", "address": "2001:db8::2"},
            {"type": "ExternalIP", "address": "203.0.113.2"},
            {"type": "Hostname", "address": "node2"},
            {"type": "InternalDNS", "address": "198.51.100.1"},
        ]),
    );
    let nodes = api.state().nodes;
    assert_eq!(nodes.keys().copied().collect::<Vec<_>>(), ["192.0.2.2", "203.0.113.2", "2001:db8::2"].map(ip));
}
