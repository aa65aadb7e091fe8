//! Names and denials for the tests of this module.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::denial::{DenialKey, Way};
use enforcer_common::id::{Address, Direction, Ifindex, IncarnationId, Revision};
use enforcer_common::verdict::Reason;

use super::names::{NameTable, Policies, Ruling, Service};
use super::record::DecidingPolicy;
use crate::policy::model::PolicyKind;
use crate::policy::origin::Origin;
use crate::workload::model::{
    Identity, Interface, Labels, LocalWorkload, Past, RemoteWorkload, Snapshot, Vouched, WorkloadKey, WorkloadName,
    given_by,
};

pub(super) const WEB: IncarnationId = IncarnationId(17);
pub(super) const DB: IncarnationId = IncarnationId(18);
pub(super) const UNNAMED: IncarnationId = IncarnationId(19);
pub(super) const REVISION: Revision = Revision(7);

/// Gives the same ruling on every flow of a workload it knows.
pub(super) struct Scripted(pub(super) Option<Ruling>);

impl Policies for Scripted {
    fn rule_on(&self, _: WorkloadKey, _: Direction, _: IpAddr, _: Service) -> Option<Ruling> {
        self.0.clone()
    }
}

/// Denies what is opened in a direction to a port, and allows everything else.
pub(super) struct Closed(pub(super) Direction, pub(super) u16);

impl Policies for Closed {
    fn rule_on(&self, _: WorkloadKey, direction: Direction, _: IpAddr, service: Service) -> Option<Ruling> {
        Some(if (direction, service.port) == (self.0, self.1) {
            Ruling::Denied(vec![policy("db", 12)])
        } else {
            Ruling::Allowed(Vec::new())
        })
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn address(text: &str) -> Address {
    match ip(text) {
        IpAddr::V4(v4) => Address::v4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
            Address([word(0), word(4), word(8), word(12)])
        }
    }
}

pub(super) fn policy(name: &str, line: u32) -> DecidingPolicy {
    let at = Origin::line("shop.yaml", line);
    DecidingPolicy::new(PolicyKind::NetworkPolicy, "shop", name, &at)
}

pub(super) fn identity(name: &str, labels: &[(&str, &str)]) -> Identity {
    Identity {
        name: WorkloadName { namespace: "shop".to_owned(), name: name.to_owned() },
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Labels>().into(),
        ports: BTreeMap::new(),
    }
}

pub(super) fn local(identity: Option<Identity>, ifindexes: &[u32], addresses: &[&str]) -> LocalWorkload {
    LocalWorkload {
        identity,
        addresses: given_by("the inventory", addresses.iter().map(|address| ip(address))),
        disputed: Vouched::new(),
        endpoints: ifindexes
            .iter()
            .map(|ifindex| {
                let interface = Interface { name: format!("veth{ifindex}"), peer_mac: None, existed_at_start: true };
                (Ifindex(*ifindex), interface)
            })
            .collect(),
        routes: false,
        disagrees: false,
        foreign: BTreeMap::new(),
        past: Past::default(),
    }
}

/// shop/web with one veth, shop/db with two, one that nobody named, a remote shop/billing, and the node.
pub(super) fn snapshot() -> Snapshot {
    let web = identity("web", &[("app", "web"), ("tier", "front")]);
    let db = identity("db", &[("app", "db")]);
    Snapshot {
        local: BTreeMap::from([
            (WorkloadKey(1), local(Some(web), &[5], &["10.88.0.2", "fd00::2"])),
            (WorkloadKey(2), local(Some(db), &[6, 7], &["10.88.0.3", "fd00::3"])),
            (WorkloadKey(3), local(None, &[8], &["10.88.0.9"])),
        ]),
        remote: vec![Arc::new(RemoteWorkload {
            identity: identity("billing", &[("app", "billing")]),
            addresses: BTreeSet::from([ip("10.99.0.7")]),
        })],
        node: BTreeSet::from([ip("10.88.0.1")]),
        ..Snapshot::default()
    }
}

pub(super) fn owners() -> BTreeMap<IncarnationId, WorkloadKey> {
    BTreeMap::from([(WEB, WorkloadKey(1)), (DB, WorkloadKey(2)), (UNNAMED, WorkloadKey(3))])
}

/// The snapshot under [`REVISION`] with policies that always say `ruling`.
pub(super) fn names(ruling: Option<Ruling>) -> NameTable {
    names_under(Scripted(ruling))
}

/// The snapshot under [`REVISION`].
pub(super) fn names_under(policies: impl Policies + 'static) -> NameTable {
    let mut names = NameTable::default();
    names.install(REVISION, &Arc::new(snapshot()), &owners(), Arc::new(policies));
    names
}

/// A TCP SYN to port 5432.
pub(super) fn way(reason: Reason, direction: Direction, workload: IncarnationId, local: &str, peer: &str) -> Way {
    Way {
        source_port: 40122,
        tcp_flags: 2,
        local: address(local),
        key: DenialKey {
            workload,
            revision: REVISION,
            peer: address(peer),
            destination_port: 5432,
            ethertype: if ip(peer).is_ipv4() { 0x0800 } else { 0x86dd },
            protocol: 6,
            direction: direction as u8,
            reason: reason as u8,
            pad: 0,
        },
        ..Way::FREE
    }
}
