//! One row for each map: its name, its layout, and the group in which it is pinned.
//!
//! Input: the layouts and the limits of this crate. Output: constants. The programs take the sizes and flags of their maps
//! from here, user space makes and compares the pinned maps by them, and a test compares the documentation with them.

use crate::denial::{BusyKey, Counts, WaySet};
use crate::endpoint::Endpoint;
use crate::flow_key::FlowKey;
use crate::flow_state::FlowValue;
use crate::half_open::HalfOpen;
use crate::home::HomeKey;
use crate::id::Address;
use crate::image::{AddressEntry, Line, Start};
use crate::limits::{self, map};
use crate::quota::Quota;
use crate::verdict::REASON_COUNT;

/// Flags of maps, from the kernel's uapi.
pub mod flag {
    /// Memory only for the elements that are there. That of a freed one may be reused at once, under a reader.
    pub const NO_PREALLOC: u32 = 1;
    /// Programs can only read.
    pub const RDONLY_PROG: u32 = 1 << 7;
    /// User space can map it.
    pub const MMAPABLE: u32 = 1 << 10;
    /// An inner array of any length fits the outer map.
    pub const INNER_MAP: u32 = 1 << 12;
}

/// Maps whose layouts change together. Each group is pinned in a directory of its own, `NAME-ABI`, so that another layout of
/// one group leaves the maps of the others in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// Who is who, and what is under way: a start that finds another number is refused, since live flows would be lost.
    Flows,
    /// The compiled image: another number is replaced by the first image of this build, and live flows stay.
    Policy,
    /// What was denied: another number is left behind, with what of it was not reported yet.
    Denials,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 3] = [Self::Flows, Self::Policy, Self::Denials];

    /// First part of the directory's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Policy => "policy",
            Self::Denials => "denials",
        }
    }

    /// Version of the layouts in this group: those of the maps and of what lies in them. Second part of the directory's name.
    pub const fn abi(self) -> u32 {
        match self {
            Self::Flows | Self::Policy => 3,
            Self::Denials => 1,
        }
    }
}

/// Type of a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An array.
    Array,
    /// A hash.
    Hash,
    /// An array with a value for each CPU.
    PerCpuArray,
    /// A hash with a value for each CPU.
    PerCpuHash,
    /// An array of maps.
    ArrayOfMaps,
    /// A ring buffer; its entries are bytes.
    RingBuffer,
}

/// How many elements a map has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entries {
    /// Always as many.
    Fixed(u32),
    /// As many for each CPU that may ever be there.
    EachCpu(u32),
    /// As many unless a setting says otherwise; a pinned map keeps its size.
    Setting(u32),
    /// [`limits::half_open`] of the flow table; as many unless a setting says otherwise. A pinned map keeps its size.
    HalfOpen(u32),
    /// As many as an image needs.
    Image,
}

/// One map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapRow {
    /// Name in the object and in the pin directory.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Elements.
    pub entries: Entries,
    /// Flags, see [`flag`].
    pub flags: u32,
    /// Where it is pinned.
    pub group: Group,
    /// What its elements look like, if these are maps.
    pub inner: Option<&'static Self>,
}

impl MapRow {
    /// Elements of the map in the object, which cannot know the machine or the settings; user space makes the real ones.
    pub const fn declared(&self) -> usize {
        match self.entries {
            Entries::Fixed(entries)
            | Entries::EachCpu(entries)
            | Entries::Setting(entries)
            | Entries::HalfOpen(entries) => entries as usize,
            Entries::Image => 1,
        }
    }

    /// Flags as the object declares them.
    pub const fn flag_bits(&self) -> usize {
        self.flags as usize
    }

    /// Whether keys and values are these types, and the type this kind.
    pub const fn holds<K, V>(&self) -> bool {
        self.key == size_of::<K>() && self.value == size_of::<V>()
    }

    const fn array<V>(name: &'static str, entries: Entries, flags: u32, group: Group) -> Self {
        Self {
            name,
            kind: Kind::Array,
            key: size_of::<u32>(),
            value: size_of::<V>(),
            entries,
            flags,
            group,
            inner: None,
        }
    }

    const fn hash<K, V>(name: &'static str, entries: Entries, flags: u32, group: Group) -> Self {
        Self { kind: Kind::Hash, key: size_of::<K>(), ..Self::array::<V>(name, entries, flags, group) }
    }

    const fn slots(name: &'static str, inner: &'static Self) -> Self {
        let array = Self::array::<u32>(name, Entries::Fixed(2), 0, Group::Policy);
        Self { kind: Kind::ArrayOfMaps, inner: Some(inner), ..array }
    }
}

/// Lines of an image.
pub const IMAGE_LINES: MapRow =
    MapRow::array::<Line>("image", Entries::Image, flag::INNER_MAP | flag::RDONLY_PROG, Group::Policy);
/// Exact addresses of an image.
pub const IMAGE_ADDRESSES: MapRow =
    MapRow::hash::<Address, AddressEntry>("addresses", Entries::Image, flag::RDONLY_PROG, Group::Policy);

/// See [`limits::Global`].
pub const GLOBALS: MapRow =
    MapRow::array::<u64>(map::GLOBALS, Entries::Fixed(limits::GLOBALS), flag::MMAPABLE, Group::Flows);
/// Slot -> image.
pub const IMAGES: MapRow = MapRow::slots(map::IMAGES, &IMAGE_LINES);
/// Slot -> the first lines of the image.
pub const IMAGE_STARTS: MapRow =
    MapRow::array::<Start>(map::IMAGE_STARTS, Entries::Fixed(2), flag::RDONLY_PROG, Group::Policy);
