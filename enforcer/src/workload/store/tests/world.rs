//! A small node for tests, which declares namespaces, devices and sources in a few words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;

use super::super::{Inputs, Outcome, Store};
use crate::workload::inventory::{self, Inventory};
use crate::workload::model::{LabelSets, LocalWorkload, Snapshot, WorkloadKey, WorkloadName};
use crate::workload::runtime::{self, Container};
use crate::workload::source::{Listed, SourceError, SourceState};
use crate::workload::statement::{About, FoundBy, Statement};
use crate::workload::view::{Kind, Link, NetworkView, Route, VethPeer};

/// Ifindex of the bridge with `10.88.0.1/16` and `fd88::1/64`.
pub(super) const BRIDGE: u32 = 1;

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) view: NetworkView,
    pub(super) gone: BTreeSet<i32>,
    pub(super) inventory: Inventory,
    pub(super) containers: Vec<Container>,
    pub(super) pods: Vec<Statement>,
    pub(super) nodes: BTreeMap<IpAddr, Arc<str>>,
    pub(super) api_error: Option<SourceError>,
    pub(super) netns: BTreeMap<PathBuf, i32>,
    pub(super) uplinks: Vec<String>,
    pub(super) chained: BTreeSet<Ifindex>,
    pub(super) settling: Duration,
    pub(super) now: Instant,
}

impl Default for World {
    fn default() -> Self {
        Self {
            view: NetworkView::default(),
            gone: BTreeSet::new(),
            inventory: Inventory::default(),
            containers: Vec::new(),
            pods: Vec::new(),
            nodes: BTreeMap::new(),
            api_error: None,
            netns: BTreeMap::new(),
            uplinks: Vec::new(),
            chained: BTreeSet::new(),
            settling: Duration::from_secs(10),
            now: Instant::now(),
        }
    }
}

impl World {
    /// A node with a bridge, a device to the outside and a default route over it.
    pub(super) fn bridged() -> Self {
        let mut world = Self::default();
        world.device(BRIDGE, "br0", Kind::Bridge, None);
        world.device(2, "lan", Kind::Plain, None);
        for (to, device, via) in [
            ("10.88.0.0/16", BRIDGE, false),
            ("fd88::/64", BRIDGE, false),
            ("192.0.2.0/24", 2, false),
            ("0.0.0.0/0", 2, true),
        ] {
            world.route(to, device, via);
        }
        world.view.gateways.insert(ip("192.0.2.254"));
        world.view.node = ips(&["10.88.0.1", "fd88::1", "192.0.2.1"]);
        world
    }

    pub(super) fn device(&mut self, index: u32, name: &str, kind: Kind, master: Option<u32>) {
        let (name, master, mac) = (name.to_owned(), master.map(Ifindex), mac(index));
        let link = Link { name, kind, master, below: None, peer: None, mac, xdp: false };
        self.view.links.insert(Ifindex(index), link);
    }

    pub(super) fn route(&mut self, to: &str, device: u32, via: bool) {
        self.view.routes.push(Route { to: to.parse().unwrap(), device: Ifindex(device), via });
    }

    /// A veth to a namespace, on the bridge; its path is `/ns/NSID`.
    pub(super) fn veth(&mut self, index: u32, nsid: i32) {
        self.veth_on(index, nsid, Some(BRIDGE));
    }

    pub(super) fn veth_on(&mut self, index: u32, nsid: i32, master: Option<u32>) {
        let peer = Some(VethPeer { nsid: Some(nsid), index: 2, mac: Some([2, 0, 0, 0, 0, index as u8]) });
        let link = Link {
            name: format!("veth{index}"),
            kind: Kind::Plain,
            master: master.map(Ifindex),
            below: None,
            peer,
            mac: mac(index),
            xdp: false,
        };
        self.view.links.insert(Ifindex(index), link);
        self.view.inside.entry(nsid).or_default();
        self.netns.insert(path(nsid), nsid);
    }

    pub(super) fn remove_veth(&mut self, index: u32) {
        let peer = self.view.links.remove(&Ifindex(index)).and_then(|link| link.peer);
        if let Some(nsid) = peer.and_then(|peer| peer.nsid) {
            self.view.inside.remove(&nsid);
            self.netns.remove(&path(nsid));
        }
    }

    pub(super) fn show(&mut self, nsid: i32, addresses: &[&str]) {
        self.view.inside.insert(nsid, ips(addresses));
    }

    pub(super) fn inventory(&mut self, yaml: &str) {
        self.inventory = Inventory::parse(Path::new("test.inventory.yaml"), yaml).unwrap();
    }

