//! A small network for `demo` and the tests: namespaces that act as containers on one node, and an outside host.
//!
//! Input: names and addresses. Output: namespaces in which real sockets are opened. No enforcement code knows of the lab. A
//! drop removes everything, and the next [`Lab::new`] removes what a killed process left.

mod links;
mod name;
mod namespace;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use links::LabError;
pub use name::{Name, leftovers};
pub use namespace::Namespace;

/// How the node's veths are connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// Ports of one bridge, as podman and Docker do.
    Bridged,
    /// A host route to each, as CNI's ptp does.
    Routed,
}

/// One node with its workloads and an outside behind an uplink.
pub struct Lab {
    layout: Layout,
    name: Name,
    workloads: BTreeMap<String, Namespace>,
    node: Namespace,
    outside: Namespace,
}

/// Name of the node's device towards the outside.
pub const UPLINK: &str = "uplink0";

impl Lab {
    /// An empty node with an uplink and a default route of both families.
    pub fn new(layout: Layout) -> Result<Self, LabError> {
        Namespace::remove_leftovers();
        let name = Name::unique();
        let node = Namespace::create(&name, "node")?;
        let outside = Namespace::create(&name, "outside")?;
        links::prepare(&node)?;
        links::prepare(&outside)?;
        if layout == Layout::Bridged {
            links::bridge(&node)?;
        }
        links::uplink(&node, &outside)?;
        Ok(Self { layout, name, workloads: BTreeMap::new(), node, outside })
    }

    /// The node's namespace.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// The namespace behind the uplink.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// A workload's namespace.
    pub fn workload(&self, name: &str) -> Option<&Namespace> {
        self.workloads.get(name)
    }

    /// Starts a workload: a namespace with one veth, `eth0` inside, and these addresses. `host` is the name of the veth on
    /// the node.
    pub fn add_workload(&mut self, name: &str, host: &str, addresses: &[IpAddr]) -> Result<&Namespace, LabError> {
        let namespace = Namespace::create(&self.name, name)?;
        links::prepare(&namespace)?;
        links::workload(self.layout, &self.node, &namespace, host, addresses)?;
        Ok(self.workloads.entry(name.to_owned()).or_insert(namespace))
    }

    /// Stops a workload: its namespace and its veth go.
    pub fn remove_workload(&mut self, name: &str) {
        self.workloads.remove(name);
    }

    /// Adds an address to the outside.
    pub fn add_outside(&self, address: IpAddr) -> Result<(), LabError> {
        links::add_address(&self.outside, "eth0", address, if address.is_ipv4() { 32 } else { 128 })
    }
}
