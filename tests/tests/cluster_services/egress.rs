//! Who may send: each kind of Service, called by pods that are isolated for egress. Each has two Services, one with backends that
//! policy allows and one with others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use enforcer_tests::cluster::arrivals::{Arrival, Listeners};
use enforcer_tests::cluster::places::{Attempt, Place, Protocol};
use serde_json::{Value, json};

use crate::scene::{CALLED, PORTS, SHOP, Scene, Service, attempts, blocks};

/// Whose address is called.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Called {
    /// The Service's own.
    Service,
    /// One of `externalIPs`, or what a load balancer has given; the number makes it this row's.
    Outer(&'static str, u8),
    /// That of a node.
    Node(&'static str),
    /// Those of the pods behind it.
    Pods,
}

/// A kind of Service.
struct Row {
    name: &'static str,
    /// What its Services say beside the defaults.
    spec: &'static str,
    called: Called,
    /// The one backend, where only one of the backends may be reached.
    only: Option<&'static str>,
}

const fn row(name: &'static str, spec: &'static str, called: Called) -> Row {
    Row { name, spec, called, only: None }
}

const LOCAL: &str = r#"{"internalTrafficPolicy": "Local"}"#;
const AFFINITY: &str = r#"{"sessionAffinity": "ClientIP"}"#;
const NODE_PORT: &str = r#"{"type": "NodePort"}"#;
const NODE_PORT_LOCAL: &str = r#"{"type": "NodePort", "externalTrafficPolicy": "Local"}"#;
const BALANCED: &str = r#"{"type": "LoadBalancer"}"#;
/// A Service with this has no selector, and the test writes its endpoints.
const BY_HAND: &str = r#"{"selector": null}"#;

const ROWS: [Row; 12] = [
    row("plain", "{}", Called::Service),
    row("affine", AFFINITY, Called::Service),
    Row { name: "local", spec: LOCAL, called: Called::Service, only: Some("-near") },
    row("headless", r#"{"clusterIP": "None"}"#, Called::Pods),
    row("by-hand", BY_HAND, Called::Service),
    row("external", "{}", Called::Outer("externalIPs", 1)),
    row("balanced", BALANCED, Called::Outer("status", 2)),
    row("port-here", NODE_PORT, Called::Node("node1")),
    row("port-there", NODE_PORT, Called::Node("node2")),
    row("port-local", NODE_PORT_LOCAL, Called::Node("node1")),
    row("affine-port", r#"{"type": "NodePort", "sessionAffinity": "ClientIP"}"#, Called::Node("node1")),
    // A pod that reaches itself (C14).
    Row { name: "self", spec: "{}", called: Called::Service, only: Some("-self") },
];

/// What policy allows the callers: the backends that are good, and every address that is called.
const POLICIES: [(&str, bool, bool); 5] = [
    ("no policy", false, false),
    ("isolated", false, false),
    ("the backends", true, false),
    ("the addresses", false, true),
    ("both", true, true),
];

/// A row's Service with backends of one kind, and who calls it.
struct Case<'a> {
    row: &'a Row,
    is_good: bool,
    from: &'a Place,
    service: Service,
    addresses: Vec<IpAddr>,
    /// Addresses of the backend that listens at the second port.
    far: &'a [IpAddr],
}

/// The table.
pub(crate) fn rows(scene: &Scene) {
    let backends = ["good-near", "bad-near", "good-self", "bad-self"].map(|name| (scene.place(name), &PORTS[..1]));
    let far = ["good-far", "bad-far"].map(|name| (scene.place(name), &PORTS[1..]));
    let listeners = Listeners::start(backends.into_iter().chain(far));
    let cases: Vec<Case<'_>> =
        ROWS.iter().flat_map(|row| [true, false].map(|is_good| Case::new(scene, row, is_good))).collect();
    let mixed = scene.service("mixed", &json!({"selector": {"role": ""}, "sessionAffinity": "ClientIP"}));
    let web = scene.place("web");

    for judge_services in [false, true] {
        let _daemons = scene.daemons(judge_services);
        let mut stuck = None;
        for (policy, has_backends, has_addresses) in POLICIES {
            let mut rules = Vec::new();
            if has_backends {
                let peers = json!([{"podSelector": {"matchLabels": {"app": "good"}}}]);
                rules.push(json!({"to": peers, "ports": [{"port": "tcp"}, {"port": "udp", "protocol": "UDP"}]}));
            }
            if has_addresses {
                let of_pods = |case: &&Case<'_>| case.row.called != Called::Pods;
                let called = cases.iter().filter(of_pods).flat_map(|case| case.addresses.clone());
                let called: BTreeSet<IpAddr> = called.chain(mixed.addresses()).collect();
                rules.push(json!({"to": blocks(called)}));
            }
            let callers = json!({"matchLabels": {"role": "caller"}});
            let spec = json!({"podSelector": callers, "policyTypes": ["Egress"], "egress": rules});
            let is_free = policy == "no policy";
            scene.policy(if is_free { &Value::Null } else { &spec });
            let what = format!("{policy}, judge_services {judge_services}");
            let arrives = |called: Called, is_good: bool| {
                let may = match called {
                    Called::Service | Called::Outer(..) => is_good && has_backends && (has_addresses || judge_services),
                    Called::Node("node1") => is_good && has_backends && has_addresses,
                    // Another node translates it, which does not know the policy of the sender.
                    Called::Node(_) => has_addresses,
                    Called::Pods => is_good && has_backends,
                };
                is_free || may
            };
            let each = cases.iter().flat_map(|case| case.attempts(arrives(case.row.called, case.is_good)));
            // Twice, because a Service of two backends leads to one of them.
            let mut all: Vec<Attempt<'_>> = each.flat_map(|attempt| [attempt; 2]).collect();
            if is_free {
                let first = attempts(web, &mixed.addresses(), |_| CALLED, true);
                stuck = Some(affinity(&listeners, &first));
            } else if let Some(stuck) = &stuck {
                // The backend that the node has chosen for this client is one that policy allows, or nobody is reached.
                all.extend(stuck.iter().map(|(attempt, chosen)| Attempt {
                    arrives: arrives(Called::Service, true) && chosen.at.starts_with("good"),
                    at: Some("good"),
                    ..*attempt
                }));
            }
            listeners.check(&what, &all);
        }
    }
}

/// The backend of each of these: the same for each of six attempts.
fn affinity<'a>(listeners: &Listeners, first: &[Attempt<'a>]) -> Vec<(Attempt<'a>, Arrival)> {
    let whom = |attempts: &[Attempt<'a>]| listeners.check("positive control", attempts).into_iter().map(Option::unwrap);
    let chosen: Vec<(Attempt<'a>, Arrival)> = first.iter().copied().zip(whom(first)).collect();
    for _ in 0..6 {
        let again: Vec<Arrival> = whom(first).collect();
        let names = |all: &[Arrival]| all.iter().map(|one| one.at.clone()).collect::<Vec<_>>();
        let before: Vec<String> = chosen.iter().map(|(_, arrival)| arrival.at.clone()).collect();
        assert_eq!(names(&again), before, "the node keeps a client at its backend");
    }
    chosen
}

impl<'a> Case<'a> {
    fn new(scene: &'a Scene, row: &'a Row, is_good: bool) -> Self {
        let kind = if is_good { "good" } else { "bad" };
        let name = format!("{}-{kind}", row.name);
        let mut spec: Value = serde_json::from_str(row.spec).unwrap();
        let own = format!("{kind}-self");
        let from = scene.place(if row.name == "self" { &own } else { "web" });
        if row.spec != BY_HAND {
            // The callers are no backends of other rows: such a connection would not be what its row says.
            spec["selector"] = if row.name == "self" { json!({"name": own}) } else { json!({"app": kind, "role": ""}) };
        }
        let number = |number: u8| {
            [
                format!("10.80.{}.{number}", u8::from(is_good)).parse().unwrap(),
                format!("fd80::{}:{number}", u8::from(is_good)).parse::<IpAddr>().unwrap(),
            ]
        };
        if let Called::Outer("externalIPs", at) = row.called {
            spec["externalIPs"] = json!(number(at));
        }
        let service = scene.service(&name, &spec);
        if row.spec == BY_HAND {
            slices(scene, &name, &[format!("{kind}-near"), format!("{kind}-far")]);
        }
        let addresses = match row.called {
            Called::Service => service.addresses(),
            Called::Node(node) => scene.of_node(node),
            Called::Pods => ["near", "far"]
                .map(|at| scene.place(&format!("{kind}-{at}")))
                .iter()
                .flat_map(|place| place.addresses.clone())
                .collect(),
            Called::Outer(place, at) => {
                if place == "status" {
                    let given =
                        json!({"status": {"loadBalancer": {"ingress": number(at).map(|ip| json!({"ip": ip}))}}});
                    let path = format!("/api/v1/namespaces/{SHOP}/services/{name}/status");
                    scene.api.ask("PATCH", &path, &given);
                }
                number(at).into()
            }
        };
        let far = &scene.place(&format!("{kind}-far")).addresses;
        Self { row, is_good, from, service, addresses, far }
    }

    fn attempts(&self, arrives: bool) -> Vec<Attempt<'a>> {
        let port = |protocol: Protocol| match self.row.called {
            Called::Service | Called::Outer(..) => CALLED,
            Called::Node(_) => self.service.node_port(protocol),
            Called::Pods => 0,
        };
        let mut all = attempts(self.from, &self.addresses, port, arrives);
        let kind = if self.is_good { "good" } else { "bad" };
        for attempt in &mut all {
            if self.row.called == Called::Pods {
                let is_far = self.far.contains(&attempt.to.ip());
                attempt.to.set_port(PORTS[usize::from(is_far)]);
            }
            attempt.at = Some(match self.row.only {
                Some("-near") if self.is_good => "good-near",
                Some("-near") => "bad-near",
                Some(_) if self.is_good => "good-self",
                Some(_) => "bad-self",
                None => kind,
            });
        }
        all
    }
}

/// Endpoints for a Service that selects nobody, in one slice for each family and port.
fn slices(scene: &Scene, service: &str, backends: &[String; 2]) {
    for (place, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for (backend, port) in backends.iter().zip(PORTS) {
            let ports = ["TCP", "UDP"]
                .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port}));
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{service}-{backend}-{place}"), "namespace": SHOP,
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": kind,
                "endpoints": [{"addresses": [scene.place(backend).address(place == 0)], "conditions": {"ready": true}}],
                "ports": ports,
            });
            scene.api.create(&format!("/apis/discovery.k8s.io/v1/namespaces/{SHOP}/endpointslices"), &slice);
        }
    }
}
