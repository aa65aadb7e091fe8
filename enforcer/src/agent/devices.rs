//! Decides what the log says about devices: which ones lead out of the node, and which veths belong to workloads.
//!
//! Input: two snapshots. Output: a line of the log, or nothing. Whenever the uplinks change, the line lists all devices,
//! because a veth in the wrong list is the mistake to look for. Otherwise it lists only the veths that came or went.

use std::collections::BTreeSet;

use crate::workload::model::{LocalWorkload, Snapshot};

/// One line of the log.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum News<'a> {
    /// The uplinks have changed, or this is the first snapshot.
    All {
        /// Devices towards the outside.
        uplinks: BTreeSet<&'a str>,
        /// Veths of workloads.
        workloads: BTreeSet<&'a str>,
    },
    /// Veths of workloads have come or gone, or have another name.
    Workloads {
        /// New ones.
        appeared: BTreeSet<&'a str>,
        /// Old ones.
        gone: BTreeSet<&'a str>,
    },
}

impl<'a> News<'a> {
    /// What has changed; `None`: nothing that is worth a line.
    pub(super) fn between(before: Option<&'a Snapshot>, now: &'a Snapshot) -> Option<Self> {
        let workloads = |snapshot: &'a Snapshot| snapshot.local.values().flat_map(veths).collect::<BTreeSet<&str>>();
        let listed = workloads(now);
        let Some(before) = before.filter(|before| before.uplinks == now.uplinks) else {
            let uplinks = now.uplinks.values().map(String::as_str).collect();
            return Some(Self::All { uplinks, workloads: listed });
        };
        let old = workloads(before);
        let (appeared, gone) = (&listed - &old, &old - &listed);
        (!appeared.is_empty() || !gone.is_empty()).then_some(Self::Workloads { appeared, gone })
    }
}

/// Names of a workload's veths.
pub(super) fn veths(workload: &LocalWorkload) -> impl Iterator<Item = &str> {
    workload.endpoints.values().map(|interface| interface.name.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use enforcer_common::id::Ifindex;

    use super::*;
    use crate::workload::model::{Interface, Past, Vouched, WorkloadKey};

    fn snapshot(uplinks: &[&str], veths: &[&str]) -> Snapshot {
        let interface = |name: &&str| Interface { name: (*name).to_owned(), peer_mac: None, existed_at_start: false };
        let workload = LocalWorkload {
            identity: None,
            addresses: Vouched::new(),
            disputed: Vouched::new(),
            endpoints: (10..).map(Ifindex).zip(veths.iter().map(interface)).collect(),
            routes: false,
            disagrees: false,
            foreign: BTreeMap::new(),
            past: Past::default(),
        };
        Snapshot {
            local: BTreeMap::from([(WorkloadKey(1), workload)]),
            uplinks: (1..).map(Ifindex).zip(uplinks.iter().map(|name| (*name).to_owned())).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn both_groups_are_listed_at_first_and_when_the_uplinks_change() {
        let (first, second) = (snapshot(&["eth0"], &["va", "vb"]), snapshot(&["eth1"], &["va", "vb"]));
        let all = |uplink| News::All { uplinks: [uplink].into(), workloads: ["va", "vb"].into() };
        assert_eq!(News::between(None, &first), Some(all("eth0")));
        assert_eq!(News::between(Some(&first), &second), Some(all("eth1")));
    }

    #[test]
    fn of_veths_that_come_and_go_only_these_are_listed() {
        let (first, second) = (snapshot(&["eth0"], &["va", "vb"]), snapshot(&["eth0"], &["vb", "vc"]));
        let news = News::Workloads { appeared: ["vc"].into(), gone: ["va"].into() };
        assert_eq!(News::between(Some(&first), &second), Some(news));
        assert_eq!(News::between(Some(&first), &first), None);
    }
}
