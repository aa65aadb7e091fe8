//! Keeps the names that were in force at each of the last revisions.
//!
//! Input: a snapshot of the workloads and the resolved policies, each time an image is installed. Output: the workload of an
//! owner id or address, and the policies that decide a flow. A peer has the name of the revision that denied its packet. So if
//! an address changes its owner, old packets do not get the new owner's name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use enforcer_common::id::{Direction, Ifindex, IncarnationId, Revision};

use super::record::{DecidingPolicy, InterfaceSeen, Party, WorkloadSeen};
use crate::workload::model::{Identity, LocalWorkload, Snapshot, WorkloadKey};

/// Revisions that are kept.
pub const KEPT_REVISIONS: usize = 8;

/// What a flow asks of its destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; the type for ICMP and ICMPv6.
    pub port: u16,
}

/// The resolved policies of one revision, as far as records ask them.
pub trait Policies: Send + Sync {
    /// What they say of a flow of `workload`, and which of them. `None`: they do not know the workload.
    fn rule_on(&self, workload: WorkloadKey, direction: Direction, peer: IpAddr, service: Service) -> Option<Ruling>;
}

/// What policies say of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ruling {
    /// It is allowed: by the rules of these; by none if nothing isolates the workload.
    Allowed(Vec<DecidingPolicy>),
    /// It is denied: by the rule of this one, or because each of these isolates the workload.
    Denied(Vec<DecidingPolicy>),
}

/// Where a name comes from.
pub trait Names {
    /// The workload with this id under `revision`, or under the newest revision that knows it.
    fn owner(&self, revision: Option<Revision>, owner: IncarnationId) -> Option<&Owned>;
    /// A device that leads to no workload, as it was called under `revision`, or under the newest one that knows it.
    fn device(&self, revision: Option<Revision>, ifindex: Ifindex) -> Arc<InterfaceSeen>;
    /// Who had this address under `revision`, or under the newest one if that is not kept.
    fn address(&self, revision: Revision, address: IpAddr) -> Party;
    /// The policies of a revision; `None`: it is not kept.
    fn policies(&self, revision: Revision) -> Option<&dyn Policies>;
}

/// A workload that has an owner id.
#[derive(Clone, Debug)]
pub struct Owned {
    /// Its key.
    pub key: WorkloadKey,
    /// Its name; [`Party::Unknown`] if no source has named it.
    pub party: Party,
    /// Its veth, if it has exactly one.
    pub interface: Option<Arc<InterfaceSeen>>,
}

/// The last [`KEPT_REVISIONS`], newest first.
#[derive(Default)]
pub struct NameTable {
    generations: VecDeque<Generation>,
}

struct Generation {
    revision: Revision,
    owners: BTreeMap<IncarnationId, Owned>,
    addresses: HashMap<IpAddr, Party>,
    devices: BTreeMap<Ifindex, Arc<InterfaceSeen>>,
    policies: Arc<dyn Policies>,
}

impl NameTable {
    /// Takes over the names of an image, to be called before the image can deny anything.
    pub fn install(
        &mut self,
        revision: Revision,
        snapshot: &Snapshot,
        owners: &BTreeMap<IncarnationId, WorkloadKey>,
        policies: Arc<dyn Policies>,
    ) {
        let named = Interned::new(self.generations.front());
        let mut addresses = HashMap::new();
        // The least certain first: what comes later takes the address over.
        for remote in &snapshot.remote {
            let party = named.party(Some(&remote.identity));
            addresses.extend(remote.addresses.iter().map(|address| (*address, party.clone())));
        }
        addresses.extend(snapshot.node.iter().map(|address| (*address, Party::Host)));
        let mut parties = BTreeMap::new();
        for (key, workload) in &snapshot.local {
            let party = named.party(workload.identity.as_ref());
            addresses.extend(workload.addresses.keys().map(|address| (*address, party.clone())));
            parties.insert(*key, party);
        }
        for workload in snapshot.local.values() {
            addresses.extend(workload.disputed.keys().map(|address| (*address, Party::Unknown)));
        }
        let owners = owners
            .iter()
            .filter_map(|(owner, key)| {
                let workload = snapshot.local.get(key)?;
                let owned = Owned { key: *key, party: parties.get(key)?.clone(), interface: interface(workload) };
                Some((*owner, owned))
            })
            .collect();
        let seen = |(ifindex, name): (&Ifindex, &String)| {
            (*ifindex, Arc::new(InterfaceSeen { ifindex: *ifindex, name: name.clone() }))
        };
        let devices = snapshot.others.iter().map(seen).collect();
        self.generations.retain(|generation| generation.revision != revision);
        self.generations.push_front(Generation { revision, owners, addresses, devices, policies });
        self.generations.truncate(KEPT_REVISIONS);
    }

    fn generation(&self, revision: Revision) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.revision == revision)
    }
}

impl Names for NameTable {
    fn owner(&self, revision: Option<Revision>, owner: IncarnationId) -> Option<&Owned> {
        revision
            .and_then(|revision| self.generation(revision))
            .into_iter()
            .chain(&self.generations)
            .find_map(|generation| generation.owners.get(&owner))
    }

    fn device(&self, revision: Option<Revision>, ifindex: Ifindex) -> Arc<InterfaceSeen> {
        let mut known = revision.and_then(|revision| self.generation(revision)).into_iter().chain(&self.generations);
        let device = known.find_map(|generation| generation.devices.get(&ifindex));
        device.map_or_else(|| Arc::new(InterfaceSeen { ifindex, name: String::new() }), Arc::clone)
    }

