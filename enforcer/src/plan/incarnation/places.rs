//! Assigns places in an endpoint to the workload's own addresses. Input: an endpoint, and the addresses that it shall have.
//! Output: the states that lead there. An address is never changed while its id is live.

use std::collections::BTreeSet;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, OwnerId};
use enforcer_common::limits::OWN_ADDRESSES;

/// Addresses of an endpoint that have an id.
pub(crate) fn owned(endpoint: &Endpoint) -> impl Iterator<Item = (Address, OwnerId)> {
    let places = endpoint.owners.iter().zip(&endpoint.addresses).take(endpoint.owned as usize);
    let used = places.filter(|(owner, _)| **owner != OwnerId::NONE);
    used.map(|(owner, address)| (*address, *owner))
}

/// Takes the ids of some addresses.
pub(super) fn take(endpoint: &Endpoint, goes: impl Fn(&Address) -> bool) -> Endpoint {
    let mut endpoint = *endpoint;
    for (owner, address) in endpoint.owners.iter_mut().zip(&endpoint.addresses) {
        if goes(address) {
            *owner = OwnerId::NONE;
        }
    }
    bound(&mut endpoint);
    endpoint
}

/// The states of an endpoint on its way to the wanted addresses: as they are called in [`Writes`](super::Writes). Every place without an id
/// is clean: no program that runs now has seen an id there. `claimed`: addresses that workloads of the plan have.
pub(super) fn arrange(current: &Endpoint, wanted: &[(Address, OwnerId)], claimed: &BTreeSet<Address>) -> [Endpoint; 4] {
    let own = |address: &Address| wanted.iter().any(|(wanted, _)| wanted == address);
    let mut before = *current;
    // Beyond `owned` nothing was ever read.
    for owner in before.owners.iter_mut().skip(current.owned as usize) {
        *owner = OwnerId::NONE;
    }
    let mut homeless = Vec::new();
    for (address, owner) in wanted {
        if !place(&mut before, address, *owner) {
            homeless.push((*address, *owner));
        }
    }
    // Only now: the place of such an address is given to another only after a wait.
    let before = take(&before, |address| claimed.contains(address) && !own(address));
    let after = take(&before, |address| !own(address));
    let mut wiped = after;
    for (owner, address) in wiped.owners.iter().zip(&mut wiped.addresses) {
        if *owner == OwnerId::NONE {
            *address = Address::UNSPECIFIED;
        }
    }
    let mut late = wiped;
    for (address, owner) in homeless {
        // There is a place for every wanted address once the others are gone.
        place(&mut late, &address, owner);
    }
    bound(&mut late);
    [before, after, wiped, late]
}

fn place(endpoint: &mut Endpoint, address: &Address, owner: OwnerId) -> bool {
    let used = |place: &usize| endpoint.owners[*place] != OwnerId::NONE;
    let has = (0..OWN_ADDRESSES).filter(used).find(|place| endpoint.addresses[*place] == *address);
    let free = || (0..OWN_ADDRESSES).find(|place| endpoint.owners[*place] == OwnerId::NONE);
    let Some(place) = has.or_else(free) else { return false };
    endpoint.addresses[place] = *address;
    endpoint.owners[place] = owner;
    true
}

fn bound(endpoint: &mut Endpoint) {
    let last = endpoint.owners.iter().rposition(|owner| *owner != OwnerId::NONE);
    endpoint.owned = last.map_or(0, |place| place as u32 + 1);
}
