//! The rows of the public NetworkPolicy suite on the cluster: every pair of its pods, by the pod's address and through a Service, in
//! both families. The suite itself calls Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use enforcer_tests::cluster::api::Api;
use enforcer_tests::cluster::arrivals::Listeners;
use enforcer_tests::cluster::places::{Attempt, Place, Protocol};
use enforcer_tests::cluster::{Cluster, pod, until};
use enforcer_tests::suite::{NAMESPACES, PODS, PORTS, PROBES, Probe, Row, relabelled, rows as all_rows};
use serde_json::{Value, json};

use crate::scene::Scene;

/// Where each of the pods `a`, `b` and `c` is, so that every kind of pair is there.
pub(crate) const NODES: [&str; 3] = ["node1", "node2", "node1"];

fn pods() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    NAMESPACES
        .into_iter()
        .flat_map(|namespace| PODS.into_iter().zip(NODES).map(move |(name, node)| (namespace, name, node)))
}

/// Makes the suite's pods, each with a Service of its name.
pub(crate) fn create(api: &Api, cluster: &Cluster) {
    let protocols = ["TCP", "UDP"];
    for namespace in NAMESPACES {
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}));
    }
    for (namespace, name, node) in pods() {
        let each = || protocols.into_iter().flat_map(|protocol| PORTS.map(|port| (port, protocol)));
        let served: Value = each()
            .map(|(port, protocol)| {
                let named = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({"name": named, "containerPort": port, "protocol": protocol})
            })
            .collect();
        let mut object = pod(cluster, namespace, name, name, node, PORTS[0]);
        object["metadata"]["labels"] = json!({"pod": name});
        object["spec"]["containers"][0]["args"] = json!(["pause"]);
        object["spec"]["containers"][0]["ports"] = served;
        api.create(&format!("/api/v1/namespaces/{namespace}/pods"), &object);
        let ports: Value = each()
            .map(|(port, protocol)| {
                let named = format!("{}-{port}", protocol.to_lowercase());
                json!({"name": named, "port": port, "protocol": protocol})
            })
            .collect();
        let spec = json!({"selector": {"pod": name}, "ipFamilyPolicy": "RequireDualStack", "ports": ports});
        api.create(
            &format!("/api/v1/namespaces/{namespace}/services"),
            &json!({"metadata": {"name": name}, "spec": spec}),
        );
    }
}

/// A pod of the suite, and what leads to it.
struct Target {
    place: Place,
    addresses: Vec<IpAddr>,
}

/// Every row without SCTP, which kube-proxy translates as well but not every kernel has.
pub(crate) fn rows(scene: &Scene) {
    let cluster = &scene.ground.cluster;
    let target = |(namespace, name, node)| {
        let mut place = Place::pod(cluster, node, namespace, name);
        place.name = format!("{namespace}/{name}");
        let service = scene.api.ask("GET", &format!("/api/v1/namespaces/{namespace}/services/{name}"), &Value::Null);
        let of_service = service["spec"]["clusterIPs"].as_array().unwrap().iter();
        let of_service = of_service.map(|address| address.as_str().unwrap().parse().unwrap());
        let addresses = place.addresses.iter().copied().chain(of_service).collect();
        (place.name.clone(), Target { place, addresses })
    };
    let targets: BTreeMap<String, Target> = pods().map(target).collect();
    let listeners = Listeners::start(targets.values().map(|target| (&target.place, &PORTS[..])));
    let _daemons = scene.daemons(true);
    // What the rows before have left.
    scene.policy(&Value::Null);
    let all = ["80/tcp", "81/tcp", "80/udp", "81/udp"].map(|port| Probe(0, 0, port, &[], &[]));
    listeners.check("positive control", &attempts(&targets, &all));

    let (mut steps, mut count) = (0, 0);
    for row in all_rows() {
        let probes: Vec<Probe> =
            PROBES.into_iter().filter(|probe| probe.0 == row.number && !probe.2.ends_with("sctp")).collect();
        for step in 0..=probes.iter().map(|probe| probe.1).max().unwrap_or_default() {
            let probes: Vec<Probe> = probes.iter().copied().filter(|probe| probe.1 == step).collect();
            let attempts = attempts(&targets, &probes);
            if attempts.is_empty() {
                continue;
            }
            let what = format!("row {} step {step}: {}", row.number, row.title);
            if step < row.steps.len() {
                apply(scene, &targets, &row, step);
            } else {
                relabel(scene, &row, step);
                // No version tells when a label counts.
                let wanted: Vec<bool> = attempts.iter().map(|attempt| attempt.arrives).collect();
                until(&what, || listeners.round(&attempts), |arrived| *arrived == wanted);
            }
            listeners.check(&what, &attempts);
            (steps, count) = (steps + 1, count + attempts.len());
        }
    }
    println!("{steps} policy sets, {count} attempts, and what none of them allows has not arrived");
    assert!(steps >= 50, "{steps} policy sets");
}

