//! Collects what a rule changes for the addresses of a group, of a block, or for every address.
//!
//! Input: rows. Output: deltas, which are lists of (row, effect) to add or to remove. Equal deltas are stored once.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::id::Address;
use ipnetwork::IpNetwork;

use super::rows::{Effect, Rows};
use crate::resolve::{GroupId, PeerSetId, ResolvedPolicy};

/// Index of a delta.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct DeltaId(pub(super) u32);

impl DeltaId {
    /// The delta that changes nothing.
    pub(super) const NONE: Self = Self(0);
}

/// For each row and effect, by how much a delta changes the number of times that the effect applies. Sorted, and
/// never zero.
pub(super) type Delta = Vec<(u32, Effect, i32)>;

/// Effects, each with its row, that all members of a set of peers share.
type Bundle = Vec<(u32, Effect)>;

pub(super) struct Deltas {
    pub(super) stored: Vec<Delta>,
    /// The delta that applies to every address.
    pub(super) everybody: DeltaId,
    /// By group.
    groups: Vec<DeltaId>,
    /// The delta of each address that has effects of its own. It includes the effects of the address's group.
    addresses: BTreeMap<Address, DeltaId>,
    /// The delta of each IPv4 and IPv6 prefix.
    pub(super) prefixes: BTreeMap<IpNetwork, DeltaId>,
    /// The same for an address that is merely shown: what denies, and nothing that allows (D11).
    pub(super) prefixes_of_shown: BTreeMap<IpNetwork, DeltaId>,
}

impl Deltas {
    /// The delta of a known address, without the deltas of its prefixes.
    pub(super) fn of(&self, address: Address, group: Option<GroupId>) -> DeltaId {
        match self.addresses.get(&address) {
            Some(delta) => *delta,
            None => group.map_or(DeltaId::NONE, |group| self.groups[group.0 as usize]),
        }
    }
}

pub(super) fn deltas(rows: &Rows, resolved: &ResolvedPolicy) -> Deltas {
    let mut used: BTreeMap<PeerSetId, Bundle> = BTreeMap::new();
    for (row, effects) in rows.effects.iter().enumerate() {
        for (peers, effect) in effects {
            used.entry(*peers).or_default().push((row as u32, *effect));
        }
    }
    // Sets with the same effects on their members share a bundle.
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut known: HashMap<Bundle, u32> = HashMap::new();
    let mut everybody = Vec::new();
    let mut groups: Vec<Vec<(u32, i32)>> = vec![Vec::new(); resolved.group_count()];
    let mut addresses: BTreeMap<Address, Vec<(u32, i32)>> = BTreeMap::new();
    let mut prefixes: BTreeMap<IpNetwork, Vec<(u32, i32)>> = BTreeMap::new();
    for (peers, effects) in used {
        let bundle = *known.entry(effects).or_insert_with_key(|effects| {
            bundles.push(effects.clone());
            bundles.len() as u32 - 1
        });
        let set = resolved.peer_set(peers);
        if set.any {
            everybody.push((bundle, 1));
        }
        for group in &set.groups {
            groups[group.0 as usize].push((bundle, 1));
        }
        for address in &set.addresses {
            addresses.entry(*address).or_default().push((bundle, 1));
        }
        for block in &set.blocks {
            prefixes.entry(block.cidr).or_default().push((bundle, 1));
            for part in &block.except {
                prefixes.entry(*part).or_default().push((bundle, -1));
            }
        }
    }
    for (address, list) in &mut addresses {
        if let Some(group) = resolved.group_at(*address) {
            list.extend_from_slice(&groups[group.0 as usize]);
        }
    }
    let mut store = Store::new(&bundles);
    let everybody = store.intern(everybody);
    let groups = groups.into_iter().map(|list| store.intern(list)).collect();
    let addresses = addresses.into_iter().map(|(at, list)| (at, store.intern(list))).collect();
    let prefixes: BTreeMap<IpNetwork, DeltaId> =
        prefixes.into_iter().map(|(at, list)| (at, store.intern(list))).collect();
    let of_shown = |(at, delta): (&IpNetwork, &DeltaId)| Some((*at, store.denials(*delta)?));
    let prefixes_of_shown = prefixes.iter().filter_map(of_shown).collect();
    Deltas { everybody, groups, addresses, prefixes, prefixes_of_shown, stored: store.deltas }
}

/// Deltas by the bundles that they add and take away.
struct Store<'a> {
    bundles: &'a [Bundle],
    known: HashMap<Vec<(u32, i32)>, DeltaId>,
    deltas: Vec<Delta>,
}

impl<'a> Store<'a> {
    fn new(bundles: &'a [Bundle]) -> Self {
        Self { bundles, known: HashMap::from([(Vec::new(), DeltaId::NONE)]), deltas: vec![Vec::new()] }
    }

    /// The part of a delta that denies; `None`: nothing of it does.
    fn denials(&mut self, of: DeltaId) -> Option<DeltaId> {
        let all = &self.deltas[of.0 as usize];
        let denials: Delta = all.iter().filter(|(_, effect, _)| effect.rank.denies()).copied().collect();
        if denials.len() == all.len() {
            return (!denials.is_empty()).then_some(of);
        }
        if denials.is_empty() {
            return None;
        }
        self.deltas.push(denials);
        Some(DeltaId(self.deltas.len() as u32 - 1))
    }

    fn intern(&mut self, mut list: Vec<(u32, i32)>) -> DeltaId {
        list.sort_unstable();
        if let Some(known) = self.known.get(&list) {
            return *known;
        }
        let mut sums: BTreeMap<(u32, Effect), i32> = BTreeMap::new();
        for (bundle, change) in &list {
            for effect in &self.bundles[*bundle as usize] {
                *sums.entry(*effect).or_default() += change;
            }
        }
        let delta = sums
            .into_iter()
            .filter(|(_, change)| *change != 0)
            .map(|((row, effect), change)| (row, effect, change))
            .collect();
        let id = DeltaId(self.deltas.len() as u32);
        self.deltas.push(delta);
        self.known.insert(list, id);
        id
    }
}
