//! Decides which workload owns which address. The rules, strongest first:
//!
//! 1. An address of the node belongs to the node alone.
//! 2. An address that a source or a host route gives to a workload belongs to that workload.
//! 3. An address that only a container itself shows belongs to it if three conditions hold: it could be the container's
//!    (see `implausible`), no source gives it to another workload, and no other workload has it.
//!
//! If two workloads have equal claims, the earlier owner keeps the address. If their order is not known, the address is
//! disputed and belongs to neither.
//!
//! A container chooses how many addresses it shows, so the claims of one workload are bounded. Claims beyond `OWN_ADDRESSES`
//! are counted, but not weighed and not reported one by one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;
use ipnetwork::IpNetwork;

use super::routing::Routing;
use super::{Inputs, Said, Space};
use crate::workload::finding::{Finding, Refusal, Subject};
use crate::workload::model::WorkloadKey;
use crate::workload::view::NetworkView;

/// The input of the rules.
pub(super) struct Claims<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) known: &'a BTreeMap<WorkloadKey, Space>,
    pub(super) said: &'a Said<'a>,
    pub(super) routing: &'a Routing<'a>,
    pub(super) entries: &'a BTreeMap<IpAddr, usize>,
}

/// The result of the rules.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    pub(super) owners: BTreeMap<IpAddr, WorkloadKey>,
    disputed: BTreeMap<IpAddr, BTreeSet<WorkloadKey>>,
    refused: BTreeSet<(WorkloadKey, IpAddr, Refused)>,
    unheard: BTreeMap<WorkloadKey, usize>,
}

/// What one workload claims, before others are heard.
#[derive(Debug, Default)]
struct Asked {
    given: Vec<IpAddr>,
    shown: Vec<IpAddr>,
    refused: Vec<(IpAddr, Refusal)>,
    /// How many claims there are beyond these.
    unheard: usize,
}

/// Addresses of one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) own: BTreeSet<IpAddr>,
    pub(super) disputed: BTreeSet<IpAddr>,
}

/// A refusal that names its owner by key; findings put the name in.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Refused {
    Plainly(Refusal),
    Owned(WorkloadKey),
}

impl Claims<'_> {
    /// Decides every address. `before`: owners until now. `restored`: owners of an earlier run.
    pub(super) fn decide(
        &self,
        before: &BTreeMap<IpAddr, WorkloadKey>,
        restored: &BTreeMap<IpAddr, WorkloadKey>,
    ) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let mut given: BTreeMap<IpAddr, BTreeSet<WorkloadKey>> = BTreeMap::new();
        let mut shown_by: BTreeMap<IpAddr, BTreeSet<WorkloadKey>> = BTreeMap::new();
        let contested = self.contested();
        for (key, space) in self.known {
            let had = |address: &IpAddr| before.get(address).or_else(|| restored.get(address)) == Some(key);
            let asked = self.asked(*key, space, &contested, had);
            let refused = asked.refused.into_iter().map(|(address, why)| (*key, address, Refused::Plainly(why)));
            verdicts.refused.extend(refused);
            for address in asked.given {
                given.entry(address).or_default().insert(*key);
            }
            for address in asked.shown {
                shown_by.entry(address).or_default().insert(*key);
            }
            if asked.unheard > 0 {
                verdicts.unheard.insert(*key, asked.unheard);
            }
        }
        let addresses: BTreeSet<IpAddr> = given.keys().chain(shown_by.keys()).copied().collect();
        let nobody = BTreeSet::new();
        for address in addresses {
            let strong = given.get(&address).unwrap_or(&nobody);
            let weak = shown_by.get(&address).unwrap_or(&nobody);
            let contenders = if strong.is_empty() { weak } else { strong };
            let earlier =
                before.get(&address).or_else(|| restored.get(&address)).filter(|key| contenders.contains(key));
            let owner = earlier.or(if contenders.len() == 1 { contenders.first() } else { None });
            match owner {
                Some(owner) => {
                    verdicts.owners.insert(address, *owner);
                    let losers = strong.union(weak).filter(|key| *key != owner);
                    verdicts.refused.extend(losers.map(|key| (*key, address, Refused::Owned(*owner))));
                }
                None => _ = verdicts.disputed.insert(address, strong.union(weak).copied().collect()),
            }
        }
        verdicts
    }

    /// The claims of one workload that are weighed against others': given ones first, then those that it `had`.
    fn asked(
        &self,
        key: WorkloadKey,
        space: &Space,
        contested: &BTreeSet<IpAddr>,
        had: impl Fn(&IpAddr) -> bool,
    ) -> Asked {
        let mut asked = Asked::default();
        let mut claims = Vec::new();
        for address in self.said.given.get(&key).into_iter().flatten().copied() {
            match refused_to_all(self.inputs.view, address) {
                Some(refusal) => asked.refused.push((address, refusal)),
                None => claims.push((false, !had(&address), address)),
            }
        }
        for address in shown(self.inputs.view, space).copied().filter(|address| !self.said.given_to(key, *address)) {
            match self.refusal(key, space, contested, address) {
                Some(refusal) => asked.refused.push((address, refusal)),
                None => claims.push((true, !had(&address), address)),
            }
        }
        let unread = space.nsid.and_then(|nsid| self.inputs.view.unread.get(&nsid)).copied().unwrap_or_default();
        let beyond = |length: usize| length.saturating_sub(OWN_ADDRESSES);
        asked.unheard = unread + beyond(claims.len()) + beyond(asked.refused.len());
        asked.refused.truncate(OWN_ADDRESSES);
        claims.sort_unstable();
        for (only_shown, _, address) in claims.into_iter().take(OWN_ADDRESSES) {
            if only_shown { &mut asked.shown } else { &mut asked.given }.push(address);
        }
        asked
    }

    /// Why an address that is only shown cannot be this workload's.
    fn refusal(
        &self,
        key: WorkloadKey,
        space: &Space,
        contested: &BTreeSet<IpAddr>,
        address: IpAddr,
    ) -> Option<Refusal> {
        implausible(self.inputs.view, self.routing, space, address)
            .or_else(|| self.entry_of_another(key, contested, address))
    }

    fn entry_of_another(&self, key: WorkloadKey, contested: &BTreeSet<IpAddr>, address: IpAddr) -> Option<Refusal> {
        let index = *self.entries.get(&address)?;
        if self.said.found.get(&index) == Some(&key) {
            return None;
        }
        let entry = self.said.entries[index];
        let name = entry.statement.declared()?.clone();
        (!contested.contains(&address) || self.said.statements.contains_key(&key))
            .then(|| Refusal::Declared { source: entry.source.to_owned(), name })
    }

    /// Addresses of an entry that nobody is and that several namespaces without a name show: nobody knows whose they
    /// are, so they are disputed, not refused.
    fn contested(&self) -> BTreeSet<IpAddr> {
        let mut once = BTreeSet::new();
        let mut contested = BTreeSet::new();
        for (key, space) in self.known.iter().filter(|(key, _)| !self.said.statements.contains_key(*key)) {
            for address in shown(self.inputs.view, space).copied() {
                let Some(index) = self.entries.get(&address) else { continue };
                if !self.said.found.contains_key(index)
                    && !self.said.too_early.contains(&(*index, *key))
                    && implausible(self.inputs.view, self.routing, space, address).is_none()
                    && !once.insert(address)
                {
                    contested.insert(address);
                }
            }
        }
        contested
    }
}

