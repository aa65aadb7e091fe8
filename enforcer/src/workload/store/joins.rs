//! Joins the pods of this node to their veths. From outside nothing says which veth is a pod's, so this goes by evidence, the
//! best first:
//!
//! 1. A veth that was the pod's stays the pod's, whatever its far side shows later (D13).
//! 2. Another source or a host route gives one of the pod's addresses to a veth. A record of the network's own plugin is such
//!    a source: it needs no other rule.
//! 3. The first addresses that a veth showed hold all of the pod's, and those of no other veth do. The first ones are what the
//!    network gave it, before anything ran behind it.
//!
//! Two pods for one veth, two veths for one pod, and evidence that leads to another pod's veth are no join: the pod's veth stays
//! unknown. Its address is then nobody's, so that no selector matches it.
//!
//! The API may be late. A pod that has just ended still has its address there, which a new veth may have by now. Evidence
//! counts at once only if the API told the address after the veth was there, and the veth was new when we saw it. Everything
//! else has to stand for [`CONFIRMED`] while the API answers. Behind a veth that is older than the daemon something may run
//! that has taken off its own address and put on another's. So what such a veth shows counts only if no pod of the node is
//! without a veth.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::evidence::Evidence;
use super::{Inputs, Said, Space, Store};
use crate::workload::finding::{Finding, NotJoined};
use crate::workload::model::{WorkloadKey, WorkloadName};
use crate::workload::statement::{FoundBy, Statement};

/// For how long evidence of a veth that may be older than the API's word has to stand.
const CONFIRMED: Duration = Duration::from_secs(2);
/// For how long a pod may be without a veth before a person hears of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long after the start the first snapshot may wait for evidence to be confirmed.
const FIRST_WAIT: Duration = Duration::from_secs(4);

/// What the order of events has to do with pods.
#[derive(Debug, Default)]
pub(super) struct Joins {
    /// What the API says of each pod, by its object, and since when.
    told: BTreeMap<String, Told>,
    /// Evidence that has to stand for a while, or has stood, by the pod's object.
    confirming: BTreeMap<String, Confirming>,
    /// Since when pods have no veth.
    unjoined: BTreeMap<String, Instant>,
    /// The API was not heard at the last update.
    was_down: bool,
    /// When the first update was.
    begin: Option<Instant>,
}

#[derive(Debug)]
struct Told {
    addresses: BTreeSet<IpAddr>,
    since: Instant,
    /// It may have been so for long when we heard of it.
    is_old: bool,
}

#[derive(Clone, Copy, Debug)]
struct Confirming {
    key: WorkloadKey,
    since: Instant,
    /// The last update at which the evidence was there.
    at: Instant,
}

/// What the joins of one moment come to, beside the joins themselves.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) findings: BTreeSet<Finding>,
    /// When another look may find more, though nothing happens.
    pub(super) again: Option<Instant>,
    /// A first snapshot should wait for that.
    pub(super) is_waiting: bool,
}

/// A pod that has no veth yet.
#[derive(Clone, Copy, Debug)]
struct Pod<'a> {
    index: usize,
    statement: &'a Statement,
    name: &'a WorkloadName,
    leaving: bool,
}

/// A veth that is a pod's by the evidence of this moment.
#[derive(Clone, Copy, Debug)]
struct Pair<'a> {
    pod: Pod<'a>,
    key: WorkloadKey,
    /// The API told the pod's address after the veth was there.
    is_prompt: bool,
    /// Only the veth itself says so, and it is older than the daemon.
    is_claim: bool,
}

/// Joins all pods that can be joined, and takes those that are in doubt off the peers.
pub(super) fn join(store: &mut Store, inputs: &Inputs<'_>, said: &mut Said<'_>) -> Joined {
    let mut joins = std::mem::take(&mut store.joins);
    let joined = joins.update(&Ground { store, inputs }, said);
    store.joins = joins;
    joined
}

/// What the evidence is taken from.
#[derive(Clone, Copy)]
struct Ground<'a> {
    store: &'a Store,
    inputs: &'a Inputs<'a>,
}

