//! Builds from a compiled image and a snapshot what the daemon wants to have in the kernel. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use enforcer_common::id::{Address, Ifindex, Row};
use serde::{Deserialize, Serialize};

use crate::compile::image::Image;
use crate::plan::{Plan, PlannedWorkload};
use crate::workload::model::{Beside, LocalWorkload, Snapshot};

/// What happens to a workload that no source has named.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Closed: ARP, discovery and membership of groups only.
    #[default]
    Strict,
    /// Open: it may send and receive, also for addresses that nobody here has.
    Open,
}

/// The compiled image together with what the plan says about each workload of the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    image: Image,
    workloads: Vec<PlannedWorkload>,
    uplinks: Vec<Ifindex>,
    above: BTreeMap<Ifindex, BTreeSet<Ifindex>>,
    beside: Beside,
}

impl Intent {
    /// Every workload with its rows. `window`: see [`PlannedWorkload::window`].
    pub fn new(image: Image, snapshot: &Snapshot, unknown: Unknown, window: Option<std::time::Duration>) -> Self {
        let workloads = snapshot
            .local
            .iter()
            .map(|(key, workload)| {
                // Where sources contradict each other somebody meant to name it, and one that lost its name was somebody
                // (D13): both are closed all the same.
                let nobody = workload.identity.is_none() && !workload.disagrees && !workload.lost_its_name();
                let open = nobody && unknown == Unknown::Open;
                let named = workload.identity.is_some();
                let rows = match image.rows.get(key) {
                    Some(rows) if named => *rows,
                    _ if open => [Row::NOT_ISOLATED; 2],
                    _ => [Row::NONE; 2],
                };
                let existed = workload.endpoints.values().any(|interface| interface.existed_at_start);
                PlannedWorkload {
                    key: *key,
                    endpoints: workload.endpoints.keys().copied().collect(),
                    addresses: own(workload),
                    unknown: !named && !open,
                    routes: workload.routes || open,
                    rows,
                    window: window.filter(|_| existed),
                }
            })
            .collect();
        let uplinks = snapshot.uplinks.keys().copied().collect();
        Self { image, workloads, uplinks, above: snapshot.above.clone(), beside: snapshot.beside.clone() }
    }

    /// The tables.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The plan for the kernel side.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            lines: &self.image.lines,
            addresses: &self.image.addresses,
            workloads: self.workloads.clone(),
            uplinks: self.uplinks.clone(),
            above: self.above.clone(),
            beside: self.beside.clone(),
        }
    }
}

/// What it may send from, in the order of the addresses.
fn own(workload: &LocalWorkload) -> Vec<Address> {
    let all: BTreeSet<IpAddr> = workload.addresses.keys().chain(workload.disputed.keys()).copied().collect();
    all.into_iter().map(Address::from).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::compile::compile;
    use crate::policy::model::PolicySet;
    use crate::resolve::resolve;
    use crate::workload::model::{Identity, Interface, LabelSets, Past, Vouched, WorkloadKey, WorkloadName, given_by};

    fn workload(named: bool, existed_at_start: bool) -> LocalWorkload {
        let name = WorkloadName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let interface = Interface { name: "veth0".to_owned(), peer_mac: None, existed_at_start };
        LocalWorkload {
            identity: named.then(|| Identity { name, labels: LabelSets::default(), ports: BTreeMap::new() }),
            addresses: given_by("the inventory", [IpAddr::from([10, 88, 0, 10])]),
            disputed: Vouched::new(),
            endpoints: BTreeMap::from([(Ifindex(7), interface)]),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        }
    }

    fn planned(workload: LocalWorkload, unknown: Unknown) -> PlannedWorkload {
        let snapshot = Snapshot { local: BTreeMap::from([(WorkloadKey(1), workload)]), ..Snapshot::default() };
        let image = compile(&resolve(Arc::new(PolicySet::default()), Arc::new(snapshot.clone()))).unwrap();
        Intent::new(image, &snapshot, unknown, Some(Duration::from_mins(1))).plan().workloads[0].clone()
    }

    #[test]
    fn an_unknown_workload_is_closed_unless_all_unknown_ones_are_open() {
        let closed = planned(workload(false, false), Unknown::Strict);
        assert!(closed.unknown && !closed.routes && closed.rows == [Row::NONE; 2], "{closed:?}");
        let open = planned(workload(false, false), Unknown::Open);
        assert!(!open.unknown && open.routes && open.rows == [Row::NOT_ISOLATED; 2], "{open:?}");
    }

    #[test]
    fn a_workload_whose_sources_disagree_is_closed_whatever_happens_to_unknown_ones() {
        let closed = planned(LocalWorkload { disagrees: true, ..workload(false, false) }, Unknown::Open);
        assert!(closed.unknown && !closed.routes && closed.rows == [Row::NONE; 2], "{closed:?}");
    }

    #[test]
    fn a_workload_that_lost_its_name_is_closed_whatever_happens_to_unknown_ones() {
        let named = workload(true, false).identity.map(|identity| (identity.name, "netns web".to_owned()));
        let past = Past { named, ..Past::default() };
        let closed = planned(LocalWorkload { past, ..workload(false, false) }, Unknown::Open);
        assert!(closed.unknown && !closed.routes && closed.rows == [Row::NONE; 2], "{closed:?}");
    }

    #[test]
    fn a_named_workload_does_not_care_how_unknown_ones_are_treated() {
        for unknown in [Unknown::Strict, Unknown::Open] {
            let named = planned(workload(true, false), unknown);
            assert!(!named.unknown && !named.routes && named.rows == [Row::NOT_ISOLATED; 2], "{named:?}");
        }
    }

    #[test]
    fn only_a_veth_that_was_there_before_us_may_have_older_connections() {
        assert_eq!(planned(workload(true, true), Unknown::Strict).window, Some(Duration::from_mins(1)));
        assert_eq!(planned(workload(true, false), Unknown::Strict).window, None);
    }
}
