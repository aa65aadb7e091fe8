//! What is remembered of a veth for as long as it is there: when it was first seen, and which name it has had (D11, D13).
//!
//! The host's side of a veth is out of its workload's reach; whatever its far side does, this stays.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;

use super::{Inputs, Space};
use crate::workload::model::{Past, WorkloadKey, WorkloadName};

/// The memory of all veths, and what is pinned to the namespaces behind them.
#[derive(Debug, Default)]
pub(super) struct Memory {
    veths: BTreeMap<Ifindex, Veth>,
    pinned: BTreeMap<WorkloadKey, BTreeSet<IpAddr>>,
    /// What an earlier run remembered, until the first update.
    restored: BTreeMap<Ifindex, Past>,
}

#[derive(Debug)]
struct Veth {
    /// When it was first seen; `None`: its settling time ended in an earlier run.
    since: Option<Instant>,
    /// The namespace behind it, once it has a name: the one in which it got the name.
    nsid: Option<i32>,
    /// The name and the object that a source named.
    named: Option<(WorkloadName, String)>,
    strayed: bool,
}

impl Memory {
    pub(super) fn restore(&mut self, restored: BTreeMap<Ifindex, Past>) {
        self.restored = restored;
    }

    /// Looks at where a veth leads now. Returns whether it has left the namespace in which it was named, now or ever.
    pub(super) fn strays(&mut self, veth: Ifindex, nsid: Option<i32>, inputs: &Inputs<'_>) -> bool {
        let restored = self.restored.get(&veth);
        let veth = self.veths.entry(veth).or_insert_with(|| match restored.cloned() {
            Some(Past { nsid, named, strayed, settled, pinned: _ }) => {
                Veth { since: (!settled).then_some(inputs.now), nsid, named, strayed }
            }
            None => Veth { since: Some(inputs.now), nsid: None, named: None, strayed: false },
        });
        // Without a number the namespace is being torn down, and the veth with it.
        let Some(nsid) = nsid else { return veth.strayed };
        if veth.named.is_some() && veth.nsid.is_some_and(|named_in| named_in != nsid || inputs.gone.contains(&nsid)) {
            veth.strayed = true;
        } else {
            veth.nsid = Some(nsid);
        }
        veth.strayed
    }

    /// Forgets what is gone, and gives the namespaces of an earlier run their pinned addresses back.
    pub(super) fn keep(&mut self, seen: &BTreeSet<Ifindex>, known: &BTreeMap<WorkloadKey, Space>) {
        self.veths.retain(|veth, _| seen.contains(veth));
        self.pinned.retain(|key, _| known.contains_key(key));
        let restored = std::mem::take(&mut self.restored);
        for (key, space) in known.iter().filter(|(_, space)| !space.strayed) {
            let pinned = space.veths.iter().filter_map(|veth| restored.get(veth)).flat_map(|past| &past.pinned);
            let pinned: BTreeSet<IpAddr> = pinned.copied().collect();
            if !pinned.is_empty() {
                self.pinned.insert(*key, pinned);
            }
        }
    }

    /// The name that a veth of the namespace has had.
    pub(super) fn name(&self, space: &Space) -> Option<&WorkloadName> {
        self.named(space).next().map(|(name, _)| name)
    }

    fn named(&self, space: &Space) -> impl Iterator<Item = &(WorkloadName, String)> {
        space.veths.iter().filter_map(|veth| self.veths.get(veth)?.named.as_ref())
    }

    /// Whether no veth of the namespace has had another name.
    pub(super) fn had_no_other(&self, space: &Space, name: &WorkloadName) -> bool {
        self.named(space).all(|(had, _)| had == name)
    }

    /// Names all veths of a namespace, unless one of them has had another name as another object.
    pub(super) fn call(&mut self, space: &Space, name: &WorkloadName, object: &str) -> bool {
        let allowed = self.named(space).all(|(had, of)| had == name || of == object);
        if allowed {
            for veth in &space.veths {
                if let Some(veth) = self.veths.get_mut(veth) {
                    veth.named = Some((name.clone(), object.to_owned()));
                }
            }
        }
        allowed
    }

    /// When the settling time of a namespace ends; `None`: it has ended. A new veth brings new addresses.
    pub(super) fn settles(&self, space: &Space, settling: Duration, now: Instant) -> Option<Instant> {
        let since = space.veths.iter().filter_map(|veth| self.veths.get(veth)?.since);
        since.max().map(|since| since + settling).filter(|end| *end >= now)
    }

    /// Whether an address is pinned to a namespace.
    pub(super) fn has_pinned(&self, key: WorkloadKey, address: &IpAddr) -> bool {
        self.pinned.get(&key).is_some_and(|pinned| pinned.contains(address))
    }

    /// Pins what a namespace shows while it settles. It can have no more than `room` pins, and those that it does not
    /// show give way.
    pub(super) fn pin(&mut self, key: WorkloadKey, shown: &BTreeSet<IpAddr>, room: usize) {
        let pinned = self.pinned.entry(key).or_default();
        let before = std::mem::take(pinned);
        pinned.extend(shown.iter().take(room));
        let left = room - pinned.len();
        let kept: Vec<IpAddr> = before.difference(shown).take(left).copied().collect();
        pinned.extend(kept);
    }

    /// What a later daemon has to know of a namespace.
    pub(super) fn of(&self, key: WorkloadKey, space: &Space, settled: bool) -> Past {
        Past {
            nsid: space.nsid,
            named: self.named(space).next().cloned(),
            strayed: space.strayed,
            settled,
            pinned: self.pinned.get(&key).cloned().unwrap_or_default(),
        }
    }
}
