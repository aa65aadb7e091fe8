//! Decides which devices lead out of the node. A veth that is judged an uplink is not enforced, so in doubt it is judged a
//! workload's veth.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::id::Ifindex;

use super::Inputs;
use crate::workload::finding::Finding;
use crate::workload::view::{Link, NetworkView};

/// What each veth with a peer in another namespace was judged to be. A workload's veth keeps that judgement for its
/// life.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    judged: BTreeMap<Ifindex, Judged>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Judged {
    Uplink,
    Workload,
}

impl Uplinks {
    /// Takes over the judgements of an earlier run. A device that was judged both ways belongs to a workload.
    pub(super) fn restore(&mut self, endpoints: &BTreeSet<Ifindex>, uplinks: &BTreeSet<Ifindex>) {
        self.judged = uplinks.iter().map(|veth| (*veth, Judged::Uplink)).collect();
        self.judged.extend(endpoints.iter().map(|veth| (*veth, Judged::Workload)));
    }

    /// Every device that the first judgement can make an uplink, whoever is going to be named: that of each default route,
    /// what `--uplink` names, what was one in an earlier run, and all that lies below.
    pub(super) fn possible(&self, view: &NetworkView, asked: &[String]) -> BTreeSet<Ifindex> {
        let asked = view.links.iter().filter(|(_, link)| asked.contains(&link.name)).map(|(index, _)| *index);
        let earlier = self.judged.iter().filter(|(_, judged)| **judged == Judged::Uplink).map(|(veth, _)| *veth);
        let certain: BTreeSet<Ifindex> = asked.chain(earlier).collect();
        let routed = view.routes.iter().filter(|route| route.is_default()).map(|route| route.device);
        let mut open: Vec<Ifindex> = routed.chain(certain.iter().copied()).collect();
        let mut possible = BTreeSet::new();
        while let Some(index) = open.pop() {
            if !possible.insert(index) {
                continue;
            }
            let (veths, others): (Vec<Ifindex>, Vec<Ifindex>) =
                view.lower(index).into_iter().partition(|lower| view.links.get(lower).is_some_and(is_foreign));
            // The others may be named, and a single veth that is left is the way out.
            if others.is_empty() && veths.iter().all(|veth| !certain.contains(veth)) {
                open.extend(veths);
            }
            open.extend(others);
        }
        possible
    }

    /// All uplinks of this moment. `named`: veths of workloads that a source names. `first`: nothing was judged yet.
    ///
    /// Only at the first look can a route make a veth an uplink by itself: the node's own came before us, and a veth
    /// that comes later may be a container's whose name is still on the way.
    pub(super) fn update(
        &mut self,
        inputs: &Inputs<'_>,
        named: &BTreeSet<Ifindex>,
        first: bool,
        findings: &mut BTreeSet<Finding>,
    ) -> BTreeMap<Ifindex, String> {
        let links = &inputs.view.links;
        let mut asked = BTreeSet::new();
        for name in inputs.uplinks {
            match links.iter().find(|(_, link)| link.name == *name) {
                Some((index, _)) => _ = asked.insert(*index),
                None => _ = findings.insert(Finding::UplinkMissing { name: name.clone() }),
            }
        }
        let routed = inputs.view.routes.iter().filter(|route| route.is_default()).map(|route| route.device);
        let mut open: Vec<Ifindex> = routed.chain(asked.iter().copied()).collect();
        let mut uplinks = BTreeMap::new();
        while let Some(index) = open.pop() {
            let Some(link) = links.get(&index) else { continue };
            let fresh = first && !self.judged.contains_key(&index) && !named.contains(&index);
            if is_foreign(link) && !asked.contains(&index) && !fresh {
                continue;
            }
            if uplinks.insert(index, link.name.clone()).is_none() {
                open.extend(self.below(inputs, index, named, &asked, first, findings));
            }
        }
        // The node's own default route may come and go; its veth must not be cut off for that.
        for (veth, judged) in &self.judged {
            if *judged == Judged::Uplink
                && !named.contains(veth)
                && let Some(link) = links.get(veth).filter(|link| is_foreign(link))
            {
                uplinks.insert(*veth, link.name.clone());
            }
        }
        let judgement = |veth| {
            if uplinks.contains_key(&veth) { Judged::Uplink } else { Judged::Workload }
        };
        // What `--uplink` asks for is no judgement of ours: without the option it is a workload's again.
        self.judged = inputs
            .view
            .veths()
            .map(|(veth, _, _)| (veth, if asked.contains(&veth) { Judged::Workload } else { judgement(veth) }))
            .collect();
        uplinks
    }

    /// The devices below an uplink that also lead out of the node.
    fn below(
        &self,
        inputs: &Inputs<'_>,
        index: Ifindex,
        named: &BTreeSet<Ifindex>,
        asked: &BTreeSet<Ifindex>,
        first: bool,
        findings: &mut BTreeSet<Finding>,
    ) -> Vec<Ifindex> {
        let links = &inputs.view.links;
        let (veths, mut others): (Vec<Ifindex>, Vec<Ifindex>) =
            inputs.view.lower(index).into_iter().partition(|lower| links.get(lower).is_some_and(is_foreign));
        // Unnamed containers and the node's own way out look alike here. With another device in the bridge that one
        // is the way out; with a single unnamed veth it is that veth; else a person has to say.
        let candidates: Vec<Ifindex> = veths.into_iter().filter(|veth| !named.contains(veth)).collect();
        let known = |veth: &Ifindex| asked.contains(veth) || self.judged.get(veth) == Some(&Judged::Uplink);
        if !others.is_empty() || candidates.iter().any(known) {
            return others;
        }
        match candidates.as_slice() {
            [] => {}
            [only] if first && !self.judged.contains_key(only) => others.push(*only),
            _ => {
                let name = |veth: &Ifindex| links.get(veth).map(|link| link.name.clone());
                findings.insert(Finding::UplinkUnclear {
                    device: name(&index).unwrap_or_default(),
                    candidates: candidates.iter().filter_map(name).collect(),
                });
            }
        }
        others
    }
}

fn is_foreign(link: &Link) -> bool {
    link.peer.is_some()
}
