//! Merges the network view and the statements of all sources into one `Snapshot`. Pure: the same inputs in the same order
//! give the same result, and nothing here waits or reads.
//!
//! An address that is configured inside a container is only a claim. `claims` decides which claims are accepted.

#![forbid(unsafe_code)]

mod assemble;
mod binding;
mod claims;
mod evidence;
mod joins;
mod past;
mod routing;
#[cfg(test)]
mod tests;
mod uplinks;

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;
use enforcer_common::limits::OWN_ADDRESSES;

use self::claims::{Claims, Verdicts};
use self::joins::Joins;
use self::past::Memory;
use self::routing::Routing;
use self::uplinks::Uplinks;
use super::finding::{Finding, Subject};
use super::model::{Past, RemoteWorkload, Snapshot, Vouched, Voucher, WorkloadKey, WorkloadName};
use super::source::SourceState;
use super::statement::{FoundBy, Statement};
use super::view::NetworkView;

/// Everything that the store merges, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What netlink shows.
    pub view: &'a NetworkView,
    /// Ids of namespaces that went away since the last update; they may already stand for others in `view`.
    pub gone: &'a BTreeSet<i32>,
    /// What each source says.
    pub sources: &'a [SourceState],
    /// The nsid of each namespace path that a source names, where a veth of ours leads there.
    pub netns: &'a BTreeMap<PathBuf, i32>,
    /// Devices named by `--uplink`.
    pub uplinks: &'a [String],
    /// For how long after a veth was first seen the addresses behind it are pinned.
    pub settling: Duration,
    /// The kernel judges what is sent to a Service by its backend, so that the addresses of Services may be known.
    pub judges_backends: bool,
    /// Devices with tcx programs at their ingress that are not ours.
    pub chained: &'a BTreeSet<Ifindex>,
    /// The time.
    pub now: Instant,
}

/// What an update gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The merged view.
    pub snapshot: Snapshot,
    /// What a person should know about it.
    pub findings: BTreeSet<Finding>,
    /// When the next settling time ends, or another wait; `None`: there is none.
    pub settles: Option<Instant>,
    /// It is worth while to wait for that before the first snapshot counts.
    pub is_waiting: bool,
}

/// Keeps what the order of events decides: who had an address first, which namespace an entry was bound to first.
#[derive(Debug, Default)]
pub struct Store {
    updated: bool,
    keys: u64,
    known: BTreeMap<WorkloadKey, Space>,
    at_start: BTreeSet<Ifindex>,
    owners: BTreeMap<IpAddr, WorkloadKey>,
    bound: BTreeMap<WorkloadName, WorkloadKey>,
    memory: Memory,
    joins: Joins,
    uplinks: Uplinks,
    restored: BTreeMap<IpAddr, Ifindex>,
    last_findings: BTreeSet<Finding>,
    /// The workloads elsewhere of the last snapshot.
    remote: Vec<Arc<RemoteWorkload>>,
    refused: u64,
}

/// One incarnation of a network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Space {
    nsid: Option<i32>,
    veths: BTreeSet<Ifindex>,
    /// Its only veth was named in another namespace: what is in this one is not the workload that it was.
    strayed: bool,
}

/// A statement with the name of its source.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    source: &'a str,
    statement: &'a Statement,
}

/// What the sources say about the workloads of one moment.
#[derive(Debug, Default)]
struct Said<'a> {
    /// All statements, whether their workload is here or not.
    entries: Vec<Entry<'a>>,
    statements: BTreeMap<WorkloadKey, Vec<&'a Statement>>,
    /// Addresses that a source or a host route gives to a workload.
    given: BTreeMap<WorkloadKey, Vouched>,
    /// Floating addresses that a workload may hold, with the source that says so.
    floating: BTreeMap<WorkloadKey, BTreeMap<IpAddr, &'a str>>,
    /// Who declares each floating address first.
    floats: BTreeMap<IpAddr, &'a Statement>,
    /// Which workload an entry turned out to be, by the entry's index.
    found: BTreeMap<usize, WorkloadKey>,
    /// Entries whose workload is here in doubt: no peers either.
    withheld: BTreeSet<usize>,
    /// Addresses that are declared for several workloads, with the names of all of them.
    contested: BTreeMap<IpAddr, BTreeSet<&'a WorkloadName>>,
    /// The entry that declares each address.
    declaring: BTreeMap<IpAddr, usize>,
}

