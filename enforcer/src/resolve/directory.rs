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

/// Groups while they are found; the identity stands for all of its group.
pub(super) struct Groups<'a> {
    by_identity: HashMap<Likeness<'a>, GroupId>,
    pub(super) identities: Vec<&'a Identity>,
    /// Port names, equal ones once, and which of them each group has.
    pub(super) names: Vec<&'a PortNames>,
    pub(super) names_of: Vec<usize>,
}

type Likeness<'a> = (&'a str, &'a LabelSets, &'a PortNames);

impl<'a> Groups<'a> {
    /// Of all named workloads of a snapshot.
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let mut groups =
            Self { by_identity: HashMap::new(), identities: Vec::new(), names: Vec::new(), names_of: Vec::new() };
        let mut known: HashMap<&PortNames, usize> = HashMap::new();
        let local = snapshot.local.values().filter_map(|workload| workload.identity.as_ref());
        for identity in local.chain(snapshot.remote.iter().map(|workload| &workload.identity)) {
            let next = GroupId(groups.identities.len() as u32);
            if *groups.by_identity.entry(likeness(identity)).or_insert(next) == next {
                groups.identities.push(identity);
                groups.names_of.push(*known.entry(&identity.ports).or_insert_with(|| {
                    groups.names.push(&identity.ports);
                    groups.names.len() - 1
                }));
            }
        }
        groups
    }

    pub(super) fn group_of(&self, identity: &Identity) -> Option<GroupId> {
        self.by_identity.get(&likeness(identity)).copied()
    }
}

fn likeness(identity: &Identity) -> Likeness<'_> {
    (&identity.name.namespace, &identity.labels, &identity.ports)
}

impl Directory {
    pub(super) fn of(snapshot: &Snapshot, groups: &Groups<'_>) -> Self {
        let mut entries: BTreeMap<Address, KnownAddress> = BTreeMap::new();
        for (key, workload) in &snapshot.local {
            let group = workload.identity.as_ref().and_then(|identity| groups.group_of(identity));
            for (address, voucher) in &workload.addresses {
                let shown = voucher.is_nobody();
                add_local(&mut entries, Address::from(*address), Holder::Local(*key), group, shown);
            }
            for (address, voucher) in &workload.disputed {
                add_local(&mut entries, Address::from(*address), Holder::Disputed, None, voucher.is_nobody());
            }
        }
        for (place, workload) in snapshot.remote.iter().enumerate() {
            let group = groups.group_of(&workload.identity);
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
        let entries: Vec<KnownAddress> = entries.into_values().collect();
        let mut members = vec![Vec::new(); groups.identities.len()];
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
