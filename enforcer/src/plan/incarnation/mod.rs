//! Assigns ids to workloads and computes the next states of each endpoint. Pure: no map is touched here.
//!
//! Input: the plan, the present endpoints, and the ids that are in use. Output: each endpoint before the policy word is
//! stored, after it is stored, and after one more grace period. An address is never changed while its id is live.

mod places;
mod spent;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::endpoint::Endpoint;
use enforcer_common::home::HomeKey;
use enforcer_common::id::{Address, Ifindex, IncarnationId, OwnerId, QuotaPlace, Row, Slot};
use enforcer_common::limits::OWN_ADDRESSES;

pub(crate) use places::owned;
use places::{arrange, take};
use spent::SpentIds;

use super::supply::Supply;
use super::{Impossible, PlannedWorkload, Refusal, RefusedAddress, WorkloadKey};

/// One incarnation of a workload.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Incarnation {
    /// Place in `QUOTAS`.
    quota: QuotaPlace,
    /// Ids of its addresses.
    owners: BTreeMap<Address, OwnerId>,
    /// Ids of addresses that it has or had.
    spent: SpentIds,
    /// Nobody has claimed it yet: it was taken over, or attached before anybody knew whose it is.
    unclaimed: bool,
}

impl Incarnation {
    fn new(quota: QuotaPlace, unclaimed: bool) -> Self {
        Self { quota, owners: BTreeMap::new(), spent: SpentIds::default(), unclaimed }
    }
}

/// Every incarnation, and which of them belong to a key of the agent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Incarnations {
    by_id: BTreeMap<IncarnationId, Incarnation>,
    by_key: BTreeMap<WorkloadKey, IncarnationId>,
}

/// The endpoints that a plan writes, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    /// Stored first of all: an address that now belongs to another workload loses its id, so that no veth can use it
    /// under the new image.
    pub(crate) taken: Vec<Endpoint>,
    /// Stored before the policy word.
    pub(crate) before: Vec<Endpoint>,
    /// Stored after the policy word and a grace period: addresses that went away lose their ids.
    pub(crate) after: Vec<Endpoint>,
    /// Stored one more grace period later: those addresses are wiped. A program reads an address first and its id
    /// last, so it never sees an address with the id of another one.
    pub(crate) wiped: Vec<Endpoint>,
    /// Stored yet another grace period later: addresses that had no place before.
    pub(crate) late: Vec<Endpoint>,
    /// Stored after the policy word, and then attached.
    pub(crate) fresh: Vec<Endpoint>,
    /// By which devices packets of workloads may come in: missing pairs are added before the policy word, others are removed
    /// a grace period after it.
    pub(crate) homes: BTreeSet<HomeKey>,
    /// By which veth each address of a workload is reached: missing entries are added before the policy word, others are removed
    /// once no workload may send from their addresses.
    pub(crate) veths: BTreeMap<Address, Ifindex>,
    /// Id of each workload.
    pub(crate) ids: BTreeMap<WorkloadKey, IncarnationId>,
    /// Addresses without a place.
    pub(crate) refused: Vec<RefusedAddress>,
}

impl Writes {
    /// Removes the rows of a slot from every endpoint, because the image to which the row numbers belong is gone.
    pub(crate) fn close(&mut self, slot: Slot) {
        let Self { taken, before, after, wiped, late, fresh: _, homes: _, veths: _, ids: _, refused: _ } = self;
        for endpoint in [taken, before, after, wiped, late].into_iter().flatten() {
            endpoint.rows[slot.index()] = [Row::NONE; 2];
        }
    }
}

impl Incarnations {
    /// An incarnation that nobody has claimed.
    pub(crate) fn unclaimed(&mut self, supply: &mut Supply) -> Result<(IncarnationId, QuotaPlace), Impossible> {
        self.new_incarnation(supply, true)
    }

    /// Whether nobody has claimed an incarnation.
    pub(crate) fn is_unclaimed(&self, id: IncarnationId) -> bool {
        self.by_id.get(&id).is_none_or(|incarnation| incarnation.unclaimed)
    }

