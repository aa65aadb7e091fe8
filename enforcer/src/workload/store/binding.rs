//! Binds inventory entries that are matched by address to the workloads that they describe.
//!
//! A workload can show any address, so that alone proves nothing. Another source or a host route has to give it the address.
//! An entry stays with the namespace to which it was bound until that is gone, and a veth that had another name is never
//! bound (D13).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Said, Store};
use crate::workload::model::WorkloadKey;
use crate::workload::statement::{FoundBy, Statement};

pub(super) fn bind(store: &mut Store, said: &mut Said<'_>) {
    let mut bound = BTreeMap::new();
    let entries: Vec<_> = said.declared().filter(|(_, entry, _)| entry.found_by == FoundBy::Address).collect();
    // Old bindings first: a workload that is one entry does not become another when a second route leads to it.
    for (index, entry, name) in entries.iter().copied() {
        if let Some(key) = store.bound.get(name).copied()
            && (is_given(said, key, entry) || !said.statements.contains_key(&key))
        {
            said.enter(index, key);
            bound.insert(name.clone(), key);
        }
    }
    let given = given(store, said);
    for (index, entry, name) in entries {
        if bound.contains_key(name) {
            continue;
        }
        let key = entry.addresses.iter().filter_map(|address| given.get(address)).min().copied();
        // Where another source names it, the two have to agree; `unite` says so if they do not.
        let fits =
            |key: &WorkloadKey| said.statements.contains_key(key) || store.memory.had_no_other(&store.known[key], name);
        if let Some(key) = key.filter(fits) {
            said.enter(index, key);
            bound.insert(name.clone(), key);
        }
    }
    store.bound = bound;
}

/// Whether another source or a host route gives the workload one of the entry's addresses.
fn is_given(said: &Said<'_>, key: WorkloadKey, entry: &Statement) -> bool {
    entry.addresses.iter().any(|address| said.given_to(key, *address))
}

/// The first workload that a source or a host route gives each address.
fn given(store: &Store, said: &Said<'_>) -> BTreeMap<IpAddr, WorkloadKey> {
    let mut first = BTreeMap::new();
    for key in store.known.keys() {
        for address in said.given.get(key).into_iter().flat_map(BTreeMap::keys) {
            first.entry(*address).or_insert(*key);
        }
    }
    first
}