impl<'a> Said<'a> {
    fn new(entries: Vec<Entry<'a>>) -> Self {
        let mut said = Self { entries, ..Self::default() };
        for entry in &said.entries {
            for address in &entry.statement.floating {
                said.floats.entry(*address).or_insert(entry.statement);
            }
        }
        let (mut declaring, mut contested) = (BTreeMap::new(), BTreeMap::<_, BTreeSet<_>>::new());
        for (index, statement, name) in said.declared() {
            for address in &statement.addresses {
                let before = declaring.insert(*address, index);
                let other = before.and_then(|before| said.entries[before].statement.declared());
                if let Some(other) = other.filter(|other| *other != name) {
                    contested.entry(*address).or_default().extend([other, name]);
                }
            }
        }
        Self { contested, declaring, ..said }
    }

    fn given_to(&self, key: WorkloadKey, address: IpAddr) -> bool {
        self.given.get(&key).is_some_and(|addresses| addresses.contains_key(&address))
    }

    /// The source that gives a workload addresses of this one's family.
    fn family_given_by(&self, key: WorkloadKey, address: IpAddr) -> Option<&str> {
        let mut given = self.given.get(&key)?.iter().filter(|(given, _)| given.is_ipv4() == address.is_ipv4());
        given.find_map(|(_, voucher)| match voucher {
            Voucher::Source(source) => Some(source.as_str()),
            Voucher::HostRoute | Voucher::Floating(_) | Voucher::Pinned | Voucher::LinkLocal => None,
        })
    }

    fn enter(&mut self, index: usize, key: WorkloadKey) {
        let Entry { source, statement } = self.entries[index];
        self.statements.entry(key).or_default().push(statement);
        let given = self.given.entry(key).or_default();
        for address in &statement.addresses {
            match given.entry(*address) {
                // Where several have it by their own word, the node's routes know whose it is here.
                Slot::Occupied(route) if self.contested.contains_key(route.key()) => {}
                slot => _ = slot.insert_entry(Voucher::Source(source.to_owned())),
            }
        }
        self.floating.entry(key).or_default().extend(statement.floating.iter().map(|address| (*address, source)));
        self.found.insert(index, key);
    }

    /// The statements about a workload wherever it is, with their places among the entries.
    fn declared(&self) -> impl Iterator<Item = (usize, &'a Statement, &'a WorkloadName)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index, entry.statement, entry.statement.declared()?)))
    }
}

impl Store {
    /// An empty store; the first update decides without an order of events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over from an earlier run who had which address (by the ifindex of a veth), which veths were workloads' and
    /// which devices were uplinks. Before the first update.
    pub fn restore(
        &mut self,
        owners: BTreeMap<IpAddr, Ifindex>,
        endpoints: &BTreeSet<Ifindex>,
        uplinks: &BTreeSet<Ifindex>,
    ) {
        self.uplinks.restore(endpoints, uplinks);
        self.restored = owners;
    }

    /// Takes over what an earlier run remembered of veths. Before the first update.
    pub fn remember(&mut self, pasts: BTreeMap<Ifindex, Past>) {
        self.memory.restore(pasts);
    }

    /// The veths that are workloads' whatever the sources are going to say: those that may turn out to lead outside are left
    /// out. Before the first update.
    pub fn workload_veths(&self, view: &NetworkView, uplinks: &[String]) -> BTreeSet<Ifindex> {
        let spared = self.uplinks.possible(view, uplinks);
        view.veths().map(|(veth, _, _)| veth).filter(|veth| !spared.contains(veth)).collect()
    }