    pub(super) fn container(&mut self, name: &str, nsid: i32, labels: &[(&str, &str)], addresses: &[&str]) {
        self.containers.push(Container {
            id: format!("{name}-0123456789ab"),
            name: name.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            sandbox: Some(path(nsid)),
            network_of: None,
            addresses: ips(addresses),
            pod: None,
        });
    }

    /// A container in the namespace of another.
    pub(super) fn member(&mut self, name: &str, owner: &str, labels: &[(&str, &str)]) {
        self.container(name, -1, labels, &[]);
        let container = self.containers.last_mut().unwrap();
        container.sandbox = None;
        container.network_of = Some(format!("{owner}-0123456789ab"));
    }

    /// A pod of this node, as the API tells of it.
    pub(super) fn pod(&mut self, name: &str, addresses: &[&str]) -> &mut Statement {
        self.api_says(name, addresses, FoundBy::Pod { leaving: false })
    }

    /// A pod of another node.
    pub(super) fn pod_elsewhere(&mut self, name: &str, addresses: &[&str]) -> &mut Statement {
        self.api_says(name, addresses, FoundBy::Elsewhere)
    }

    fn api_says(&mut self, name: &str, addresses: &[&str], found_by: FoundBy) -> &mut Statement {
        self.pods.push(Statement {
            by: format!("pod shop/{name}"),
            about: About::Workload(WorkloadName { namespace: "shop".to_owned(), name: name.to_owned() }),
            object: format!("pod {name}-uid"),
            labels: LabelSets::default(),
            ports: BTreeMap::new(),
            routes: false,
            found_by,
            addresses: ips(addresses),
            floating: BTreeSet::new(),
            remarks: Vec::new(),
        });
        self.pods.last_mut().unwrap()
    }

    /// The API has another version of a pod, or none.
    pub(super) fn forget_pod(&mut self, object: &str) {
        self.pods.retain(|pod| pod.object != format!("pod {object}"));
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Lets the far side of a veth lead to another namespace.
    pub(super) fn move_far_side(&mut self, index: u32, nsid: i32) {
        let peer = self.view.links.get_mut(&Ifindex(index)).and_then(|link| link.peer.as_mut());
        peer.expect("a veth").nsid = Some(nsid);
        self.view.inside.entry(nsid).or_default();
        self.netns.insert(path(nsid), nsid);
    }

    pub(super) fn update(&self, store: &mut Store) -> Outcome {
        let runtime = SourceState {
            name: "the runtime".to_owned(),
            listed: Listed::Complete,
            statements: Arc::new(runtime::statements(&self.containers)),
            ..SourceState::default()
        };
        let api = SourceState {
            name: "the Kubernetes API".to_owned(),
            listed: Listed::Complete,
            is_awaited: true,
            error: self.api_error.clone(),
            statements: Arc::new(self.pods.iter().cloned().map(Arc::new).collect()),
            nodes: Arc::new(self.nodes.clone()),
            ..SourceState::default()
        };
        store.update(&Inputs {
            view: &self.view,
            gone: &self.gone,
            sources: &[api, runtime, inventory::state_of(&self.inventory)],
            netns: &self.netns,
            uplinks: &self.uplinks,
            settling: self.settling,
            judges_backends: true,
            chained: &self.chained,
            now: self.now,
        })
    }
}

pub(super) fn path(nsid: i32) -> PathBuf {
    PathBuf::from(format!("/ns/{nsid}"))
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

/// The workload behind a veth.
pub(super) fn behind(snapshot: &Snapshot, veth: u32) -> &LocalWorkload {
    &snapshot.local[&key_behind(snapshot, veth)]
}

pub(super) fn key_behind(snapshot: &Snapshot, veth: u32) -> WorkloadKey {
    *snapshot.local.iter().find(|(_, workload)| workload.endpoints.contains_key(&Ifindex(veth))).expect("a workload").0
}

/// Its own addresses, whoever vouches for them.
pub(super) fn own(workload: &LocalWorkload) -> BTreeSet<IpAddr> {
    workload.addresses.keys().copied().collect()
}

/// What it has an equal claim to as another one.
pub(super) fn disputed(workload: &LocalWorkload) -> BTreeSet<IpAddr> {
    workload.disputed.keys().copied().collect()
}

pub(super) fn name_behind(snapshot: &Snapshot, veth: u32) -> String {
    behind(snapshot, veth).identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default()
}

/// The hardware address of a device of this node.
fn mac(index: u32) -> Option<[u8; 6]> {
    Some([2, 0, 0, 0, 0, u8::try_from(index % 256).ok()?])
}
