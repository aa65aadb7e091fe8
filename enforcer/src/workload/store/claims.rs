//! Decides which workload owns which address. The rules, strongest first:
//!
//! 1. An address of the node belongs to the node alone.
//! 2. An address that a source or a host route gives to a workload belongs to that workload.
//! 3. A floating address belongs to the one of its declared holders that shows it.
//! 4. An address that only a container itself shows belongs to it if it could be the container's (see `implausible`), if no
//!    source gives the container others of the family, if it is link-local or was shown while the container was new, and if
//!    no other workload, entry or declaration has it. Such an address is worth little (`Voucher::is_nobody`).
//!
//! A stronger rule takes the address at once, whoever had it before. If two workloads have equal claims, the earlier owner
//! keeps the address. If their order is not known, or both show a floating address, it is disputed and belongs to neither.
//!
//! A container chooses how many addresses it shows, so the claims of one workload are bounded. Claims beyond `OWN_ADDRESSES`
//! are counted, but not weighed and not reported one by one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;
use ipnetwork::IpNetwork;

use super::past::Memory;
use super::routing::Routing;
use super::{Inputs, Said, Space};
use crate::workload::finding::{Finding, Refusal, Subject};
use crate::workload::model::{Vouched, Voucher, WorkloadKey};
use crate::workload::view::NetworkView;

/// The input of the rules.
pub(super) struct Claims<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) known: &'a BTreeMap<WorkloadKey, Space>,
    pub(super) memory: &'a Memory,
    pub(super) said: &'a Said<'a>,
    pub(super) routing: &'a Routing<'a>,
}

/// The result of the rules.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    pub(super) owners: BTreeMap<IpAddr, WorkloadKey>,
    disputed: BTreeMap<IpAddr, BTreeSet<WorkloadKey>>,
    vouchers: BTreeMap<(WorkloadKey, IpAddr), Voucher>,
    refused: BTreeSet<(WorkloadKey, IpAddr, Refused)>,
    unheard: BTreeMap<WorkloadKey, usize>,
}

/// How strong a claim is; the strongest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Right {
    Given,
    Floating,
    Shown,
}

impl Right {
    fn of(voucher: &Voucher) -> Self {
        match voucher {
            Voucher::Source(_) | Voucher::HostRoute => Self::Given,
            Voucher::Floating(_) => Self::Floating,
            Voucher::Pinned | Voucher::LinkLocal => Self::Shown,
        }
    }
}

/// What one workload claims, before others are heard.
#[derive(Debug, Default)]
struct Asked {
    claims: Vouched,
    refused: Vec<(IpAddr, Refusal)>,
    /// How many claims there are beyond these.
    unheard: usize,
}