    fn address(&self, revision: Revision, address: IpAddr) -> Party {
        self.generation(revision)
            .or_else(|| self.generations.front())
            .and_then(|generation| generation.addresses.get(&address))
            .cloned()
            .unwrap_or(Party::World)
    }

    fn policies(&self, revision: Revision) -> Option<&dyn Policies> {
        self.generation(revision).map(|generation| &*generation.policies)
    }
}

fn interface(workload: &LocalWorkload) -> Option<Arc<InterfaceSeen>> {
    let mut endpoints = workload.endpoints.iter();
    let (ifindex, interface) = endpoints.next()?;
    // The kernel counts for the workload, not for the veth.
    endpoints.next().is_none().then(|| Arc::new(InterfaceSeen { ifindex: *ifindex, name: interface.name.clone() }))
}

/// Workloads that did not change share one allocation over all generations.
struct Interned<'a> {
    known: HashMap<(&'a str, &'a str), &'a Arc<WorkloadSeen>>,
}

impl<'a> Interned<'a> {
    fn new(last: Option<&'a Generation>) -> Self {
        let parties = last.into_iter().flat_map(|last| {
            let local = last.owners.values().map(|owned| &owned.party);
            local.chain(last.addresses.values())
        });
        let known = parties
            .filter_map(|party| match party {
                Party::Workload(seen) => Some(((&*seen.name.namespace, &*seen.name.name), seen)),
                Party::Host | Party::World | Party::Unknown => None,
            })
            .collect();
        Self { known }
    }

    fn party(&self, identity: Option<&Identity>) -> Party {
        let Some(identity) = identity else {
            return Party::Unknown;
        };
        let name = (&*identity.name.namespace, &*identity.name.name);
        let known = self.known.get(&name).filter(|seen| seen.labels == identity.labels);
        Party::Workload(known.map_or_else(
            || Arc::new(WorkloadSeen::new(identity.name.clone(), identity.labels.clone())),
            |seen| Arc::clone(seen),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, REVISION, Scripted, WEB, ip};
    use super::*;
    use crate::workload::model::Voucher;

    fn name(party: &Party) -> String {
        match party {
            Party::Workload(workload) => workload.name.to_string(),
            Party::Host | Party::World | Party::Unknown => format!("{party:?}"),
        }
    }

    #[test]
    fn an_address_has_the_name_of_its_revision() {
        let mut names = fixture::names(None);
        let mut later = fixture::snapshot();
        let evil = fixture::local(Some(fixture::identity("evil", &[])), &[9], &["10.88.0.2"]);
        later.local = BTreeMap::from([(WorkloadKey(9), evil)]);
        names.install(Revision(REVISION.0 + 1), &later, &BTreeMap::new(), Arc::new(Scripted(None)));

        assert_eq!(name(&names.address(REVISION, ip("10.88.0.2"))), "shop/web", "A60");
        assert_eq!(name(&names.address(Revision(REVISION.0 + 1), ip("10.88.0.2"))), "shop/evil");
        assert_eq!(name(&names.address(Revision(1), ip("10.88.0.2"))), "shop/evil", "not kept: the newest");
        assert_eq!(
            name(&names.owner(None, WEB).unwrap().party),
            "shop/web",
            "a workload keeps its name after it is gone"
        );
    }

    #[test]
    fn addresses_are_of_workloads_the_node_or_the_world() {
        let mut snapshot = fixture::snapshot();
        // Two show it and nobody knows who was first.
        for key in [1, 2] {
            let workload = snapshot.local.get_mut(&WorkloadKey(key)).unwrap();
            workload.disputed.insert(ip("10.88.0.50"), Voucher::HostRoute);
        }
        let mut names = NameTable::default();
        names.install(Revision(3), &snapshot, &fixture::owners(), Arc::new(Scripted(None)));
        for (address, expected) in [
            ("10.88.0.2", "shop/web"),
            ("fd00::3", "shop/db"),
            ("10.99.0.7", "shop/billing"),
            ("10.88.0.1", "Host"),
            ("192.0.2.1", "World"),
            ("10.88.0.9", "Unknown"),
            ("10.88.0.50", "Unknown"),
        ] {
            assert_eq!(name(&names.address(Revision(3), ip(address))), expected, "{address}");
        }
    }

    #[test]
    fn eight_revisions_are_kept_and_share_what_did_not_change() {
        let mut names = NameTable::default();
        for revision in 1..=9 {
            let (snapshot, owners) = (fixture::snapshot(), fixture::owners());
            names.install(Revision(revision), &snapshot, &owners, Arc::new(Scripted(None)));
        }
        assert!(names.policies(Revision(1)).is_none());
        assert!((2..=9).all(|revision| names.policies(Revision(revision)).is_some()));
        let (Party::Workload(old), Party::Workload(new)) =
            (names.address(Revision(2), ip("10.88.0.2")), names.address(Revision(9), ip("10.88.0.2")))
        else {
            panic!("both are workloads");
        };
        assert!(Arc::ptr_eq(&old, &new));
    }

    #[test]
    fn a_label_change_is_seen() {
        let mut names = fixture::names(None);
        let mut later = fixture::snapshot();
        let web = later.local.get_mut(&WorkloadKey(1)).unwrap();
        web.identity = Some(fixture::identity("web", &[("app", "other")]));
        names.install(Revision(REVISION.0 + 1), &later, &fixture::owners(), Arc::new(Scripted(None)));
        let Party::Workload(web) = names.address(Revision(REVISION.0 + 1), ip("10.88.0.2")) else {
            panic!("a workload");
        };
        assert!(web.labels.pairs().contains(&("app", "other")));
    }
}
