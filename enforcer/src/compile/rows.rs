//! Builds the rows. A row holds what the rules say about a workload in one direction, and workloads with equal rules share
//! one row.
//!
//! Input: the resolved policy. Output: the effects of each row on peers, and the rows of each workload.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::id::{Direction, Row};

use crate::resolve::{Clause, PeerSetId, PortSetId, Rank, ResolvedPolicy};
use crate::workload::model::WorkloadKey;

/// What a rule does for the peers that it names. Two rules with the same effect need not be told apart.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Effect {
    pub(super) rank: Rank,
    pub(super) ports: PortSetId,
}

pub(super) struct Rows {
    /// By row, the effects on each set of peers: sorted, each once.
    pub(super) effects: Vec<Vec<(PeerSetId, Effect)>>,
    pub(super) of_workload: BTreeMap<WorkloadKey, [Row; 2]>,
}

pub(super) fn rows(resolved: &ResolvedPolicy) -> Rows {
    let mut effects: Vec<Vec<(PeerSetId, Effect)>> = Vec::new();
    let mut known: HashMap<Vec<(PeerSetId, Effect)>, Row> = HashMap::new();
    let mut of_isolation: HashMap<usize, Row> = HashMap::new();
    let mut of_workload = BTreeMap::new();
    for workload in resolved.subjects() {
        let row = [Direction::Ingress, Direction::Egress].map(|direction| {
            let Some((place, isolation)) = resolved.isolation_of(workload, direction) else {
                return Row::NOT_ISOLATED;
            };
            *of_isolation.entry(place).or_insert_with(|| {
                let clauses = isolation.clauses.iter();
                let effect = |clause: &Clause| (clause.peers, Effect { rank: clause.rank, ports: clause.ports });
                let mut row: Vec<_> = clauses.map(effect).collect();
                row.sort_unstable();
                row.dedup();
                *known.entry(row).or_insert_with_key(|row| {
                    effects.push(row.clone());
                    Row(effects.len() as u32 - 1)
                })
            })
        });
        of_workload.insert(workload, row);
    }
    Rows { effects, of_workload }
}