/// Puts the policies of a step in the place of those before.
fn apply(scene: &Scene, targets: &BTreeMap<String, Target>, row: &Row, step: usize) {
    let path = |namespace: &str| format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    for namespace in NAMESPACES {
        scene.api.ask("DELETE", &path(namespace), &Value::Null);
    }
    let mut text = row.steps[step].network_policies.clone();
    let places = || {
        pods().enumerate().map(|(place, (namespace, name, _))| (place, &targets[&format!("{namespace}/{name}")].place))
    };
    for (place, pod) in places() {
        text = text.replace(&format!("10.20.{}.{}/", place / 3 + 1, place % 3 + 1), &format!("{}/", pod.address(true)));
    }
    let objects: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
    let versions: Vec<String> = objects
        .into_iter()
        .map(|mut object| {
            both_families(&mut object, &|v4| {
                places().find(|(_, pod)| pod.address(true).to_string() == v4).unwrap().1.address(false).to_string()
            });
            let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
            scene.api.create(&path(&namespace), &object)
        })
        .collect();
    scene.in_force(&versions);
}

/// The rows name IPv4 addresses alone: beside each such block stands one that says the same of IPv6.
fn both_families(policy: &mut Value, other: &impl Fn(&str) -> String) {
    let sides = [("ingress", "from"), ("egress", "to")];
    for (rules, peers) in sides {
        for rule in policy["spec"].get_mut(rules).and_then(Value::as_array_mut).into_iter().flatten() {
            let blocks: Vec<Value> =
                rule[peers].as_array().into_iter().flatten().map(|peer| peer["ipBlock"].clone()).collect();
            for block in blocks.iter().filter(|block| block.is_object()) {
                let v6 = |text: &Value| other(text.as_str().unwrap().trim_end_matches("/32")) + "/128";
                let twin = if block["cidr"].as_str().unwrap().ends_with("/32") {
                    json!({"cidr": v6(&block["cidr"])})
                } else {
                    let except: Vec<String> = block["except"].as_array().unwrap().iter().map(v6).collect();
                    json!({"cidr": "fd78::/16", "except": except})
                };
                rule[peers].as_array_mut().unwrap().push(json!({"ipBlock": twin}));
            }
        }
    }
}

fn relabel(scene: &Scene, row: &Row, step: usize) {
    for label in relabelled(row.number, step) {
        let path = match label.pod {
            Some(pod) => format!("/api/v1/namespaces/{}/pods/{pod}", label.namespace),
            None => format!("/api/v1/namespaces/{}", label.namespace),
        };
        scene.api.ask("PATCH", &path, &json!({"metadata": {"labels": {label.key: label.value}}}));
    }
}

/// Each pair of pods, in both families, by address and through a Service.
fn attempts<'a>(targets: &'a BTreeMap<String, Target>, probes: &[Probe]) -> Vec<Attempt<'a>> {
    let pairs =
        targets.iter().flat_map(|from| targets.iter().filter(move |to| to.0 != from.0).map(move |to| (from, to)));
    let mut all = Vec::new();
    for ((from, sender), (to, target)) in pairs {
        for probe in probes {
            let (port, protocol) = probe.2.split_once('/').unwrap();
            let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
            let port = port.parse().unwrap();
            all.extend(target.addresses.iter().map(|address| Attempt {
                from: &sender.place,
                to: SocketAddr::new(*address, port),
                protocol,
                arrives: probe.passes(from, to),
                at: Some(to),
            }));
        }
    }
    all
}