    /// Takes over the incarnations of endpoints that an earlier daemon left. `place_of` gives the place of an
    /// incarnation in `QUOTAS`. An incarnation that has lost its place gets a new one.
    pub(crate) fn adopt<'a>(
        endpoints: impl Iterator<Item = &'a Endpoint>,
        place_of: impl Fn(IncarnationId) -> Option<QuotaPlace>,
        supply: &mut Supply,
    ) -> Result<Self, Impossible> {
        let mut incarnations = Self::default();
        for endpoint in endpoints.filter(|endpoint| endpoint.id != IncarnationId::NONE) {
            let incarnation = match incarnations.by_id.entry(endpoint.id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let quota = match place_of(endpoint.id) {
                        Some(place) => place,
                        None => supply.place(endpoint.id)?,
                    };
                    new.insert(Incarnation::new(quota, true))
                }
            };
            for (address, owner) in owned(endpoint) {
                incarnation.owners.insert(address, owner);
                incarnation.spent.remember(address, owner);
            }
        }
        Ok(incarnations)
    }

    /// Every id that is in use: those of incarnations, and those of addresses that they have or may show again.
    pub(crate) fn ids(&self) -> impl Iterator<Item = OwnerId> {
        self.by_id.iter().flat_map(|(id, incarnation)| incarnation.spent.ids().chain([id.owner()]))
    }

    /// Removes incarnations without an endpoint, and returns their places of `QUOTAS`.
    pub(crate) fn retire<'a>(&mut self, endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<QuotaPlace> {
        let living: BTreeSet<IncarnationId> = endpoints.map(|endpoint| endpoint.id).collect();
        let mut places = Vec::new();
        self.by_id.retain(|id, incarnation| {
            let lives = living.contains(id);
            if !lives {
                places.push(incarnation.quota);
            }
            lives
        });
        self.by_key.retain(|_, id| living.contains(id));
        places
    }

    /// The addresses of a planned workload that have an id.
    pub(crate) fn addresses_of(&self, key: WorkloadKey) -> Vec<Address> {
        let incarnation = self.by_key.get(&key).and_then(|id| self.by_id.get(id));
        incarnation.into_iter().flat_map(|incarnation| incarnation.owners.keys().copied()).collect()
    }

    /// Computes the endpoints that a plan writes. `slot` is the idle slot.
    pub(crate) fn plan(
        &mut self,
        workloads: &[PlannedWorkload],
        current: &BTreeMap<Ifindex, Endpoint>,
        supply: &mut Supply,
        slot: Slot,
        boot_time: u64,
    ) -> Result<Writes, Impossible> {
        let mut writes = Writes::default();
        let mut planned = BTreeSet::new();
        let here = || workloads.iter().filter(|workload| !workload.endpoints.is_empty());
        let claimed: BTreeSet<Address> = here().flat_map(|workload| &workload.addresses).copied().collect();
        for workload in here() {
            let id = self.claim(workload, current, supply)?;
            let wanted = self.own(id, workload, supply, boot_time, &mut writes.refused);
            writes.ids.insert(workload.key, id);
            let quota = self.by_id.get(&id).map_or(QuotaPlace(0), |incarnation| incarnation.quota);
            for ifindex in &workload.endpoints {
                planned.insert(*ifindex);
                let set = |endpoint: &mut Endpoint, slot: Slot| {
                    endpoint.quota = quota;
                    endpoint.id = id;
                    endpoint.flags[slot.index()] = flags(workload);
                    endpoint.rows[slot.index()] = workload.rows;
                };
                if let Some(endpoint) = current.get(ifindex) {
                    let own = |address: &Address| wanted.iter().any(|(own, _)| own == address);
                    let taken = take(endpoint, |address| claimed.contains(address) && !own(address));
                    writes.taken.extend((taken != *endpoint).then_some(taken));
                    let mut endpoint = *endpoint;
                    set(&mut endpoint, slot);
                    let [before, after, wiped, late] = arrange(&endpoint, &wanted, &claimed);
                    writes.before.push(before);
                    writes.after.extend((after != before).then_some(after));
                    writes.wiped.extend((wiped != after).then_some(wiped));
                    writes.late.extend((late != wiped).then_some(late));
                } else {
                    let mut endpoint =
                        Endpoint { ifindex: *ifindex, window_end: window_end(workload, boot_time), ..Endpoint::FREE };
                    for slot in Slot::BOTH {
                        set(&mut endpoint, slot);
                    }
                    let [endpoint, ..] = arrange(&endpoint, &wanted, &claimed);
                    writes.fresh.push(endpoint);
                }
            }
        }
        self.by_key.retain(|key, _| writes.ids.contains_key(key));
        for endpoint in current.values().filter(|endpoint| !planned.contains(&endpoint.ifindex)) {
            let taken = take(endpoint, |address| claimed.contains(address));
            writes.taken.extend((taken != *endpoint).then_some(taken));
            let mut endpoint = taken;
            endpoint.flags[slot.index()] = Endpoint::UNKNOWN;
            endpoint.rows[slot.index()] = [Row::NONE; 2];
            writes.before.push(endpoint);
        }
        Ok(writes)
    }

    /// The incarnation of a workload: its own, or one of its veths' that nobody has claimed, or a new one.
    fn claim(
        &mut self,
        workload: &PlannedWorkload,
        current: &BTreeMap<Ifindex, Endpoint>,
        supply: &mut Supply,
    ) -> Result<IncarnationId, Impossible> {
        if let Some(id) = self.by_key.get(&workload.key) {
            return Ok(*id);
        }
        let veths = workload.endpoints.iter().filter_map(|ifindex| current.get(ifindex));
        let mut unclaimed = veths.map(|endpoint| endpoint.id).filter(|id| {
            let incarnation = self.by_id.get(id);
            incarnation.is_some_and(|incarnation| incarnation.unclaimed)
        });
        let id = match unclaimed.next() {
            Some(id) => id,
            None => self.new_incarnation(supply, false)?.0,
        };
        if let Some(incarnation) = self.by_id.get_mut(&id) {
            incarnation.unclaimed = false;
        }
        self.by_key.insert(workload.key, id);
        Ok(id)
    }

    /// The addresses that get a place, with their ids: those that have one already come first.
    fn own(
        &mut self,
        id: IncarnationId,
        workload: &PlannedWorkload,
        supply: &mut Supply,
        boot_time: u64,
        refused: &mut Vec<RefusedAddress>,
    ) -> Vec<(Address, OwnerId)> {
        let Some(incarnation) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        let mut addresses: Vec<Address> = Vec::new();
        for address in &workload.addresses {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses.sort_by_key(|address| !incarnation.owners.contains_key(address));
        for address in addresses.split_off(addresses.len().min(OWN_ADDRESSES)) {
            refused.push(RefusedAddress { key: workload.key, address, why: Refusal::NoPlace });
        }
        let mut owned = BTreeMap::new();
        for address in addresses {
            match incarnation.spent.id_of(address, boot_time, || supply.owner()) {
                Some(owner) => _ = owned.insert(address, owner),
                None => refused.push(RefusedAddress { key: workload.key, address, why: Refusal::TooManyNew }),
            }
        }
        incarnation.spent.forget_beyond(|address| owned.contains_key(address));
        incarnation.owners.clone_from(&owned);
        let mut wanted: Vec<(Address, OwnerId)> = owned.into_iter().collect();
        wanted.sort_by_key(|(address, _)| !address.is_v4());
        wanted
    }

    fn new_incarnation(
        &mut self,
        supply: &mut Supply,
        unclaimed: bool,
    ) -> Result<(IncarnationId, QuotaPlace), Impossible> {
        let id = supply.incarnation();
        let quota = supply.place(id)?;
        self.by_id.insert(id, Incarnation::new(quota, unclaimed));
        Ok((id, quota))
    }
}

fn flags(workload: &PlannedWorkload) -> u32 {
    let unknown = if workload.unknown { Endpoint::UNKNOWN } else { 0 };
    let routes = if workload.routes { Endpoint::ROUTES } else { 0 };
    unknown | routes
}

fn window_end(workload: &PlannedWorkload, boot_time: u64) -> u64 {
    workload.window.map_or(0, |window| boot_time.saturating_add(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
