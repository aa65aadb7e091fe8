//! Inventory entries that go by address: which namespace each one is.
//!
//! An entry belongs to the first namespace that shows its address, until that namespace is gone. Showing is only a
//! claim, so a namespace qualifies by it only where the address could be its own and where nothing else names it.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::claims::{implausible, shown};
use super::routing::Routing;
use super::{Inputs, Said, Store};
use crate::workload::inventory::{Entry, Match};
use crate::workload::model::WorkloadKey;

pub(super) fn bind(
    store: &mut Store,
    inputs: &Inputs<'_>,
    routing: &Routing<'_>,
    restored: &BTreeMap<IpAddr, WorkloadKey>,
    said: &mut Said,
) {
    let mut bound = BTreeMap::new();
    let entries = || inputs.inventory.entries.iter().enumerate().filter(|(_, entry)| entry.matches == Match::Address);
    // Old bindings first: a namespace that is one entry cannot become another by showing that one's address too.
    for (index, entry) in entries() {
        if let Some(key) = store.bound.get(&entry.name).copied()
            && (is_given(said, key, entry) || !said.statements.contains_key(&key))
        {
            said.enter(index, entry, key);
            bound.insert(entry.name.clone(), key);
        }
    }
    for (index, entry) in entries() {
        if bound.contains_key(&entry.name) {
            continue;
        }
        if let Some(key) = candidate(store, inputs, routing, restored, said, entry) {
            said.enter(index, entry, key);
            bound.insert(entry.name.clone(), key);
        }
    }
    store.bound = bound;
}

/// A source or a host route gives it one of the entry's addresses: more than a claim.
fn is_given(said: &Said, key: WorkloadKey, entry: &Entry) -> bool {
    entry.addresses.iter().any(|address| said.given_to(key, *address))
}

fn candidate(
    store: &Store,
    inputs: &Inputs<'_>,
    routing: &Routing<'_>,
    restored: &BTreeMap<IpAddr, WorkloadKey>,
    said: &Said,
    entry: &Entry,
) -> Option<WorkloadKey> {
    if let Some(key) = store.known.keys().find(|key| is_given(said, **key, entry)) {
        return Some(*key);
    }
    let claimants: BTreeSet<WorkloadKey> = store
        .known
        .iter()
        .filter(|(key, _)| !said.statements.contains_key(*key))
        .filter(|(key, space)| {
            shown(inputs.view, space).filter(|address| entry.addresses.contains(address)).any(|address| {
                let free = store.owners.get(address).is_none_or(|owner| owner == *key);
                free && implausible(inputs.view, routing, space, *address).is_none()
            })
        })
        .map(|(key, _)| *key)
        .collect();
    let earlier = |key: &&WorkloadKey| {
        let had = |address: &IpAddr| restored.get(address).or_else(|| store.owners.get(address)) == Some(*key);
        entry.addresses.iter().any(had)
    };
    claimants.iter().find(earlier).or(if claimants.len() == 1 { claimants.first() } else { None }).copied()
}
