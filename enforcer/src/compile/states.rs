//! The state of an address: the vector that each row has for it.
//!
//! Input: deltas, in the order in which the walk over the addresses meets them. Output: vectors (one cell for each port
//! class) and tuples (one vector for each row), each stored once. A state that was reached before on the same way is looked
//! up instead of computed again.

use std::collections::HashMap;
use std::rc::Rc;

use super::budget::{CompileError, Sizes};
use super::peers::{Delta, DeltaId};
use super::ports::PortClasses;
use super::rows::{Effect, Rows};
use crate::resolve::Rank;

/// Index of a state.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct StateId(u32);

impl StateId {
    /// The state in which no rule applies.
    pub(super) const EMPTY: Self = Self(0);
}

pub(super) struct States<'a> {
    ports: &'a PortClasses,
    /// Per row: the effects that are in force where the walk stands, and how often. Sorted.
    active: Vec<Vec<(Effect, i32)>>,
    /// Tuple of each state.
    tuple_of: Vec<u32>,
    steps: HashMap<(StateId, DeltaId), StateId>,
    pub(super) tuples: Unique<[u32]>,
    /// Vectors: the byte of a cell for each port class.
    pub(super) vectors: Unique<[u8]>,
    /// Vectors by the effects that they fold.
    folded: HashMap<Vec<Effect>, u32>,
}

/// Slices, each stored once.
pub(super) struct Unique<T: ?Sized> {
    pub(super) values: Vec<Rc<T>>,
    places: HashMap<Rc<T>, u32>,
}

impl<T: ?Sized + Eq + std::hash::Hash> Unique<T> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), places: HashMap::new() }
    }

    pub(super) fn intern(&mut self, value: impl Into<Rc<T>> + AsRef<T>) -> u32 {
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
        let nothing = vectors.intern(fold(ports, &[]));
        let tuple_of = vec![tuples.intern(vec![nothing; rows.effects.len()])];
        Self {
            ports,
            active: vec![Vec::new(); rows.effects.len()],
            tuple_of,
            steps: HashMap::new(),
            tuples,
            vectors,
            folded: HashMap::new(),
        }
    }

    /// The tuple of a state.
    pub(super) fn tuple(&self, state: StateId) -> u32 {
        self.tuple_of[state.0 as usize]
    }

    /// Applies a delta to a state, and stays in the new state.
    pub(super) fn enter(&mut self, from: StateId, delta: (DeltaId, &Delta)) -> Result<StateId, CompileError> {
        self.apply(delta.1, 1);
        if let Some(known) = self.steps.get(&(from, delta.0)) {
            return Ok(*known);
        }
        self.reach(from, delta)
    }

    /// Undoes `enter`.
    pub(super) fn leave(&mut self, delta: &Delta) {
        self.apply(delta, -1);
    }

    /// The state to which a delta leads, without a change of the present state.
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
        for (row, effect, change) in delta {
            let active = &mut self.active[*row as usize];
            match active.binary_search_by_key(effect, |(known, _)| *known) {
                Ok(place) => {
                    active[place].1 += sign * change;
                    if active[place].1 == 0 {
                        active.remove(place);
                    }
                }
                Err(place) => active.insert(place, (*effect, sign * change)),
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
        let effects: Vec<Effect> = self.active[row].iter().map(|(effect, _)| *effect).collect();
        if let Some(known) = self.folded.get(&effects) {
            return *known;
        }
        let vector = self.vectors.intern(fold(self.ports, &effects));
        self.folded.insert(effects, vector);
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

/// The vector of some effects: for each port class the cell of the highest rank there.
fn fold(ports: &PortClasses, effects: &[Effect]) -> Vec<u8> {
    let mut ranks = vec![Rank::ISOLATED; ports.count];
    for effect in effects {
        for (first, end) in ports.runs(effect.ports) {
            for rank in &mut ranks[*first as usize..*end as usize] {
                *rank = effect.rank.max(*rank);
            }
        }
    }
    ranks.into_iter().map(|rank| rank.cell() as u8).collect()
}
