//! What is remembered of a veth for as long as it is there: when it was first seen, and which name it has had (D11, D13).
//!
//! The host's side of a veth is out of its workload's reach; whatever its far side does, this stays.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;

use super::{Inputs, Space};
use crate::workload::model::{Past, WorkloadKey, WorkloadName};
use crate::workload::statement::POD;

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
    /// When this run saw it first.
    seen: Instant,
    /// The first addresses of each family that the namespace behind it showed.
    first: BTreeSet<IpAddr>,
    /// It was new when `first` was seen: nothing had run behind it yet that could choose what it shows.
    is_honest: bool,
}

impl Memory {
    pub(super) fn restore(&mut self, restored: BTreeMap<Ifindex, Past>) {
        self.restored = restored;
    }

    /// Looks at where a veth leads now. Returns whether it has left the namespace in which it was named, now or ever.
    /// `at_start`: a veth that is not known yet was there before this run.
    pub(super) fn strays(&mut self, veth: Ifindex, nsid: Option<i32>, inputs: &Inputs<'_>, at_start: bool) -> bool {
        let (restored, seen) = (self.restored.get(&veth), inputs.now);
        let veth = self.veths.entry(veth).or_insert_with(|| match restored.cloned() {
            Some(Past { nsid, named, strayed, settled, pinned: _, first }) => {
                let (since, is_honest) = ((!settled).then_some(seen), !first.is_empty());
                Veth { since, nsid, named, strayed, seen, first, is_honest }
            }
            None => Veth {
                since: Some(seen),
                nsid: None,
                named: None,
                strayed: false,
                seen,
                first: BTreeSet::new(),
                is_honest: !at_start,
            },
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

    /// Notes what a namespace shows, unless its veths have shown addresses of the family before: the first ones are those that
    /// the node's network gave it, and whatever comes later may be its own choice.
    pub(super) fn first_shown(&mut self, space: &Space, shown: impl Iterator<Item = IpAddr>) {
        let before = self.first(space);
        let is_new = |address: &IpAddr| before.iter().all(|known| known.is_ipv4() != address.is_ipv4());
        let new: BTreeSet<IpAddr> = shown.filter(is_new).take(OWN_ADDRESSES).collect();
        for veth in &space.veths {
            if let Some(veth) = self.veths.get_mut(veth).filter(|veth| veth.first.is_empty() || !new.is_empty()) {
                veth.first.extend(before.iter().chain(&new));
            }
        }
    }

    /// What a namespace has shown first, of each family.
    pub(super) fn first(&self, space: &Space) -> BTreeSet<IpAddr> {
        space.veths.iter().filter_map(|veth| self.veths.get(veth)).flat_map(|veth| veth.first.iter().copied()).collect()
    }

    /// Whether all veths of a namespace were new when it showed its first addresses.
    pub(super) fn is_honest(&self, space: &Space) -> bool {
        space.veths.iter().filter_map(|veth| self.veths.get(veth)).all(|veth| veth.is_honest)
    }

    /// When this run saw the newest veth of a namespace first.
    pub(super) fn seen(&self, space: &Space) -> Option<Instant> {
        space.veths.iter().filter_map(|veth| self.veths.get(veth)).map(|veth| veth.seen).max()
    }

    /// The objects that the veths of the namespace were named as.
    pub(super) fn objects(&self, space: &Space) -> impl Iterator<Item = &str> {
        self.named(space).map(|(_, object)| object.as_str())
    }

    /// Whether a pod may have the namespace: it was no other pod's, and nothing of another name.
    pub(super) fn suits(&self, space: &Space, name: &WorkloadName, object: &str) -> bool {
        self.named(space).all(|(had, of)| of == object || had == name && !of.starts_with(POD))
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
            first: if self.is_honest(space) { self.first(space) } else { BTreeSet::new() },
        }
    }
}