impl Verdicts {
    /// Whether some local workload owns the address or has a plausible claim to it.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        self.owners.contains_key(&address) || self.disputed.contains_key(&address)
    }

    /// Own and disputed addresses of each workload that has any.
    pub(super) fn by_workload(&self) -> BTreeMap<WorkloadKey, Addresses> {
        let mut all: BTreeMap<WorkloadKey, Addresses> = BTreeMap::new();
        for (address, key) in &self.owners {
            all.entry(*key).or_default().own.insert(*address);
        }
        for (address, keys) in &self.disputed {
            for key in keys {
                all.entry(*key).or_default().disputed.insert(*address);
            }
        }
        all
    }

    pub(super) fn findings(&self, subject_of: &impl Fn(WorkloadKey) -> Subject) -> BTreeSet<Finding> {
        let refused = self.refused.iter().map(|(key, address, refused)| Finding::AddressRefused {
            claimant: subject_of(*key),
            address: *address,
            because: match refused {
                Refused::Plainly(refusal) => refusal.clone(),
                Refused::Owned(owner) => Refusal::Owned { owner: subject_of(*owner) },
            },
        });
        let disputed = self.disputed.iter().map(|(address, keys)| Finding::AddressDisputed {
            address: *address,
            between: keys.iter().map(|key| subject_of(*key)).collect(),
        });
        let unheard = self
            .unheard
            .iter()
            .map(|(key, count)| Finding::TooManyAddresses { claimant: subject_of(*key), count: *count });
        refused.chain(disputed).chain(unheard).collect()
    }
}

/// Addresses inside a namespace.
pub(super) fn shown<'a>(view: &'a NetworkView, space: &Space) -> impl Iterator<Item = &'a IpAddr> + use<'a> {
    space.nsid.and_then(|nsid| view.inside.get(&nsid)).into_iter().flatten()
}

/// Why an address that a namespace only shows cannot be its own, no matter who else has it.
pub(super) fn implausible(
    view: &NetworkView,
    routing: &Routing<'_>,
    space: &Space,
    address: IpAddr,
) -> Option<Refusal> {
    if let Some(refusal) = refused_to_all(view, address) {
        return Some(refusal);
    }
    if view.gateways.contains(&address) {
        return Some(Refusal::Gateway);
    }
    match address {
        // Metadata and DNS services live here; a container must not stand in for them.
        IpAddr::V4(v4) if v4.is_link_local() => return Some(Refusal::Reserved),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => return None,
        _ => {}
    }
    let best = routing.best(address);
    let masters: BTreeSet<Ifindex> =
        space.veths.iter().filter_map(|veth| view.links.get(veth).and_then(|link| link.master)).collect();
    // A subnet behind a next hop is that next hop's, and on a bridge anyone could be it.
    let leads_here =
        best.iter().any(|route| space.veths.contains(&route.device) || masters.contains(&route.device) && !route.via);
    if !leads_here {
        return Some(Refusal::OffSubnet);
    }
    best.iter().any(|route| is_edge(&route.to, address)).then_some(Refusal::Reserved)
}

fn refused_to_all(view: &NetworkView, address: IpAddr) -> Option<Refusal> {
    if view.node.contains(&address) {
        return Some(Refusal::Node);
    }
    let reserved = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => is_mapped_or_compatible(v6),
    };
    (reserved || address.is_multicast() || address.is_loopback() || address.is_unspecified())
        .then_some(Refusal::Reserved)
}

fn is_mapped_or_compatible(address: Ipv6Addr) -> bool {
    address.segments()[..5] == [0; 5]
}

/// The first and the last address of an IPv4 subnet stand for the subnet itself.
fn is_edge(subnet: &IpNetwork, address: IpAddr) -> bool {
    subnet.is_ipv4() && subnet.prefix() < 31 && (address == subnet.network() || address == subnet.broadcast())
}
