//! The cluster with its pods, and a daemon on each node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use enforcer_tests::cluster::api::Api;
use enforcer_tests::cluster::ground::{Ground, Post};
use enforcer_tests::cluster::places::{Attempt, PROTOCOLS, Place, Protocol};
use enforcer_tests::cluster::{pod, until};
use enforcer_tests::daemon::Daemon;
use serde_json::{Value, json};

/// What a Service listens at.
pub(crate) const CALLED: u16 = 80;
/// Ports of pods and of the outside; the second is that of the pods on the second node.
pub(crate) const PORTS: [u16; 2] = [8080, 9090];
/// Namespace of all but the suite's pods.
pub(crate) const SHOP: &str = "shop";
/// Address of a node's end of the pods' links, by family, which is what it masquerades with.
const GATEWAYS: [[&str; 2]; 2] = [["10.78.1.1", "fd78:0:0:1::1"], ["10.78.2.1", "fd78:0:0:2::1"]];

/// Where a pod is, and what it is. One whose name begins with `good` may be called by whoever may call somebody.
const SHOP_PODS: [(&str, &str, &str, &str); 8] = [
    ("web", "node1", "web", "caller"),
    ("good-near", "node1", "good", ""),
    ("bad-near", "node1", "bad", ""),
    ("good-self", "node1", "good", "caller"),
    ("bad-self", "node1", "bad", "caller"),
    ("good-far", "node2", "good", ""),
    ("bad-far", "node2", "bad", ""),
    ("web-far", "node2", "web", "far"),
];

/// All of it.
pub(crate) struct Scene {
    pub(crate) ground: Ground,
    far: Post,
    pub(crate) api: Api,
    /// Pods of the shop, the nodes, and `control`, which is the outside.
    pub(crate) places: BTreeMap<String, Place>,
}

impl Scene {
    pub(crate) fn new(cni: &str, proxy: &str) -> Self {
        let options = ["--nodes", "2", "--cni", cni, "--family", "dual", "--proxy", proxy];
        let ground = Ground::new(&format!("services-{cni}"), &options);
        let cluster = &ground.cluster;
        let api = Api::of(cluster, ground.site.directory());
        for (name, node, app, role) in SHOP_PODS {
            let port = if node == "node1" { PORTS[0] } else { PORTS[1] };
            let mut object = pod(cluster, SHOP, name, app, node, port);
            object["metadata"]["labels"]["role"] = role.into();
            object["metadata"]["labels"]["name"] = name.into();
            let container = &mut object["spec"]["containers"][0];
            // The listeners are the test's own.
            container["args"] = json!(["pause"]);
            container["ports"] = json!([
                {"name": "tcp", "containerPort": port, "protocol": "TCP"},
                {"name": "udp", "containerPort": port, "protocol": "UDP"},
            ]);
            api.create(&format!("/api/v1/namespaces/{SHOP}/pods"), &object);
        }
        crate::suite::create(&api, cluster);
        for namespace in [SHOP, "x", "y", "z"] {
            cluster.wait_for_pods(namespace);
        }
        let pods = SHOP_PODS.iter().map(|(name, node, ..)| Place::pod(cluster, node, SHOP, name));
        let members = ["control", "node1", "node2"].map(|name| Place::member(cluster, name));
        let places = pods.chain(members).map(|place| (place.name.clone(), place)).collect();
        Self { far: Post::new("node2"), places, api, ground }
    }

    pub(crate) fn place(&self, name: &str) -> &Place {
        &self.places[name]
    }

    /// Addresses of a node in the API.
    pub(crate) fn of_node(&self, node: &str) -> Vec<IpAddr> {
        let all = self.place(node).addresses.iter().copied();
        all.filter(|address| !gateways().any(|gateway| gateway == *address)).collect()
    }

