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
    book: Arc<Book>,
    policies: Arc<dyn Policies>,
}

/// Who and what a snapshot names. Revisions that differ in their policies alone share it.
struct Book {
    snapshot: Arc<Snapshot>,
    local: BTreeMap<WorkloadKey, Party>,
    /// Addresses of this node and of its workloads.
    near: HashMap<IpAddr, Party>,
    /// Addresses of workloads elsewhere, sorted, each with the place of its workload.
    far: Vec<(IpAddr, u32)>,
    devices: BTreeMap<Ifindex, Arc<InterfaceSeen>>,
}

impl Book {
    fn of(snapshot: &Arc<Snapshot>) -> Self {
        let mut far: Vec<(IpAddr, u32)> = (0..)
            .zip(&snapshot.remote)
            .flat_map(|(place, workload)| workload.addresses.iter().map(move |address| (*address, place)))
            .collect();
        far.sort_unstable();
        // The least certain first: what comes later takes the address over.
        let mut near: HashMap<IpAddr, Party> = snapshot.node.iter().map(|address| (*address, Party::Host)).collect();
        let mut local = BTreeMap::new();
        for (key, workload) in &snapshot.local {
            let party = workload.identity.as_ref().map_or(Party::Unknown, party);
            near.extend(workload.addresses.keys().map(|address| (*address, party.clone())));
            local.insert(*key, party);
        }
        for workload in snapshot.local.values() {
            near.extend(workload.disputed.keys().map(|address| (*address, Party::Unknown)));
        }
        let seen = |(ifindex, name): (&Ifindex, &String)| {
            (*ifindex, Arc::new(InterfaceSeen { ifindex: *ifindex, name: name.clone() }))
        };
        let devices = snapshot.others.iter().map(seen).collect();
        Self { snapshot: Arc::clone(snapshot), local, near, far, devices }
    }

    fn address(&self, address: IpAddr) -> Party {
        if let Some(party) = self.near.get(&address) {
            return party.clone();
        }
        // Of several the last one.
        let end = self.far.partition_point(|(known, _)| *known <= address);
        let found = end.checked_sub(1).map(|place| self.far[place]).filter(|(known, _)| *known == address);
        let remote = found.and_then(|(_, place)| self.snapshot.remote.get(place as usize));
        remote.map_or(Party::World, |workload| party(&workload.identity))
    }
}

fn party(identity: &Identity) -> Party {
    Party::Workload(Arc::new(WorkloadSeen::new(identity.name.clone(), identity.labels.clone())))
}

impl NameTable {
    /// Takes over the names of an image, to be called before the image can deny anything.
    pub fn install(
        &mut self,
        revision: Revision,
        snapshot: &Arc<Snapshot>,
        owners: &BTreeMap<IncarnationId, WorkloadKey>,
        policies: Arc<dyn Policies>,
    ) {
        let last = self.generations.front().map(|generation| &generation.book);
        let book = match last.filter(|book| Arc::ptr_eq(&book.snapshot, snapshot)) {
            Some(book) => Arc::clone(book),
            None => Arc::new(Book::of(snapshot)),
        };
        let owners = owners
            .iter()
            .filter_map(|(owner, key)| {
                let workload = snapshot.local.get(key)?;
                let owned = Owned { key: *key, party: book.local.get(key)?.clone(), interface: interface(workload) };
                Some((*owner, owned))
            })
            .collect();
        self.generations.retain(|generation| generation.revision != revision);
        self.generations.push_front(Generation { revision, owners, book, policies });
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
        let device = known.find_map(|generation| generation.book.devices.get(&ifindex));
        device.map_or_else(|| Arc::new(InterfaceSeen { ifindex, name: String::new() }), Arc::clone)
    }

    fn address(&self, revision: Revision, address: IpAddr) -> Party {
        self.generation(revision)
            .or_else(|| self.generations.front())
            .map_or(Party::World, |generation| generation.book.address(address))
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
        names.install(Revision(REVISION.0 + 1), &Arc::new(later), &BTreeMap::new(), Arc::new(Scripted(None)));

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
        names.install(Revision(3), &Arc::new(snapshot), &fixture::owners(), Arc::new(Scripted(None)));
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
        let snapshot = Arc::new(fixture::snapshot());
        for revision in 1..=9 {
            names.install(Revision(revision), &snapshot, &fixture::owners(), Arc::new(Scripted(None)));
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
        names.install(Revision(REVISION.0 + 1), &Arc::new(later), &fixture::owners(), Arc::new(Scripted(None)));
        let Party::Workload(web) = names.address(Revision(REVISION.0 + 1), ip("10.88.0.2")) else {
            panic!("a workload");
        };
        assert!(web.labels.pairs().contains(&("app", "other")));
    }
}
