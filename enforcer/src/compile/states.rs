//! The state of an address: which ports each row grants it.
//!
//! Input: deltas, in the order in which the walk over the addresses comes by them. Output: vectors (a set of port classes)
//! and tuples (a vector for each row), each stored once. A state that is reached again by the same way is looked up.

use std::collections::HashMap;
use std::rc::Rc;

use super::budget::{CompileError, Sizes};
use super::peers::{Delta, DeltaId};
use super::ports::PortClasses;
use super::rows::Rows;
use crate::resolve::PortSetId;

/// Index of a state.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct StateId(u32);

impl StateId {
    /// Nothing is granted.
    pub(super) const EMPTY: Self = Self(0);
}

pub(super) struct States<'a> {
    ports: &'a PortClasses,
    /// Per row: how many grants of each set of ports are in force where the walk stands.
    active: Vec<Vec<(PortSetId, i32)>>,
    /// Tuple of each state.
    tuple_of: Vec<u32>,
    steps: HashMap<(StateId, DeltaId), StateId>,
    pub(super) tuples: Unique<[u32]>,
    /// Vectors as bits.
    pub(super) vectors: Unique<[u64]>,
    /// Vectors by the sets of ports whose union they are.
    unions: HashMap<Vec<PortSetId>, u32>,
}

/// Slices, each stored once.
pub(super) struct Unique<T: ?Sized> {
    pub(super) values: Vec<Rc<T>>,
    places: HashMap<Rc<T>, u32>,
}

impl<T: ?Sized + Eq + std::hash::Hash> Unique<T> {
    fn new() -> Self {
        Self { values: Vec::new(), places: HashMap::new() }
    }

    fn intern(&mut self, value: impl Into<Rc<T>> + AsRef<T>) -> u32 {
        if let Some(place) = self.places.get(value.as_ref()) {
            return *place;
        }
        let (place, value) = (self.values.len() as u32, value.into());
        self.values.push(Rc::clone(&value));
        self.places.insert(value, place);
        place
    }
}

impl<'a> States<'a> {
    pub(super) fn new(rows: &Rows, ports: &'a PortClasses) -> Self {
        let (mut tuples, mut vectors) = (Unique::new(), Unique::new());
        let nothing = vectors.intern(vec![0; ports.count.div_ceil(64)]);
        let tuple_of = vec![tuples.intern(vec![nothing; rows.grants.len()])];
        Self {
            ports,
            active: vec![Vec::new(); rows.grants.len()],
            tuple_of,
            steps: HashMap::new(),
            tuples,
            vectors,
            unions: HashMap::new(),
        }
    }

    /// The tuple of a state.
    pub(super) fn tuple(&self, state: StateId) -> u32 {
        self.tuple_of[state.0 as usize]
    }

    /// Goes on from a state by a delta, and stays there.
    pub(super) fn enter(&mut self, from: StateId, delta: (DeltaId, &Delta)) -> Result<StateId, CompileError> {
        self.apply(delta.1, 1);
        if let Some(known) = self.steps.get(&(from, delta.0)) {
            return Ok(*known);
        }
        self.reach(from, delta)
    }

    /// Takes back what `enter` did.
    pub(super) fn leave(&mut self, delta: &Delta) {
        self.apply(delta, -1);
    }

    /// The state that a delta leads to, without going there.
    pub(super) fn look(&mut self, from: StateId, delta: (DeltaId, &Delta)) -> Result<StateId, CompileError> {
        if delta.1.is_empty() {
            return Ok(from);
        }
        if let Some(known) = self.steps.get(&(from, delta.0)) {
            return Ok(*known);
        }
        let state = self.enter(from, delta)?;
        self.leave(delta.1);
        Ok(state)
    }

    fn apply(&mut self, delta: &Delta, sign: i32) {
        for (row, ports, change) in delta {
            let active = &mut self.active[*row as usize];
            match active.binary_search_by_key(ports, |(known, _)| *known) {
                Ok(place) => {
                    active[place].1 += sign * change;
                    if active[place].1 == 0 {
                        active.remove(place);
                    }
                }
                Err(place) => active.insert(place, (*ports, sign * change)),
            }
        }
    }

    fn reach(&mut self, from: StateId, (id, delta): (DeltaId, &Delta)) -> Result<StateId, CompileError> {
        let mut tuple = self.tuples.values[self.tuple(from) as usize].to_vec();
        let mut last = None;
        for (row, _, _) in delta {
            if last.replace(*row) != Some(*row) {
                tuple[*row as usize] = self.vector(*row as usize);
            }
        }
        let state = StateId(self.tuple_of.len() as u32);
        self.tuple_of.push(self.tuples.intern(tuple));
        self.steps.insert((from, id), state);
        self.sizes_so_far().check_so_far()?;
        Ok(state)
    }

    fn vector(&mut self, row: usize) -> u32 {
        let sets: Vec<PortSetId> = self.active[row].iter().map(|(ports, _)| *ports).collect();
        if let Some(known) = self.unions.get(&sets) {
            return *known;
        }
        let mut bits = vec![0_u64; self.ports.count.div_ceil(64)];
        for (first, end) in sets.iter().flat_map(|set| self.ports.runs(*set)) {
            for class in *first..*end {
                bits[class as usize / 64] |= 1 << (class % 64);
            }
        }
        let vector = self.vectors.intern(bits);
        self.unions.insert(sets, vector);
        vector
    }

    fn sizes_so_far(&self) -> Sizes {
        Sizes {
            rows: self.active.len(),
            peer_classes: self.tuples.values.len(),
            port_classes: self.ports.count,
            vectors: self.vectors.values.len(),
            ..Sizes::default()
        }
    }
}