impl Joins {
    fn update(&mut self, ground: &Ground<'_>, said: &mut Said<'_>) -> Joined {
        let now = ground.inputs.now;
        let begin = *self.begin.get_or_insert(now);
        let is_down = ground.inputs.sources.iter().any(|source| source.is_awaited && source.error.is_some());
        let pods = pods(said);
        self.hear(&pods, now, now == begin || self.was_down);
        self.was_down = is_down;
        let mut joined = Joined::default();
        // Before a pod enters, because it is then given what it says itself.
        let given = ground.given(said, &pods);
        let (open, mut taken) = ground.earlier(said, &pods);
        let strong = self.pairs(ground, &open, &ground.fitting(said, &open, &given, &taken), true);
        taken.extend(strong.values().map(|pair| pair.key));
        let others: Vec<Pod<'_>> = open.iter().filter(|pod| !given.has(pod.index)).copied().collect();
        let shown = ground.shown(said, &others, &taken);
        let weak = self.pairs(ground, &others, &shown, false);
        let pairs: BTreeMap<usize, Pair<'_>> = strong.into_iter().chain(weak).collect();
        let lacks = |pod: &&Pod<'_>| !pairs.contains_key(&pod.index) && !pod.statement.addresses.is_empty();
        let is_one_lost = open.iter().any(|pod| lacks(&pod));
        let mut left = Vec::new();
        for pod in open {
            let because = match pairs.get(&pod.index) {
                Some(pair) if pair.is_prompt => None,
                Some(pair) if pair.is_claim && is_one_lost => Some(NotJoined::Doubtful(ground.names([pair.key]))),
                Some(pair) => {
                    let end = self.confirm(pair, now, is_down);
                    if end > now {
                        joined.again = Some(joined.again.map_or(end, |again| again.min(end)));
                        joined.is_waiting |= !is_down && now < begin + FIRST_WAIT;
                    }
                    (end > now).then_some(NotJoined::Confirming)
                }
                None => match given.keys(pod.index).chain(shown.keys(pod.index)).collect::<BTreeSet<_>>() {
                    keys if keys.is_empty() => Some(NotJoined::NoVeth),
                    keys => Some(NotJoined::Conflict(ground.names(keys))),
                },
            };
            match (because, pairs.get(&pod.index)) {
                (None, Some(pair)) => said.enter(pod.index, pair.key),
                (because, _) => left.push((pod, because.unwrap_or(NotJoined::NoVeth))),
            }
        }
        self.confirming.retain(|_, confirming| confirming.at == now);
        for (pod, because) in &left {
            // In doubt its address is nobody's. Without any veth it is a peer like those elsewhere.
            if *because != NotJoined::NoVeth {
                said.withheld.insert(pod.index);
            }
        }
        self.tell(&left, now, &mut joined);
        joined
    }

