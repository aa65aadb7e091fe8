//! Sorts the ports into classes: ports that every port set treats alike are in one class.
//!
//! Input: the port sets that rows use. Output: the class of every port key, and each port set as runs of classes.

use std::collections::{BTreeSet, HashMap};

use enforcer_common::image::PortKey;

use super::budget::CompileError;
use super::rows::Rows;
use crate::resolve::{PortSet, PortSetId, ResolvedPolicy};

/// Classes that a u16 can number.
const LIMIT: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct PortClasses {
    /// Number of classes.
    pub(super) count: usize,
    /// First key and class of each elementary interval, in order.
    pub(super) intervals: Vec<(u32, u16)>,
    /// Each used set as runs `first..end` of classes, in order.
    runs: HashMap<PortSetId, Vec<(u32, u32)>>,
}

pub(super) fn classes(rows: &Rows, resolved: &ResolvedPolicy) -> Result<PortClasses, CompileError> {
    let used: BTreeSet<PortSetId> = rows.effects.iter().flatten().map(|(_, effect)| effect.ports).collect();
    let sets: Vec<(PortSetId, &PortSet)> = used.into_iter().map(|id| (id, resolved.port_set(id))).collect();
    split(&sets)
}

fn split(sets: &[(PortSetId, &PortSet)]) -> Result<PortClasses, CompileError> {
    let mut starts: Vec<u32> = vec![0];
    for (_, set) in sets {
        starts.extend(set.intervals().iter().flat_map(|(first, end)| [*first, *end]));
    }
    starts.retain(|start| *start < PortKey::COUNT);
    starts.sort_unstable();
    starts.dedup();
    let place_of = |key: u32| starts.partition_point(|start| *start < key);

    // Refinement: each set parts the classes that it cuts through.
    let mut class_of = vec![0_usize; starts.len()];
    let mut sizes = vec![starts.len()];
    let mut inside: HashMap<usize, Vec<usize>> = HashMap::new();
    for (_, set) in sets {
        inside.clear();
        for (first, end) in set.intervals() {
            for (place, class) in class_of.iter().enumerate().take(place_of(*end)).skip(place_of(*first)) {
                inside.entry(*class).or_default().push(place);
            }
        }
        for (class, places) in &inside {
            if places.len() < sizes[*class] {
                sizes[*class] -= places.len();
                for place in places {
                    class_of[*place] = sizes.len();
                }
                sizes.push(places.len());
            }
        }
    }

    // Numbered as they occur, so that equal inputs give equal numbers and neighbours lie together.
    let count = sizes.len();
    if count > LIMIT {
        return Err(CompileError::PortClasses { count, limit: LIMIT });
    }
    let mut number_of: Vec<Option<u16>> = vec![None; count];
    let mut next = 0_u32;
    let intervals: Vec<(u32, u16)> = starts
        .iter()
        .zip(&class_of)
        .map(|(start, class)| {
            let number = *number_of[*class].get_or_insert_with(|| {
                next += 1;
                (next - 1) as u16
            });
            (*start, number)
        })
        .collect();
    let runs = sets
        .iter()
        .map(|(id, set)| {
            let classes: BTreeSet<u32> = set
                .intervals()
                .iter()
                .flat_map(|(first, end)| &intervals[place_of(*first)..place_of(*end)])
                .map(|(_, class)| u32::from(*class))
                .collect();
            (*id, runs_of(classes))
        })
        .collect();
    Ok(PortClasses { count, intervals, runs })
}

fn runs_of(classes: BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for class in classes {
        match runs.last_mut() {
            Some((_, end)) if *end == class => *end += 1,
            _ => runs.push((class, class + 1)),
        }
    }
    runs
}

impl PortClasses {
    /// Classes of which no set is known.
    pub(super) fn of_intervals(count: usize, intervals: Vec<(u32, u16)>) -> Self {
        Self { count, intervals, runs: HashMap::new() }
    }

    /// The classes of a used set, as runs `first..end`.
    pub(super) fn runs(&self, id: PortSetId) -> &[(u32, u32)] {
        self.runs.get(&id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn classes_are_exact_and_as_few_as_can_be(
            sets in prop::collection::vec(prop::collection::vec((0_u32..50, 1_u32..20), 0..4), 0..8),
        ) {
            let sets: Vec<PortSet> = sets
                .into_iter()
                .map(|set| PortSet::of_intervals(set.into_iter().map(|(first, size)| (first, first + size)).collect()))
                .collect();
            let listed: Vec<_> = sets.iter().enumerate().map(|(n, set)| (PortSetId(n as u32), set)).collect();
            let classes = split(&listed).unwrap();
            let mut signatures = std::collections::BTreeMap::new();
            for port in 0..80_u16 {
                let key = PortKey::tcp(port);
                let place = classes.intervals.partition_point(|(start, _)| *start <= key.index()) - 1;
                let class = u32::from(classes.intervals[place].1);
                let held: Vec<bool> = sets.iter().map(|set| set.contains(key)).collect();
                for (n, held) in held.iter().enumerate() {
                    let runs = classes.runs(PortSetId(n as u32));
                    prop_assert_eq!(runs.iter().any(|(first, end)| (*first..*end).contains(&class)), *held);
                }
                prop_assert_eq!(*signatures.entry(held).or_insert(class), class, "alike and yet apart");
            }
            prop_assert_eq!(signatures.len(), classes.count);
        }
    }
}
