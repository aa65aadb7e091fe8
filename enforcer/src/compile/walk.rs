//! Walks once over all addresses of each family, in order. A stack holds the prefixes that contain the present address.
//!
//! Input: the deltas of prefixes and of known addresses. Output: the state of every known address, and ranges for all other
//! addresses. Two prefixes either nest or do not overlap, and an `except` lies inside its block, so a stack is enough.

use enforcer_common::id::{Address, PeerClass};
use enforcer_common::image::AddressEntry;
use ipnetwork::IpNetwork;

use super::budget::CompileError;
use super::peers::{DeltaId, Deltas};
use super::states::{StateId, States, Unique};
use crate::resolve::{Holder, KnownAddress, ResolvedPolicy};

/// What the walk found.
pub(super) struct Found {
    /// Ranges of IPv4 and of IPv6: first address and class. Neighbours differ in class.
    pub(super) ranges: [Vec<(u128, PeerClass)>; 2],
    pub(super) addresses: Vec<(Address, AddressEntry)>,
    /// Per class: a vector for each row.
    pub(super) classes: Vec<std::rc::Rc<[u32]>>,
    /// Vectors: the byte of a cell for each port class.
    pub(super) vectors: Unique<[u8]>,
}

/// A step of the walk.
struct Stop {
    first: u128,
    last: u128,
    what: What,
}

enum What {
    Prefix(DeltaId),
    Known { known: KnownAddress, delta: DeltaId },
}

pub(super) fn walk(resolved: &ResolvedPolicy, deltas: &Deltas, states: States<'_>) -> Result<Found, CompileError> {
    let mut walker = Walker { deltas, states, numbers: Vec::new(), classes: Vec::new(), addresses: Vec::new() };
    let mut ranges = |v4: bool, end: u128| -> Result<Vec<(u128, PeerClass)>, CompileError> {
        let cuts = walker.family(&stops(resolved, deltas, v4, false), end)?;
        let ranges = walker.ranges(&cuts);
        // Merely shown addresses are none of those that the ranges are for, and blocks mean something else for them.
        walker.family(&stops(resolved, deltas, v4, true), end)?;
        Ok(ranges)
    };
    let v4 = ranges(true, u128::from(u32::MAX))?;
    let v6 = ranges(false, u128::MAX)?;
    let Walker { states, classes, addresses, .. } = walker;
    let tuples = states.tuples.values;
    Ok(Found {
        ranges: [v4, v6],
        addresses,
        classes: classes.into_iter().map(|tuple| std::rc::Rc::clone(&tuples[tuple as usize])).collect(),
        vectors: states.vectors,
    })
}

/// The prefixes of a family and its known addresses: those that are merely shown, or all others. What holds another comes
/// before it.
fn stops(resolved: &ResolvedPolicy, deltas: &Deltas, v4: bool, shown: bool) -> Vec<Stop> {
    let prefixes = if shown { &deltas.prefixes_of_shown } else { &deltas.prefixes };
    let prefixes = prefixes.iter().filter(|(prefix, _)| prefix.is_ipv4() == v4);
    let prefixes = prefixes.map(|(prefix, delta)| {
        let (first, last) = bounds(prefix);
        Stop { first, last, what: What::Prefix(*delta) }
    });
    let known = resolved.known_addresses().filter(|entry| entry.address.is_v4() == v4 && entry.shown == shown);
    let known = known.map(|entry| {
        let place = number(entry.address);
        Stop {
            first: place,
            last: place,
            what: What::Known { known: *entry, delta: deltas.of(entry.address, entry.group) },
        }
    });
    let mut stops: Vec<Stop> = prefixes.chain(known).collect();
    stops.sort_by_key(|stop| (stop.first, u128::MAX - stop.last, matches!(stop.what, What::Known { .. })));
    stops
}

fn bounds(prefix: &IpNetwork) -> (u128, u128) {
    match prefix {
        IpNetwork::V4(prefix) => (u128::from(u32::from(prefix.network())), u128::from(u32::from(prefix.broadcast()))),
        IpNetwork::V6(prefix) => (prefix.network().into(), prefix.broadcast().into()),
    }
}

