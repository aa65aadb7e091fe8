//! Binds inventory entries that are matched by address to the network namespaces that they describe.
//!
//! An entry belongs to the first namespace that shows its address, until that namespace is gone. A namespace can show any
//! address, so it qualifies only if the address could be its own and nothing else names the namespace. If there is a runtime,
//! the namespace must also be missing from a list that is younger than the claim. Before that, a new container has no name
//! either, and it would take the entry until its name arrives.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::claims::{implausible, shown};
use super::routing::Routing;
use super::{Inputs, Said, Store};
use crate::workload::model::{WorkloadKey, WorkloadName};
use crate::workload::source::{LISTED_WITHIN, Listed};
use crate::workload::statement::{FoundBy, Statement};

/// The input of the binding.
pub(super) struct Binding<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) routing: &'a Routing<'a>,
    /// Owners of an earlier run.
    pub(super) restored: &'a BTreeMap<IpAddr, WorkloadKey>,
    /// Entries by address.
    pub(super) entries: &'a BTreeMap<IpAddr, usize>,
}

impl Binding<'_> {
    pub(super) fn bind(&self, store: &mut Store, said: &mut Said<'_>) {
        let mut bound = BTreeMap::new();
        let entries: Vec<_> = said.declared().filter(|(_, entry, _)| entry.found_by == FoundBy::Address).collect();
        // Old bindings first: a namespace that is one entry cannot become another by showing that one's address too.
        for (index, entry, name) in entries.iter().copied() {
            if let Some(key) = store.bound.get(name).copied()
                && (is_given(said, key, entry) || !said.statements.contains_key(&key))
            {
                said.enter(index, entry, key);
                bound.insert(name.clone(), key);
            }
        }
        let given = given(store, said);
        let claimants = self.claimants(store, said);
        let before = std::mem::take(&mut store.claimed);
        let free: Vec<_> = entries.into_iter().filter(|(_, _, name)| !bound.contains_key(*name)).collect();
        for (index, entry, name) in free {
            let strong = entry.addresses.iter().filter_map(|address| given.get(address)).min().copied();
            let key = strong.or_else(|| {
                let shown_by = claimants.get(&index)?;
                let claims = shown_by.iter().filter(|key| !said.statements.contains_key(*key)).copied();
                self.first(store, &before, (index, entry, name), &claims.collect(), &mut said.too_early)
            });
            if let Some(key) = key {
                said.enter(index, entry, key);
                bound.insert(name.clone(), key);
            }
        }
        store.bound = bound;
    }

    /// Namespaces that show an address of an entry where it could be their own, by the entry's index.
    fn claimants(&self, store: &Store, said: &Said<'_>) -> BTreeMap<usize, BTreeSet<WorkloadKey>> {
        let mut claimants: BTreeMap<usize, BTreeSet<WorkloadKey>> = BTreeMap::new();
        for (key, space) in store.known.iter().filter(|(key, _)| !said.statements.contains_key(*key)) {
            for address in shown(self.inputs.view, space) {
                let Some(index) = self.entries.get(address) else { continue };
                let free = store.owners.get(address).is_none_or(|owner| owner == key);
                if free && implausible(self.inputs.view, self.routing, space, *address).is_none() {
                    claimants.entry(*index).or_default().insert(*key);
                }
            }
        }
        claimants
    }

    /// The claimant that has had the address; else the only one. Those that may still get a name are left out.
    fn first(
        &self,
        store: &mut Store,
        before: &BTreeMap<(WorkloadName, WorkloadKey), Instant>,
        (index, entry, name): (usize, &Statement, &WorkloadName),
        claimants: &BTreeSet<WorkloadKey>,
        too_early: &mut BTreeSet<(usize, WorkloadKey)>,
    ) -> Option<WorkloadKey> {
        let had = |owners: &BTreeMap<IpAddr, WorkloadKey>, key: &WorkloadKey| {
            entry.addresses.iter().any(|address| owners.get(address) == Some(key))
        };
        let mut qualified = BTreeSet::new();
        for key in claimants {
            let claim = (name.clone(), *key);
            let since = before.get(&claim).copied().unwrap_or(self.inputs.now);
            store.claimed.insert(claim, since);
            let listed = self.listed().is_none_or(|listed| listed >= since + LISTED_WITHIN);
            // A container that had it before the restart had no name then either.
            if listed || had(self.restored, key) {
                qualified.insert(*key);
            } else {
                too_early.insert((index, *key));
            }
        }
        let earlier = |key: &&WorkloadKey| had(self.restored, key) || had(&store.owners, key);
        let only = if qualified.len() == 1 { qualified.first() } else { None };
        qualified.iter().find(earlier).or(only).copied()
    }

    /// When the oldest of the newest lists was asked for; `None`: no source gives lists.
    fn listed(&self) -> Option<Instant> {
        let at = |listed| if let Listed::At(at) = listed { Some(at) } else { None };
        self.inputs.sources.iter().filter_map(|source| at(source.listed)).min()
    }
}

/// Whether a source or a host route gives the namespace one of the entry's addresses, which is stronger than a claim.
fn is_given(said: &Said<'_>, key: WorkloadKey, entry: &Statement) -> bool {
    entry.addresses.iter().any(|address| said.given_to(key, *address))
}

/// The first workload that a source or a host route gives each address.
fn given(store: &Store, said: &Said<'_>) -> BTreeMap<IpAddr, WorkloadKey> {
    let mut first = BTreeMap::new();
    for key in store.known.keys() {
        for address in said.given.get(key).into_iter().flatten() {
            first.entry(*address).or_insert(*key);
        }
    }
    first
}