    /// How many address claims have been refused so far, counting a claim once while it stands.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Merges the inputs of one moment.
    pub fn update(&mut self, inputs: &Inputs<'_>) -> Outcome {
        let mut findings = BTreeSet::new();
        self.regroup(inputs);
        let mut said = self.gather(inputs);
        let named: BTreeSet<Ifindex> = self.veths_of(said.statements.keys());
        let uplinks = self.uplinks.update(inputs, &named, !self.updated, &mut findings);
        for space in self.known.values_mut() {
            space.veths.retain(|veth| !uplinks.contains_key(veth));
        }
        self.known.retain(|_, space| !space.veths.is_empty());
        let restored = self.restored_owners();
        let routing = Routing::new(inputs.view);
        binding::bind(self, &mut said);
        for space in self.known.values() {
            self.memory.first_shown(space, claims::shown(inputs.view, space).copied());
        }
        let joined = joins::join(self, inputs, &mut said);
        findings.extend(joined.findings);
        let claims = Claims { inputs, known: &self.known, memory: &self.memory, said: &said, routing: &routing };
        let verdicts = claims.decide(&self.owners, &restored);
        self.owners.clone_from(&verdicts.owners);
        let settles = self.settle(inputs, &verdicts).into_iter().chain(joined.again).min();
        self.restored.clear();
        self.updated = true;
        let snapshot = self.snapshot(inputs, &said, &verdicts, uplinks, &mut findings);
        self.refused += new_claims(&findings, &self.last_findings);
        self.last_findings.clone_from(&findings);
        Outcome { snapshot, findings, settles, is_waiting: joined.is_waiting }
    }