fn number(address: Address) -> u128 {
    let [high, low] = address.halves();
    if address.is_v4() { u128::from(low & u64::from(u32::MAX)) } else { u128::from(high) << 64 | u128::from(low) }
}

struct Walker<'a> {
    deltas: &'a Deltas,
    states: States<'a>,
    /// Class of each tuple that has come out of the walk.
    numbers: Vec<Option<PeerClass>>,
    /// Tuple of each class.
    classes: Vec<u32>,
    addresses: Vec<(Address, AddressEntry)>,
}

/// A prefix that holds the place where the walk stands.
struct Open {
    last: u128,
    state: StateId,
    delta: DeltaId,
}

impl Walker<'_> {
    /// Gives every known address of the stops its class. Returns where the state of all others changes.
    fn family(&mut self, stops: &[Stop], end: u128) -> Result<Vec<(u128, StateId)>, CompileError> {
        let deltas = self.deltas;
        let of = |id: DeltaId| (id, &deltas.stored[id.0 as usize]);
        let mut cuts: Vec<(u128, StateId)> = Vec::new();
        let state = self.states.enter(StateId::EMPTY, of(deltas.everybody))?;
        let mut open = vec![Open { last: end, state, delta: deltas.everybody }];
        cuts.push((0, state));
        for stop in stops {
            self.close(&mut open, stop.first, &mut cuts);
            let around = open.last().map_or(state, |open| open.state);
            match stop.what {
                What::Prefix(delta) => {
                    let state = self.states.enter(around, of(delta))?;
                    cuts.push((stop.first, state));
                    open.push(Open { last: stop.last, state, delta });
                }
                What::Known { known, delta } => {
                    let state = self.states.look(around, of(delta))?;
                    let class = self.class(state);
                    let entry = AddressEntry::new(class, known.local, known.node);
                    let disputed = known.local && known.holder == Holder::Disputed;
                    let entry = if disputed { entry.disputed() } else { entry };
                    let entry = if known.holder == Holder::Service { entry.service() } else { entry };
                    self.addresses.push((known.address, if known.shown { entry.shown() } else { entry }));
                }
            }
        }
        while let Some(last) = open.pop() {
            self.states.leave(of(last.delta).1);
            if let Some(around) = open.last()
                && last.last < end
            {
                cuts.push((last.last + 1, around.state));
            }
        }
        Ok(cuts)
    }

    /// Leaves the prefixes that end before a place.
    fn close(&mut self, open: &mut Vec<Open>, before: u128, cuts: &mut Vec<(u128, StateId)>) {
        while let Some(last) = open.pop_if(|open| open.last < before) {
            self.states.leave(&self.deltas.stored[last.delta.0 as usize]);
            if let Some(around) = open.last() {
                cuts.push((last.last + 1, around.state));
            }
        }
    }

    /// Cuts in order of place; of several at one place the last holds.
    fn ranges(&mut self, cuts: &[(u128, StateId)]) -> Vec<(u128, PeerClass)> {
        let mut ranges: Vec<(u128, PeerClass)> = Vec::new();
        for (place, (first, state)) in cuts.iter().enumerate() {
            if cuts.get(place + 1).is_some_and(|(next, _)| next == first) {
                continue;
            }
            let class = self.class(*state);
            if ranges.last().is_none_or(|(_, last)| *last != class) {
                ranges.push((*first, class));
            }
        }
        ranges
    }

    fn class(&mut self, state: StateId) -> PeerClass {
        let tuple = self.states.tuple(state);
        if self.numbers.len() <= tuple as usize {
            self.numbers.resize(tuple as usize + 1, None);
        }
        *self.numbers[tuple as usize].get_or_insert_with(|| {
            self.classes.push(tuple);
            PeerClass(self.classes.len() as u32 - 1)
        })
    }
}
