//! The ports to which a rule applies, as intervals of [`PortKey`]s.
//!
//! Input: the port items of a rule and, for named ports, the ports of the destination workload. Output: a [`PortSet`].

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::image::PortKey;
use enforcer_common::packet::protocol;

use crate::policy::model::{PortSpec, Transport};
use crate::workload::model::NamedPort;

/// The id of a set, for [`ResolvedPolicy::port_set`](super::ResolvedPolicy::port_set).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSetId(pub u32);

/// Port keys as intervals `first..end`, which are sorted, do not touch, and are not empty.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSet {
    intervals: Vec<(u32, u32)>,
}

/// What a workload calls its ports.
pub(super) type PortNames = BTreeMap<String, BTreeSet<NamedPort>>;

impl PortSet {
    /// Every protocol and port (N7).
    pub fn every() -> Self {
        Self { intervals: vec![(0, PortKey::COUNT)] }
    }

    /// The union of some intervals `first..end`, which may overlap.
    pub fn of_intervals(mut intervals: Vec<(u32, u32)>) -> Self {
        intervals.retain(|(first, end)| first < end);
        intervals.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(intervals.len());
        for (first, end) in intervals {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        Self { intervals: merged }
    }

    /// The ports of the numbered items, which are the same for every destination.
    pub(super) fn of_numbers(specs: &[PortSpec]) -> Self {
        Self::of_intervals(specs.iter().filter_map(numeric).collect())
    }

    /// The ports of the named items at a destination with these port names (N10).
    pub(super) fn of_names(specs: &[PortSpec], names: &PortNames) -> Self {
        let intervals = specs.iter().filter_map(|spec| match spec {
            PortSpec::Named { name, transport } => names.get(name).map(|ports| (ports, *transport)),
            PortSpec::Every(_) | PortSpec::Range { .. } | PortSpec::Icmp => None,
        });
        Self::of_intervals(
            intervals
                .flat_map(|(ports, transport)| {
                    ports.iter().filter_map(move |named| match (transport, transport_of(named.protocol)?) {
                        (Some(wanted), served) if wanted != served => None,
                        (_, served) => Some(interval(served, named.port, named.port)),
                    })
                })
                .collect(),
        )
    }

    /// Both sets together.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of_intervals(self.intervals.iter().chain(&other.intervals).copied().collect())
    }

    /// The intervals `first..end`, in order.
    pub fn intervals(&self) -> &[(u32, u32)] {
        &self.intervals
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Whether it holds a port.
    pub fn contains(&self, key: PortKey) -> bool {
        let after = self.intervals.partition_point(|(first, _)| *first <= key.index());
        after.checked_sub(1).is_some_and(|place| key.index() < self.intervals[place].1)
    }
}

fn numeric(spec: &PortSpec) -> Option<(u32, u32)> {
    match spec {
        PortSpec::Every(transport) => Some(interval(*transport, 0, u16::MAX)),
        PortSpec::Range { transport, first, last } => Some(interval(*transport, *first, *last)),
        PortSpec::Icmp => Some((PortKey::icmp(0).index(), PortKey::icmpv6(u8::MAX).index() + 1)),
        PortSpec::Named { .. } => None,
    }
}

fn interval(transport: Transport, first: u16, last: u16) -> (u32, u32) {
    (port_key(transport, first).index(), port_key(transport, last).index() + 1)
}

pub(super) fn port_key(transport: Transport, port: u16) -> PortKey {
    match transport {
        Transport::Tcp => PortKey::tcp(port),
        Transport::Udp => PortKey::udp(port),
        Transport::Sctp => PortKey::sctp(port),
    }
}

fn transport_of(number: u8) -> Option<Transport> {
    match number {
        protocol::TCP => Some(Transport::Tcp),
        protocol::UDP => Some(Transport::Udp),
        protocol::SCTP => Some(Transport::Sctp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_union_is_exact_and_apart(parts in prop::collection::vec((0_u32..60, 0_u32..12), 0..12)) {
            let parts: Vec<(u32, u32)> = parts.into_iter().map(|(first, size)| (first, first + size)).collect();
            let set = PortSet::of_intervals(parts.clone());
            for port in 0..80_u16 {
                let held = parts.iter().any(|(first, end)| (*first..*end).contains(&u32::from(port)));
                prop_assert_eq!(set.contains(PortKey::tcp(port)), held, "{}", port);
            }
            for pair in set.intervals().windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
            prop_assert!(set.intervals().iter().all(|(first, end)| first < end));
        }
    }

    #[test]
    fn icmp_is_both_and_nothing_else() {
        let set = PortSet::of_numbers(&[PortSpec::Icmp]);
        for kind in 0..=u8::MAX {
            assert!(set.contains(PortKey::icmp(kind)) && set.contains(PortKey::icmpv6(kind)));
            assert!(!set.contains(PortKey::other(kind)));
        }
        assert!(!set.contains(PortKey::sctp(u16::MAX)));
    }

    #[test]
    fn a_range_ends_with_its_protocol() {
        let set = PortSet::of_numbers(&[PortSpec::Range { transport: Transport::Tcp, first: 65_000, last: u16::MAX }]);
        assert!(set.contains(PortKey::tcp(u16::MAX)) && !set.contains(PortKey::udp(0)));
    }
}