    /// Pins what new workloads show. Returns when the next settling time ends.
    fn settle(&mut self, inputs: &Inputs<'_>, verdicts: &Verdicts) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (key, space) in self.known.iter().filter(|(_, space)| !space.strayed) {
            if let Some(end) = self.memory.settles(space, inputs.settling, inputs.now) {
                self.memory.pin(*key, &verdicts.pinned(*key), OWN_ADDRESSES);
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        next
    }

    /// Finds the namespace of each veth, known or new.
    fn regroup(&mut self, inputs: &Inputs<'_>) {
        let mut spaces: BTreeMap<i32, BTreeSet<Ifindex>> = BTreeMap::new();
        let mut next: BTreeMap<WorkloadKey, Space> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let before = self.keys_by_veth();
        for (index, _, peer) in inputs.view.veths() {
            seen.insert(index);
            if self.memory.strays(index, peer.nsid, inputs, !self.updated) {
                // Alone, and never again a part of any namespace.
                let known = before.get(&index).filter(|key| self.known[*key].strayed).copied();
                let key = known.unwrap_or_else(|| self.new_key());
                next.insert(key, Space { nsid: peer.nsid, veths: BTreeSet::from([index]), strayed: true });
                continue;
            }
            if let Some(nsid) = peer.nsid {
                spaces.entry(nsid).or_default().insert(index);
                continue;
            }
            // Its namespace is being torn down and has lost its id: it stays whose it was.
            let was = before.get(&index).copied();
            let key = was.unwrap_or_else(|| self.new_key());
            let nsid = was.and_then(|key| self.known[&key].nsid);
            next.entry(key).or_insert_with(|| Space { nsid, ..Space::default() }).veths.insert(index);
        }
        for (nsid, veths) in spaces {
            let same = |key: &WorkloadKey| self.known[key].nsid == Some(nsid) && !inputs.gone.contains(&nsid);
            let known = veths.iter().filter_map(|veth| before.get(veth)).find(|key| same(key)).copied();
            let key = known.unwrap_or_else(|| self.new_key());
            let space = next.entry(key).or_default();
            space.nsid = Some(nsid);
            space.veths.extend(veths);
        }
        self.known = next;
        self.memory.keep(&seen, &self.known);
        if self.updated {
            self.at_start.retain(|veth| seen.contains(veth));
        } else {
            self.at_start = seen;
        }
        self.owners.retain(|_, key| self.known.contains_key(key));
        self.bound.retain(|_, key| self.known.contains_key(key));
    }

    fn new_key(&mut self) -> WorkloadKey {
        self.keys += 1;
        WorkloadKey(self.keys)
    }

    /// What sources say about namespaces, by namespace alone; entries that go by address come later.
    fn gather<'a>(&self, inputs: &Inputs<'a>) -> Said<'a> {
        let of_source = |source: &'a SourceState| {
            source.statements.iter().map(|statement| Entry { source: source.name.as_str(), statement })
        };
        let entries: Vec<Entry<'a>> = inputs.sources.iter().flat_map(of_source).collect();
        let mut said = Said::new(entries.clone());
        let by_veth = self.keys_by_veth();
        let at_home = self.known.iter().filter(|(_, space)| !space.strayed);
        let by_nsid: BTreeMap<i32, WorkloadKey> =
            at_home.filter_map(|(key, space)| Some((space.nsid?, *key))).collect();
        let by_name: BTreeMap<&str, Ifindex> =
            inputs.view.veths().map(|(veth, link, _)| (link.name.as_str(), veth)).collect();
        let at = |path: &PathBuf| inputs.netns.get(path).and_then(|nsid| by_nsid.get(nsid)).copied();
        for (index, Entry { statement, .. }) in entries.into_iter().enumerate() {
            let key = match &statement.found_by {
                FoundBy::Netns(paths) => paths.iter().find_map(at),
                FoundBy::Interface(name) => by_name.get(name.as_str()).and_then(|veth| by_veth.get(veth)).copied(),
                FoundBy::Address | FoundBy::Pod { .. } | FoundBy::Elsewhere => None,
            };
            if let Some(key) = key {
                said.enter(index, key);
            }
        }
        for route in inputs.view.routes.iter().filter(|route| route.is_host()) {
            if let Some(key) = by_veth.get(&route.device).filter(|key| !self.known[*key].strayed) {
                said.given.entry(*key).or_default().entry(route.to.ip()).or_insert(Voucher::HostRoute);
            }
        }
        said
    }

    fn keys_by_veth(&self) -> BTreeMap<Ifindex, WorkloadKey> {
        self.known.iter().flat_map(|(key, space)| space.veths.iter().map(|veth| (*veth, *key))).collect()
    }

    fn veths_of<'a>(&self, keys: impl Iterator<Item = &'a WorkloadKey>) -> BTreeSet<Ifindex> {
        keys.filter_map(|key| self.known.get(key)).flat_map(|space| space.veths.iter().copied()).collect()
    }

    fn restored_owners(&self) -> BTreeMap<IpAddr, WorkloadKey> {
        let by_veth = self.keys_by_veth();
        self.restored.iter().filter_map(|(address, veth)| Some((*address, *by_veth.get(veth)?))).collect()
    }
}

/// How many refused claims of `now` were not there `before`.
fn new_claims(now: &BTreeSet<Finding>, before: &BTreeSet<Finding>) -> u64 {
    let too_many = before.iter().filter_map(|finding| match finding {
        Finding::TooManyAddresses { claimant, count } => Some((claimant, *count)),
        _ => None,
    });
    let counted: BTreeMap<&Subject, usize> = too_many.collect();
    let new = now.difference(before).map(|finding| match finding {
        Finding::TooManyAddresses { claimant, count } => {
            count.saturating_sub(counted.get(claimant).copied().unwrap_or_default())
        }
        _ => finding.claims(),
    });
    new.sum::<usize>() as u64
}
