//! The directory of known addresses: who has each address, as far as policy may know it.
//!
//! Input: a snapshot. Output: every known address with its holder. Workloads that no selector and no port name can tell
//! apart are gathered in groups.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::id::Address;

use super::ports::PortNames;
use crate::workload::model::{Identity, LabelSets, Snapshot, WorkloadKey};

/// Workloads of one namespace with the same sets of labels and the same port names: policy treats them alike, CIDRs aside.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupId(pub u32);

/// Who has an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// A workload on this node; it may be one that nobody has named.
    Local(WorkloadKey),
    /// Place in the snapshot's list of remote workloads.
    Remote(usize),
    /// This node.
    Node,
    /// Whoever is behind a Service: the node chooses a backend when it translates the packet.
    Service,
    /// Several workloads show the address, and their order is not known.
    Disputed,
}

/// What is known of one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KnownAddress {
    /// The address.
    pub address: Address,
    /// Who has it.
    pub holder: Holder,
    /// The group by which selectors match it; `None` if only CIDRs match it.
    pub group: Option<GroupId>,
    /// A workload on this node has it.
    pub local: bool,
    /// Nobody but that workload says so: no block that allows something holds it (D11).
    pub shown: bool,
    /// This node has it.
    pub node: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Directory {
    /// Sorted by address.
    pub(super) entries: Vec<KnownAddress>,
    /// Addresses of each group's workloads, sorted.
    pub(super) members: Vec<Vec<Address>>,
}

/// The groups of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    /// A workload of each, which stands for all.
    standing: Vec<Standing>,
    /// A group for each set of port names, equal sets once, and which of them each group has.
    pub(super) names: Vec<GroupId>,
    pub(super) names_of: Vec<usize>,
    of_local: BTreeMap<WorkloadKey, GroupId>,
    of_remote: Vec<GroupId>,
}

#[derive(Clone, Debug)]
enum Standing {
    Local(Box<Identity>),
    /// Place in the snapshot's list.
    Remote(usize),
}

type Likeness<'a> = (&'a str, &'a LabelSets, &'a PortNames);

impl Groups {
    /// Of all named workloads of a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut groups = Self {
            standing: Vec::new(),
            names: Vec::new(),
            names_of: Vec::new(),
            of_local: BTreeMap::new(),
            of_remote: Vec::with_capacity(snapshot.remote.len()),
        };
        let mut known: HashMap<Likeness<'_>, GroupId> = HashMap::new();
        let mut known_names: HashMap<&PortNames, usize> = HashMap::new();
        let local = snapshot.local.iter().filter_map(|(key, workload)| Some((Some(*key), workload.identity.as_ref()?)));
        let remote = snapshot.remote.iter().map(|workload| (None, &workload.identity));
        for (local, identity) in local.chain(remote) {
            let next = GroupId(groups.standing.len() as u32);
            let group = *known.entry(likeness(identity)).or_insert(next);
            if group == next {
                groups.standing.push(match local {
                    Some(_) => Standing::Local(Box::new(identity.clone())),
                    None => Standing::Remote(groups.of_remote.len()),
                });
                groups.names_of.push(*known_names.entry(&identity.ports).or_insert_with(|| {
                    groups.names.push(group);
                    groups.names.len() - 1
                }));
            }
            match local {
                Some(key) => _ = groups.of_local.insert(key, group),
                None => groups.of_remote.push(group),
            }
        }
        groups
    }

    /// All groups.
    pub(super) fn all(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.standing.len() as u32).map(GroupId)
    }

    /// The identity that stands for a group. `snapshot`: the one that the groups are of.
    pub(super) fn identity<'a>(&'a self, snapshot: &'a Snapshot, group: GroupId) -> &'a Identity {
        match &self.standing[group.0 as usize] {
            Standing::Local(identity) => identity,
            Standing::Remote(place) => &snapshot.remote[*place].identity,
        }
    }
}

fn likeness(identity: &Identity) -> Likeness<'_> {
    (&identity.name.namespace, &identity.labels, &identity.ports)
}

impl Directory {
    pub(super) fn of(snapshot: &Snapshot, groups: &Groups) -> Self {
        let mut entries: BTreeMap<Address, KnownAddress> = BTreeMap::new();
        for (key, workload) in &snapshot.local {
            let group = groups.of_local.get(key).copied();
            for (address, voucher) in &workload.addresses {
                let shown = voucher.is_nobody();
                add_local(&mut entries, Address::from(*address), Holder::Local(*key), group, shown);
            }
            for (address, voucher) in &workload.disputed {
                add_local(&mut entries, Address::from(*address), Holder::Disputed, None, voucher.is_nobody());
            }
        }
        for (place, workload) in snapshot.remote.iter().enumerate() {
            let group = groups.of_remote.get(place).copied();
            for address in &workload.addresses {
                add_remote(&mut entries, Address::from(*address), place, group);
            }
        }
        for address in &snapshot.node {
            let address = Address::from(*address);
            let entry = entries.entry(address).or_insert(KnownAddress {
                address,
                holder: Holder::Node,
                group: None,
                local: false,
                shown: false,
                node: true,
            });
            // A workload that shares the node's address is the node to policy (D6).
            entry.node = true;
            entry.group = None;
            if !entry.local {
                entry.holder = Holder::Node;
            }
        }
        for address in &snapshot.services {
            let address = Address::from(*address);
            // A Service that claims somebody's address takes nothing from it.
            entries.entry(address).or_insert(KnownAddress {
                address,
                holder: Holder::Service,
                group: None,
                local: false,
                shown: false,
                node: false,
            });
        }
        let entries: Vec<KnownAddress> = entries.into_values().collect();
        let mut members = vec![Vec::new(); groups.standing.len()];
        for entry in &entries {
            if let Some(GroupId(group)) = entry.group {
                members[group as usize].push(entry.address);
            }
        }
        Self { entries, members }
    }

    pub(super) fn at(&self, address: Address) -> Option<&KnownAddress> {
        let place = self.entries.binary_search_by_key(&address, |entry| entry.address).ok()?;
        self.entries.get(place)
    }
}

fn add_local(
    entries: &mut BTreeMap<Address, KnownAddress>,
    address: Address,
    holder: Holder,
    group: Option<GroupId>,
    shown: bool,
) {
    entries
        .entry(address)
        .and_modify(|entry| {
            // Of several the weakest: what one of them only shows may be that one.
            entry.shown |= shown;
            if entry.holder != holder {
                entry.holder = Holder::Disputed;
                entry.group = None;
            }
        })
        .or_insert(KnownAddress { address, holder, group, local: true, shown, node: false });
}

fn add_remote(entries: &mut BTreeMap<Address, KnownAddress>, address: Address, place: usize, group: Option<GroupId>) {
    entries
        .entry(address)
        .and_modify(|entry| {
            // What is on this node is nearer than what a file says of another; of two files' entries neither is.
            if !entry.local && entry.holder != Holder::Remote(place) {
                entry.holder = Holder::Disputed;
                entry.group = None;
            }
        })
        .or_insert(KnownAddress {
            address,
            holder: Holder::Remote(place),
            group,
            local: false,
            shown: false,
            node: false,
        });
}