/// Slot -> exact addresses.
pub const ADDRESSES: MapRow = MapRow::slots(map::ADDRESSES, &IMAGE_ADDRESSES);
/// Ifindex & mask -> endpoint.
pub const ENDPOINTS: MapRow =
    MapRow::array::<Endpoint>(map::ENDPOINTS, Entries::Fixed(limits::ENDPOINTS), flag::MMAPABLE, Group::Flows);
/// Ifindex -> endpoint, for those whose place in `ENDPOINTS` is taken. Not preallocated: most nodes need none of it.
pub const ENDPOINTS_MORE: MapRow = MapRow::hash::<u32, Endpoint>(
    map::ENDPOINTS_MORE,
    Entries::Fixed(limits::ENDPOINTS_MORE),
    flag::NO_PREALLOC,
    Group::Flows,
);
/// Address of a local workload and device -> 1. Not preallocated: most nodes need few.
pub const HOMES: MapRow =
    MapRow::hash::<HomeKey, u32>(map::HOMES, Entries::Fixed(limits::HOMES), flag::NO_PREALLOC, Group::Flows);
/// Address of a local workload -> a veth of it, 0 if several have the address. Not preallocated: most nodes need few.
pub const VETHS: MapRow =
    MapRow::hash::<Address, u32>(map::VETHS, Entries::Fixed(limits::VETHS), flag::NO_PREALLOC, Group::Flows);
/// Ifindex -> 1, devices towards the outside. Not preallocated: most nodes have one. No program reads it.
pub const UPLINKS: MapRow =
    MapRow::hash::<u32, u32>(map::UPLINKS, Entries::Fixed(limits::UPLINKS), flag::NO_PREALLOC, Group::Flows);
/// Flow key -> flow value.
pub const FLOWS: MapRow =
    MapRow::hash::<FlowKey, FlowValue>(map::FLOWS, Entries::Setting(limits::FLOWS), 0, Group::Flows);
/// Place -> key of a half-open flow: a ring for each direction, of which the first place holds the counter.
pub const HALF_OPEN: MapRow = MapRow::array::<HalfOpen>(
    map::HALF_OPEN,
    Entries::HalfOpen(limits::half_open(limits::FLOWS)),
    flag::MMAPABLE,
    Group::Flows,
);
/// Place of a workload -> quota; the pool behind them.
pub const QUOTAS: MapRow =
    MapRow::array::<Quota>(map::QUOTAS, Entries::Fixed(limits::WORKLOADS + 1), flag::MMAPABLE, Group::Flows);
/// CPU * sets + set -> four ways.
pub const DENIALS: MapRow =
    MapRow::array::<WaySet>(map::DENIALS, Entries::EachCpu(limits::DENIAL_SETS), flag::MMAPABLE, Group::Denials);
/// Direction * reasons + reason -> counts.
pub const DENIED: MapRow = MapRow {
    kind: Kind::PerCpuArray,
    ..MapRow::array::<Counts>(map::DENIED, Entries::Fixed(2 * REASON_COUNT as u32), 0, Group::Denials)
};
/// (Workload, direction, reason) -> packets that found all four ways busy.
pub const BUSY: MapRow = MapRow {
    kind: Kind::PerCpuHash,
    ..MapRow::hash::<BusyKey, u64>(map::BUSY, Entries::Fixed(limits::BUSY), 0, Group::Denials)
};
/// Denial events.
pub const EVENTS: MapRow = MapRow {
    name: map::EVENTS,
    kind: Kind::RingBuffer,
    key: 0,
    value: 0,
    entries: Entries::Fixed(limits::EVENTS),
    flags: 0,
    group: Group::Denials,
    inner: None,
};
/// Way -> generation and total last reported. No program reads it.
pub const REPORTED: MapRow = MapRow::array::<u64>(
    map::REPORTED,
    Entries::EachCpu(limits::DENIAL_SETS * limits::DENIAL_WAYS as u32),
    flag::MMAPABLE,
    Group::Denials,
);
/// The same for `BUSY`.
pub const REPORTED_BUSY: MapRow =
    MapRow::hash::<BusyKey, u64>(map::REPORTED_BUSY, Entries::Fixed(limits::BUSY), 0, Group::Denials);

/// Every pinned map: those of the programs first.
pub const ALL: [&MapRow; 18] = [
    &GLOBALS,
    &IMAGES,
    &IMAGE_STARTS,
    &ADDRESSES,
    &ENDPOINTS,
    &ENDPOINTS_MORE,
    &HOMES,
    &VETHS,
    &FLOWS,
    &HALF_OPEN,
    &QUOTAS,
    &DENIALS,
    &DENIED,
    &BUSY,
    &EVENTS,
    &REPORTED,
    &REPORTED_BUSY,
    &UPLINKS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_maps_and_no_two_groups_share_a_name() {
        for (place, row) in ALL.iter().enumerate() {
            assert!(ALL[place + 1..].iter().all(|other| other.name != row.name), "{}", row.name);
        }
        let [flows, policy, denials] = Group::ALL.map(Group::name);
        assert!(flows != policy && policy != denials && denials != flows);
    }

    #[test]
    fn an_image_is_in_the_policy_group_wholly() {
        for row in ALL.iter().filter(|row| row.inner.is_some()) {
            assert!(row.group == Group::Policy && row.inner.is_some_and(|inner| inner.group == Group::Policy));
        }
    }
}
