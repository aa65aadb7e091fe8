//! Says by which veth each address of a local workload is reached, for what is judged behind translation (D5).
//!
//! Input: a plan, and the addresses of each of its workloads that have an id. Output: the entries of `VETHS`. An address that
//! several workloads have leads to none of them, so that nothing which they send to a Service is anybody's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use enforcer_common::id::{Address, Ifindex};

use super::{Plan, WorkloadKey};

/// A veth of each address: all veths of a workload have the same policy.
pub(crate) fn veths(plan: &Plan<'_>, addresses: impl Fn(WorkloadKey) -> Vec<Address>) -> BTreeMap<Address, Ifindex> {
    let mut veths = BTreeMap::new();
    for workload in &plan.workloads {
        let Some(veth) = workload.endpoints.first() else { continue };
        for address in addresses(workload.key) {
            match veths.entry(address) {
                Entry::Vacant(place) => {
                    place.insert(*veth);
                }
                Entry::Occupied(mut place) if place.get() != veth => {
                    place.insert(Ifindex::NONE);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    veths
}
