//! Tests of what the source makes of the objects of the API.

mod many;
mod pods;
mod together;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kept;
use super::objects::{Addresses, Objects, addresses_of};
use super::pod::{Pod, Trimmer};
use crate::kubernetes::Key;
use crate::workload::model::Labels;
use crate::workload::source::SourceState;
use crate::workload::statement::{FoundBy, Statement};

/// The node of these tests.
const NODE: &str = "node1";

/// A pod that runs, as the API has it.
fn pod(name: &str, node: &str, addresses: &[&str]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("{name}-uid"), "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running",
            "podIP": addresses.first(),
            "podIPs": ips,
            "containerStatuses": [status(&json!({"running": {}}))],
        },
    })
}

fn status(state: &Value) -> Value {
    json!({"name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state})
}

/// The objects of a test, as the layer gives them.
struct Api {
    trimmer: Trimmer,
    own: BTreeMap<Key, Arc<Pod>>,
    peers: BTreeMap<Key, Arc<Pod>>,
    namespaces: BTreeMap<Key, Arc<Labels>>,
    nodes: BTreeMap<Key, Arc<Addresses>>,
    objects: Objects,
}

impl Api {
    /// With the namespace `shop`.
    fn new() -> Self {
        let mut api = Self {
            trimmer: Trimmer::new(NODE),
            own: BTreeMap::new(),
            peers: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            objects: Objects::default(),
        };
        api.namespace("shop", &[("team", "a")]);
        api
    }

    fn namespace(&mut self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.namespaces.insert(key("", name), Arc::new(labels));
    }

    fn forget_namespace(&mut self, name: &str) {
        self.namespaces.remove(&key("", name));
    }

    fn node(&mut self, name: &str, addresses: &Value) {
        let node = serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}}));
        self.nodes.insert(key("", name), Arc::new(addresses_of(node.unwrap())));
    }

    fn apply(&mut self, pod: &Value) {
        let of = &pod["metadata"];
        let key = key(of["namespace"].as_str().unwrap(), of["name"].as_str().unwrap());
        let parsed = || serde_json::from_value(pod.clone()).unwrap();
        let (own, peer) = (self.trimmer.own(parsed()), self.trimmer.peer(parsed()));
        for (set, trimmed) in [(&mut self.own, own), (&mut self.peers, peer)] {
            match trimmed {
                Some(pod) => _ = set.insert(key.clone(), Arc::new(pod)),
                None => _ = set.remove(&key),
            }
        }
    }

    fn delete(&mut self, name: &str) {
        self.own.remove(&key("shop", name));
        self.peers.remove(&key("shop", name));
    }

    fn state(&mut self) -> SourceState {
        self.objects.take(&self.own, &self.peers, &self.namespaces, &self.nodes);
        self.objects.state(kept::text)
    }

    /// The only statement.
    fn said(&mut self) -> Statement {
        let state = self.state();
        assert_eq!(state.statements.len(), 1, "{:?}", state.statements);
        Statement::clone(&state.statements[0])
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.into(), name: name.into() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Name, addresses and place of each pod.
fn shown(state: &SourceState) -> Vec<String> {
    let place = |statement: &Statement| match statement.found_by {
        FoundBy::Pod { leaving: false } => "here",
        FoundBy::Pod { leaving: true } => "here, leaving",
        _ => "elsewhere",
    };
    let line = |one: &Arc<Statement>| format!("{} {:?} {}", one.declared().unwrap(), one.addresses, place(one));
    state.statements.iter().map(line).collect()
}
