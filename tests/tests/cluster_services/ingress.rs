//! Who may be reached: a pod that is isolated for ingress, called on each way by pods, by both nodes and from outside. What counts
//! is the source that the packet carries when it comes to the pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use enforcer_tests::cluster::arrivals::Listeners;
use enforcer_tests::cluster::places::{Attempt, Place};
use serde_json::{Value, json};

use crate::scene::{CALLED, PORTS, Scene, Service, attempts, blocks, gateways};

/// Who is called.
const VICTIM: &str = "good-near";

/// The address that is called.
#[derive(Clone, Copy)]
enum Way {
    /// That of a Service.
    Service,
    /// A NodePort of this node.
    Node(&'static str),
    /// One whose `externalTrafficPolicy` is `Local`, at the victim's node.
    Local,
}

/// Whom the victim takes for the sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    /// The sender.
    Sender,
    /// A node, which has masqueraded the packet or has sent it itself.
    Node,
    /// The victim's own node, which sends itself and is always let in (N18).
    OwnNode,
}

const WAYS: [(&str, Way, Source); 15] = [
    ("web", Way::Service, Source::Sender),
    ("web-far", Way::Service, Source::Sender),
    ("bad-near", Way::Service, Source::Sender),
    ("bad-far", Way::Service, Source::Sender),
    // A pod that reaches itself (C14).
    (VICTIM, Way::Service, Source::Node),
    ("web", Way::Node("node1"), Source::Node),
    ("web-far", Way::Node("node1"), Source::Node),
    ("web", Way::Local, Source::Sender),
    ("node1", Way::Service, Source::OwnNode),
    ("node1", Way::Node("node1"), Source::OwnNode),
    ("node2", Way::Service, Source::Node),
    ("node2", Way::Node("node1"), Source::Node),
    ("control", Way::Node("node1"), Source::Node),
    ("control", Way::Node("node2"), Source::Node),
    ("control", Way::Local, Source::Sender),
];

/// The table.
pub(crate) fn rows(scene: &Scene) {
    let victim = scene.place(VICTIM);
    let listeners = Listeners::start([(victim, &PORTS[..1])]);
    let service = |name: &str, traffic: &str| {
        let spec = json!({"type": "NodePort", "externalTrafficPolicy": traffic, "selector": {"name": VICTIM}});
        scene.service(name, &spec)
    };
    let (plain, local) = (service("victim", "Cluster"), service("victim-local", "Local"));
    let nodes: BTreeSet<IpAddr> =
        ["node1", "node2"].iter().flat_map(|node| scene.of_node(node)).chain(gateways()).collect();
    let outside = blocks(scene.place("control").addresses.iter().copied());
    let web = json!([{"podSelector": {"matchLabels": {"app": "web"}}}]);
    let policies =
        [("isolated", json!([])), ("web", web), ("the outside", outside), ("the nodes", blocks(nodes.clone()))];

    let _daemons = scene.daemons(false);
    scene.policy(&Value::Null);
    let of_way = |(from, way, source): (&str, Way, Source), arrives: bool| -> Vec<(Attempt<'_>, Source)> {
        let from: &Place = scene.place(from);
        let at_node = |service: &Service, node: &str| {
            attempts(from, &scene.of_node(node), |protocol| service.node_port(protocol), arrives)
        };
        let all = match way {
            Way::Service => attempts(from, &plain.addresses(), |_| CALLED, arrives),
            Way::Node(node) => at_node(&plain, node),
            Way::Local => at_node(&local, "node1"),
        };
        all.into_iter().map(|attempt| (attempt, source)).collect()
    };
    let control: Vec<_> = WAYS.into_iter().flat_map(|way| of_way(way, true)).collect();
    let sent: Vec<Attempt<'_>> = control.iter().map(|(attempt, _)| *attempt).collect();
    for ((attempt, source), arrival) in control.iter().zip(listeners.check("positive control", &sent)) {
        let from = arrival.unwrap().from;
        let is_sender = attempt.from.addresses.contains(&from);
        let is_node = nodes.contains(&from);
        let seen = if *source == Source::Sender { is_sender } else { is_node };
        assert!(seen, "{attempt}: the victim sees {from}, and this is {source:?}");
    }

    for (allowed, peers) in policies {
        let rules = if allowed == "isolated" { json!([]) } else { json!([{"from": peers}]) };
        let select = json!({"matchLabels": {"name": VICTIM}});
        scene.policy(&json!({"podSelector": select, "policyTypes": ["Ingress"], "ingress": rules}));
        let each = WAYS.into_iter().flat_map(|(from, way, source)| {
            let arrives = match (source, allowed) {
                (Source::OwnNode, _) | (Source::Node, "the nodes") => true,
                (Source::Sender, "web") => from.starts_with("web"),
                (Source::Sender, "the outside") => from == "control",
                _ => false,
            };
            of_way((from, way, source), arrives)
        });
        let all: Vec<Attempt<'_>> = each.map(|(attempt, _)| attempt).collect();
        listeners.check(&format!("policy allows {allowed}"), &all);
    }
}