/// Addresses of one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    pub(super) own: Vouched,
    pub(super) disputed: Vouched,
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
        let mut claimed: BTreeMap<IpAddr, BTreeMap<Right, BTreeSet<WorkloadKey>>> = BTreeMap::new();
        for (key, space) in self.known {
            let had = |address: &IpAddr| before.get(address).or_else(|| restored.get(address)) == Some(key);
            let asked = self.asked(*key, space, had);
            let refused = asked.refused.into_iter().map(|(address, why)| (*key, address, Refused::Plainly(why)));
            verdicts.refused.extend(refused);
            for (address, voucher) in asked.claims {
                claimed.entry(address).or_default().entry(Right::of(&voucher)).or_default().insert(*key);
                verdicts.vouchers.insert((*key, address), voucher);
            }
            if asked.unheard > 0 {
                verdicts.unheard.insert(*key, asked.unheard);
            }
        }
        for (address, by_right) in claimed {
            let Some((right, contenders)) = by_right.first_key_value() else { continue };
            // Two are said to have it. Only the node's own routes can tell whose it is here.
            let is_contested = self.said.contested.contains_key(&address);
            let is_routed = |key: &&WorkloadKey| verdicts.vouchers.get(&(**key, address)) == Some(&Voucher::HostRoute);
            let routed: BTreeSet<WorkloadKey> =
                contenders.iter().filter(|key| is_contested && is_routed(key)).copied().collect();
            let contenders = if routed.is_empty() { contenders } else { &routed };
            let earlier =
                before.get(&address).or_else(|| restored.get(&address)).filter(|key| contenders.contains(key));
            // A holder that failed may show a floating address for ever, and the next one must not wait for that.
            let earlier = earlier.filter(|_| *right != Right::Floating);
            let sole = if contenders.len() == 1 { contenders.first() } else { None };
            let owner = earlier.or(sole).filter(|_| !is_contested || !routed.is_empty());
            let Some(winner) = owner.or(contenders.first()).copied() else { continue };
            match owner {
                Some(owner) => _ = verdicts.owners.insert(address, *owner),
                None => _ = verdicts.disputed.insert(address, contenders.clone()),
            }
            let all = by_right.values().flatten();
            let losers = all.filter(|key| **key != winner && (owner.is_some() || !contenders.contains(*key)));
            verdicts.refused.extend(losers.map(|key| (*key, address, Refused::Owned(winner))));
        }
        verdicts
    }

    /// The claims of one workload that are weighed against others': given ones first, then those that it `had`.
    fn asked(&self, key: WorkloadKey, space: &Space, had: impl Fn(&IpAddr) -> bool) -> Asked {
        let mut asked = Asked::default();
        let mut claims = Vec::new();
        let mut ask = |address: IpAddr, right: Result<Voucher, Refusal>| match right {
            Ok(voucher) => claims.push((Right::of(&voucher), !had(&address), address, voucher)),
            Err(refusal) => asked.refused.push((address, refusal)),
        };
        for (address, voucher) in self.said.given.get(&key).into_iter().flatten() {
            ask(*address, self.refused_to_all(*address).map_or_else(|| Ok(voucher.clone()), Err));
        }
        let shown = shown(self.inputs.view, space).copied();
        for address in shown.filter(|address| !self.said.given_to(key, *address)) {
            ask(address, self.right_to_shown(key, space, address));
        }
        let unread = space.nsid.and_then(|nsid| self.inputs.view.unread.get(&nsid)).copied().unwrap_or_default();
        let beyond = |length: usize| length.saturating_sub(OWN_ADDRESSES);
        asked.unheard = unread + beyond(claims.len()) + beyond(asked.refused.len());
        asked.refused.truncate(OWN_ADDRESSES);
        claims.sort_unstable();
        asked.claims =
            claims.into_iter().take(OWN_ADDRESSES).map(|(_, _, address, voucher)| (address, voucher)).collect();
        asked
    }

    /// By what right a workload may have an address that it shows and that nobody gives to it.
    fn right_to_shown(&self, key: WorkloadKey, space: &Space, address: IpAddr) -> Result<Voucher, Refusal> {
        let foreign = (self.refused_to_all(address))
            .or_else(|| implausible(self.inputs.view, self.routing, space, address))
            .or_else(|| self.entry_of_another(key, address));
        if let Some(refusal) = foreign {
            return Err(refusal);
        }
        if let Some(source) = self.said.floating.get(&key).and_then(|floating| floating.get(&address)) {
            return Ok(Voucher::Floating((*source).to_owned()));
        }
        if let Some(statement) = self.said.floats.get(&address) {
            return Err(Refusal::Floating { by: statement.by.clone() });
        }
        if is_link_local(address) {
            return Ok(Voucher::LinkLocal);
        }
        if let Some(source) = self.said.family_given_by(key, address) {
            return Err(Refusal::NotGiven { source: source.to_owned() });
        }
        let settles = || self.memory.settles(space, self.inputs.settling, self.inputs.now).is_some();
        if self.memory.has_pinned(key, &address) || settles() { Ok(Voucher::Pinned) } else { Err(Refusal::Late) }
    }

    /// Why nobody here can have an address, whoever gives it.
    fn refused_to_all(&self, address: IpAddr) -> Option<Refusal> {
        let node = self.inputs.sources.iter().find_map(|source| source.nodes.get(&address));
        let other = || node.map(|name| Refusal::OfNode { name: name.to_string() });
        refused_to_all(self.inputs.view, address).or_else(other)
    }

    fn entry_of_another(&self, key: WorkloadKey, address: IpAddr) -> Option<Refusal> {
        let index = *self.said.declaring.get(&address)?;
        if self.said.found.get(&index) == Some(&key) {
            return None;
        }
        let entry = self.said.entries[index];
        let name = entry.statement.declared()?.clone();
        Some(Refusal::Declared { source: entry.source.to_owned(), name })
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
        for ((key, address), voucher) in &self.vouchers {
            let addresses = all.entry(*key).or_default();
            let of_key = |keys: &BTreeSet<WorkloadKey>| keys.contains(key);
            if self.owners.get(address) == Some(key) {
                addresses.own.insert(*address, voucher.clone());
            } else if self.disputed.get(address).is_some_and(of_key) {
                addresses.disputed.insert(*address, voucher.clone());
            }
        }
        all
    }

    /// What a workload got because it showed it while it was new.
    pub(super) fn pinned(&self, key: WorkloadKey) -> BTreeSet<IpAddr> {
        let first = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let claims = self.vouchers.range((key, first)..).take_while(|((of, _), _)| *of == key);
        let has = |address: &IpAddr| {
            self.owners.get(address) == Some(&key) || self.disputed.get(address).is_some_and(|keys| keys.contains(&key))
        };
        claims
            .filter(|((_, address), voucher)| **voucher == Voucher::Pinned && has(address))
            .map(|((_, address), _)| *address)
            .collect()
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
        let between = |keys: &&BTreeSet<WorkloadKey>| keys.len() > 1;
        let disputed = self.disputed.iter().filter(|(_, keys)| between(keys));
        let disputed = disputed.map(|(address, keys)| Finding::AddressDisputed {
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

/// Addresses inside a namespace, as far as it is the one that its veth was named in.
pub(super) fn shown<'a>(view: &'a NetworkView, space: &Space) -> impl Iterator<Item = &'a IpAddr> + use<'a> {
    space.nsid.filter(|_| !space.strayed).and_then(|nsid| view.inside.get(&nsid)).into_iter().flatten()
}

/// Why an address that a namespace only shows cannot be its own, no matter who else has it.
fn implausible(view: &NetworkView, routing: &Routing<'_>, space: &Space, address: IpAddr) -> Option<Refusal> {
    if view.gateways.contains(&address) {
        return Some(Refusal::Gateway);
    }
    match address {
        // Metadata and DNS services live here; a container must not stand in for them.
        IpAddr::V4(v4) if v4.is_link_local() => return Some(Refusal::Reserved),
        IpAddr::V6(_) if is_link_local(address) => return None,
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

/// IPv6 only: a metadata service may have an IPv4 one.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
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