    /// Notes what the API says of each pod. `is_old`: it may have been so for long.
    fn hear(&mut self, pods: &[Pod<'_>], now: Instant, is_old: bool) {
        let mut told = std::mem::take(&mut self.told);
        self.told = pods
            .iter()
            .map(|pod| {
                let (object, addresses) = (&pod.statement.object, &pod.statement.addresses);
                let before = told.remove(object).filter(|before| before.addresses == *addresses);
                let told = before.unwrap_or_else(|| Told { addresses: addresses.clone(), since: now, is_old });
                (object.clone(), told)
            })
            .collect();
    }

    /// Pairs without doubt; those for which the API's word came after the veth first.
    fn pairs<'a>(
        &self,
        ground: &Ground<'_>,
        pods: &[Pod<'a>],
        evidence: &Evidence,
        is_strong: bool,
    ) -> BTreeMap<usize, Pair<'a>> {
        let by_index: BTreeMap<usize, Pod<'a>> = pods.iter().map(|pod| (pod.index, *pod)).collect();
        let space = |key: WorkloadKey| &ground.store.known[&key];
        let is_claim = |key| !is_strong && !ground.store.memory.is_honest(space(key));
        let is_prompt = |pod: &Pod<'_>, key| {
            let told = self.told.get(&pod.statement.object).filter(|told| !told.is_old && !pod.leaving);
            let seen = ground.store.memory.seen(space(key));
            told.zip(seen).is_some_and(|(told, seen)| told.since > seen) && !is_claim(key)
        };
        let prompt = evidence.only(|pod, key| by_index.get(&pod).is_some_and(|pod| is_prompt(pod, key))).pairs();
        let rest = evidence.without(&prompt).pairs();
        prompt
            .into_iter()
            .chain(rest)
            .filter_map(|(index, key)| {
                let pod = *by_index.get(&index)?;
                Some((index, Pair { pod, key, is_prompt: is_prompt(&pod, key), is_claim: is_claim(key) }))
            })
            .collect()
    }

    /// When the evidence for a pair has stood long enough.
    fn confirm(&mut self, pair: &Pair<'_>, now: Instant, is_down: bool) -> Instant {
        // What has stood while the API was not heard does not count.
        if is_down {
            return now + CONFIRMED;
        }
        let object = &pair.pod.statement.object;
        let before = self.confirming.get(object).filter(|before| before.key == pair.key);
        let since = before.map_or(now, |before| before.since);
        self.confirming.insert(object.clone(), Confirming { key: pair.key, since, at: now });
        since + CONFIRMED
    }

    /// Tells of pods that have had no veth for a while.
    fn tell(&mut self, left: &[(Pod<'_>, NotJoined)], now: Instant, joined: &mut Joined) {
        let objects: BTreeSet<&str> = left.iter().map(|(pod, _)| pod.statement.object.as_str()).collect();
        self.unjoined.retain(|object, _| objects.contains(object.as_str()));
        for (pod, because) in left.iter().filter(|(pod, _)| !pod.leaving && !pod.statement.addresses.is_empty()) {
            let since = *self.unjoined.entry(pod.statement.object.clone()).or_insert(now);
            let end = since + PATIENCE;
            if end > now {
                joined.again = Some(joined.again.map_or(end, |again| again.min(end)));
            } else {
                joined.findings.insert(Finding::PodNotJoined { pod: pod.name.clone(), because: because.clone() });
            }
        }
    }
}

impl Ground<'_> {
    /// The pods that have the veth that was theirs. Returns the others, and the veths that are taken.
    fn earlier<'p>(&self, said: &mut Said<'_>, pods: &[Pod<'p>]) -> (Vec<Pod<'p>>, BTreeSet<WorkloadKey>) {
        let mut had: BTreeMap<String, (WorkloadKey, bool)> = BTreeMap::new();
        for (key, space) in &self.store.known {
            for object in self.store.memory.objects(space) {
                let strayed = had.get(object).is_some_and(|(_, strayed)| *strayed) || space.strayed;
                had.insert(object.to_owned(), (*key, strayed));
            }
        }
        let (mut open, mut taken) = (Vec::new(), BTreeSet::new());
        for pod in pods {
            match had.get(&pod.statement.object) {
                // Closed until the veth is gone.
                Some((_, true)) => _ = said.withheld.insert(pod.index),
                Some((key, false)) => {
                    said.enter(pod.index, *key);
                    taken.insert(*key);
                }
                None => open.push(*pod),
            }
        }
        (open, taken)
    }

    /// The veths to which somebody else gives an address of a pod.
    fn given(&self, said: &Said<'_>, pods: &[Pod<'_>]) -> Evidence {
        let mut by_address: BTreeMap<IpAddr, BTreeSet<WorkloadKey>> = BTreeMap::new();
        for key in self.store.known.keys() {
            for address in said.given.get(key).into_iter().flat_map(BTreeMap::keys) {
                by_address.entry(*address).or_default().insert(*key);
            }
        }
        let given = |pod: &Pod<'_>| -> BTreeSet<WorkloadKey> {
            self.own(pod).filter_map(|address| by_address.get(&address)).flatten().copied().collect()
        };
        Evidence::new(pods.iter().map(|pod| (pod.index, given(pod))))
    }

    /// Of what is given to veths, that which is the pod's alone and leads to a veth that can be the pod's.
    fn fitting(&self, said: &Said<'_>, open: &[Pod<'_>], given: &Evidence, taken: &BTreeSet<WorkloadKey>) -> Evidence {
        Evidence::new(open.iter().map(|pod| {
            let keys: BTreeSet<WorkloadKey> = given.keys(pod.index).collect();
            let only = keys.first().copied().filter(|_| keys.len() == 1);
            let fits = |key: &WorkloadKey| {
                !taken.contains(key) && (said.statements.contains_key(key) || self.suits(pod, &self.store.known[key]))
            };
            (pod.index, only.filter(fits).into_iter().collect())
        }))
    }

    /// The veths that have first shown all addresses of a pod.
    fn shown(&self, said: &Said<'_>, open: &[Pod<'_>], taken: &BTreeSet<WorkloadKey>) -> Evidence {
        let free = self.store.known.iter().filter(|(key, space)| !space.strayed && !taken.contains(key));
        let free: Vec<(WorkloadKey, &Space, BTreeSet<IpAddr>)> =
            free.map(|(key, space)| (*key, space, self.store.memory.first(space))).collect();
        Evidence::new(open.iter().map(|pod| {
            let own: BTreeSet<IpAddr> = self.own(pod).collect();
            // A source that names the veth as something else knows better.
            let is_open = |key: &WorkloadKey| {
                let mut names = said.statements.get(key).into_iter().flatten();
                names.all(|statement| statement.declared() == Some(pod.name))
            };
            let shows = free.iter().filter(|(key, space, first)| {
                !own.is_empty() && own.is_subset(first) && self.suits(pod, space) && is_open(key)
            });
            (pod.index, shows.map(|(key, ..)| *key).collect())
        }))
    }

    /// The addresses of a pod that can be a pod's.
    fn own(&self, pod: &Pod<'_>) -> impl Iterator<Item = IpAddr> {
        let is_nodes = |address: &IpAddr| self.inputs.sources.iter().any(|source| source.nodes.contains_key(address));
        pod.statement
            .addresses
            .iter()
            .copied()
            .filter(move |address| !self.inputs.view.node.contains(address) && !is_nodes(address))
    }

    fn suits(&self, pod: &Pod<'_>, space: &Space) -> bool {
        !space.strayed && self.store.memory.suits(space, pod.name, &pod.statement.object)
    }

    fn names(&self, keys: impl IntoIterator<Item = WorkloadKey>) -> BTreeSet<String> {
        let veths = keys.into_iter().filter_map(|key| self.store.known.get(&key)).flat_map(|space| &space.veths);
        veths.filter_map(|veth| Some(self.inputs.view.links.get(veth)?.name.clone())).collect()
    }
}

fn pods<'a>(said: &Said<'a>) -> Vec<Pod<'a>> {
    let pods = said.declared().filter_map(|(index, statement, name)| match statement.found_by {
        FoundBy::Pod { leaving } => Some(Pod { index, statement, name, leaving }),
        FoundBy::Netns(_) | FoundBy::Interface(_) | FoundBy::Address | FoundBy::Elsewhere => None,
    });
    pods.collect()
}
