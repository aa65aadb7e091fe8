//! The example policies on one node that runs all their workloads, and the frames of their cases.
//!
//! Input: an [`Example`]. Output: what its policies resolve to, the two ends of a [`crate::cases::Case`], and its frames. The
//! tiers that need no real network use it.

use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::Ifindex;

use enforcer::policy::source::directory::load_paths;
use enforcer::resolve::{ResolvedPolicy, resolve};
use enforcer::workload::inventory::Inventory;
use enforcer::workload::model::{LocalWorkload, WorkloadKey};
use enforcer::workload::offline;

use crate::cases::{Example, Place, Port};
use crate::packet::Transport;

/// The device towards the outside.
pub const UPLINK: u32 = 1;

/// The example on one node that runs all its workloads, each behind a device of its own.
pub fn resolved(example: &Example) -> ResolvedPolicy {
    let policies = load_paths(std::slice::from_ref(&example.policy)).unwrap_or_else(|errors| panic!("{errors}"));
    let inventory = Inventory::load(&example.inventory).unwrap_or_else(|invalid| panic!("{invalid}"));
    let mut snapshot = offline::snapshot(&inventory);
    snapshot.uplinks.insert(Ifindex(UPLINK), "uplink".to_owned());
    resolve(policies.set, Arc::new(snapshot))
}

/// One end of a case in one family.
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Key and device; `None`: outside.
    pub local: Option<(WorkloadKey, Ifindex)>,
    /// As `explain` is told of it.
    pub party: String,
}

impl End {
    /// The device by which its packets come.
    pub fn device(&self) -> Ifindex {
        self.local.map_or(Ifindex(UPLINK), |(_, ifindex)| ifindex)
    }
}

/// The end of a case.
pub fn end(resolved: &ResolvedPolicy, place: &Place, v4: bool) -> End {
    match place {
        Place::Outside(addresses) => {
            let address = *addresses.iter().find(|address| address.is_ipv4() == v4).expect("an address of each family");
            End { address, local: None, party: address.to_string() }
        }
        Place::Workload(wanted) => {
            let found = resolved.snapshot().local.iter().find(|(_, workload)| name(workload) == *wanted);
            let (key, workload) = found.unwrap_or_else(|| panic!("the inventory has no {wanted}"));
            let address =
                *workload.addresses.keys().find(|address| address.is_ipv4() == v4).expect("an address of each family");
            let ifindex = *workload.endpoints.keys().next().expect("a device");
            End { address, local: Some((*key, ifindex)), party: wanted.clone() }
        }
    }
}

/// Its name, empty if it has none.
pub fn name(workload: &LocalWorkload) -> String {
    workload.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default()
}

/// What opens the flow of a case.
pub fn transport(port: Port, v4: bool) -> Transport {
    let source = 40_000;
    match port {
        Port::Tcp(destination) => Transport::syn(source, destination),
        Port::Udp(destination) => Transport::Udp { source, destination },
        Port::Sctp(destination) => Transport::Sctp { source, destination, chunk: 1 },
        Port::Icmp => Transport::echo_request(v4, 7),
    }
}

/// What answers it.
pub fn answer(port: Port, v4: bool) -> Transport {
    let destination = 40_000;
    match port {
        Port::Tcp(source) => Transport::Tcp { source, destination, flags: 0x12 },
        Port::Udp(source) => Transport::Udp { source, destination },
        Port::Sctp(source) => Transport::Sctp { source, destination, chunk: 2 },
        Port::Icmp => Transport::Icmp { kind: if v4 { 0 } else { 129 }, code: 0, rest: [0, 7, 0, 1] },
    }
}
