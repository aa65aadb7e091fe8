//! Rows: what a workload may do in one direction, as grants of ports to peers. Workloads with the same grants share one.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::id::{Direction, Row};

use crate::resolve::{PeerSetId, PortSetId, ResolvedPolicy};
use crate::workload::model::WorkloadKey;

pub(super) struct Rows {
    /// Grants of each row: sorted, each once. Which rule grants makes no difference to a verdict.
    pub(super) grants: Vec<Vec<(PeerSetId, PortSetId)>>,
    pub(super) of_workload: BTreeMap<WorkloadKey, [Row; 2]>,
}

pub(super) fn rows(resolved: &ResolvedPolicy) -> Rows {
    let mut grants: Vec<Vec<(PeerSetId, PortSetId)>> = Vec::new();
    let mut known: HashMap<Vec<(PeerSetId, PortSetId)>, Row> = HashMap::new();
    let mut of_isolation: HashMap<usize, Row> = HashMap::new();
    let mut of_workload = BTreeMap::new();
    for workload in resolved.subjects() {
        let row = [Direction::Ingress, Direction::Egress].map(|direction| {
            let Some((place, isolation)) = resolved.isolation_of(workload, direction) else {
                return Row::NOT_ISOLATED;
            };
            *of_isolation.entry(place).or_insert_with(|| {
                let mut row: Vec<_> = isolation.grants.iter().map(|grant| (grant.peers, grant.ports)).collect();
                row.sort_unstable();
                row.dedup();
                *known.entry(row).or_insert_with_key(|row| {
                    grants.push(row.clone());
                    Row(grants.len() as u32 - 1)
                })
            })
        });
        of_workload.insert(workload, row);
    }
    Rows { grants, of_workload }
}