    /// A daemon on each node, which has joined all pods to their veths.
    pub(crate) fn daemons(&self, judge_services: bool) -> [Daemon; 2] {
        [&*self.ground, &self.far].map(|post| {
            let daemon = post.start(&self.ground.cluster, &[], judge_services);
            let named = |report: &Value| {
                let workloads = report["workloads"].as_array().into_iter().flatten();
                let named = workloads.filter(|one| !one["name"].as_str().unwrap().is_empty()).count();
                (report["pid"].as_u64(), named)
            };
            let of_shop = SHOP_PODS.iter().filter(|(_, node, ..)| *node == post.node()).count();
            let of_suite = crate::suite::NODES.iter().filter(|node| **node == post.node()).count() * 3;
            let wanted = (Some(daemon.pid().into()), of_shop + of_suite);
            until("the pods", || post.report(), |report| named(report) == wanted);
            daemon
        })
    }

    /// Waits until both daemons have these versions of policies in force, and no others.
    pub(crate) fn in_force(&self, versions: &[String]) {
        let mut wanted: Vec<&str> = versions.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        for post in [&*self.ground, &self.far] {
            let is = |report: &Value| {
                let all = report["versions"].as_array().into_iter().flatten();
                let mut now: Vec<&str> = all.map(|one| one["resource_version"].as_str().unwrap_or("?")).collect();
                now.sort_unstable();
                now == wanted
            };
            until("the policies", || post.report(), is);
        }
    }

    /// The policies with these specs, alone, in the namespace of the shop; nothing: no policy.
    pub(crate) fn policy(&self, spec: &Value) {
        let all = format!("/apis/networking.k8s.io/v1/namespaces/{SHOP}/networkpolicies");
        self.api.ask("DELETE", &all, &Value::Null);
        if spec.is_null() {
            return self.in_force(&[]);
        }
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "row", "namespace": SHOP}, "spec": spec,
        });
        self.in_force(&[self.api.create(&all, &object)]);
    }

    /// A Service of both families and both protocols; the spec may say otherwise.
    pub(crate) fn service(&self, name: &str, spec: &Value) -> Service {
        let port = |protocol: &str| {
            let lower = protocol.to_lowercase();
            json!({"name": lower, "protocol": protocol, "port": CALLED, "targetPort": lower})
        };
        let mut whole = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [port("TCP"), port("UDP")]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SHOP}, "spec": whole,
        });
        Service(self.api.ask("POST", &format!("/api/v1/namespaces/{SHOP}/services"), &object))
    }
}

/// A Service as the API server has made it.
pub(crate) struct Service(Value);

impl Service {
    /// Its own addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let all = self.0["spec"]["clusterIPs"].as_array().into_iter().flatten();
        all.filter_map(|address| address.as_str().unwrap().parse().ok()).collect()
    }

    /// What leads to it at each node.
    pub(crate) fn node_port(&self, protocol: Protocol) -> u16 {
        let ports = self.0["spec"]["ports"].as_array().unwrap();
        let own = ports.iter().find(|port| (port["protocol"] == "TCP") == (protocol == Protocol::Tcp)).unwrap();
        own["nodePort"].as_u64().unwrap().try_into().unwrap()
    }
}

/// An attempt in each protocol at each address.
pub(crate) fn attempts<'a>(
    from: &'a Place,
    to: &[IpAddr],
    port: impl Fn(Protocol) -> u16,
    arrives: bool,
) -> Vec<Attempt<'a>> {
    let pairs = to.iter().flat_map(|to| PROTOCOLS.map(|protocol| (*to, protocol)));
    pairs
        .map(|(to, protocol)| {
            let to = SocketAddr::new(to, port(protocol));
            Attempt { from, to, protocol, arrives, at: None }
        })
        .collect()
}

/// Peers of a rule: each of these addresses.
pub(crate) fn blocks(addresses: impl IntoIterator<Item = IpAddr>) -> Value {
    let one = |address: IpAddr| json!({"ipBlock": {"cidr": format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })}});
    addresses.into_iter().map(one).collect()
}

/// Addresses of the nodes' ends of their pods' links.
pub(crate) fn gateways() -> impl Iterator<Item = IpAddr> {
    GATEWAYS.into_iter().flatten().map(|address| address.parse().unwrap())
}
