//! The maps: what each looks like, and how it is made or taken over.
//!
//! Input: the layout and the configured sizes. Output: every map, pinned. A pinned map that differs from what this build
//! makes is refused by name. Each map is made and pinned on its own, so a start that was cut short is finished by the next.

use std::sync::Arc;

use enforcer_common::denial::{BusyKey, Counts, WaySet};
use enforcer_common::endpoint::{Endpoint, Quota};
use enforcer_common::flow_key::FlowKey;
use enforcer_common::flow_state::FlowValue;
use enforcer_common::id::Address;
use enforcer_common::image::{AddressEntry, Line, Start};
use enforcer_common::limits::{self, map};
use enforcer_common::verdict::REASON_COUNT;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::layout::Layout;
use crate::kernel::sys::{self, Map, MapAttributes, kind};

/// Map flags, from the kernel's uapi.
pub(crate) mod flag {
    /// Memory only for the elements that are there. That of a freed one may be reused at once, under a reader.
    pub(crate) const NO_PREALLOC: u32 = 1;
    /// Programs can only read.
    pub(crate) const RDONLY_PROG: u32 = 1 << 7;
    /// User space can map it.
    pub(crate) const MMAPABLE: u32 = 1 << 10;
    /// An inner array of any length fits the outer map.
    pub(crate) const INNER_MAP: u32 = 1 << 12;
}

/// What user space has reported of each way (`denials`); no program reads it.
pub(crate) const REPORTED: &str = "REPORTED";
/// The same for `BUSY`.
pub(crate) const REPORTED_BUSY: &str = "REPORTED_BUSY";

/// Every map but the inner ones.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) globals: Arc<Map>,
    pub(crate) images: Arc<Map>,
    pub(crate) image_starts: Arc<Map>,
    pub(crate) addresses: Arc<Map>,
    pub(crate) endpoints: Arc<Map>,
    pub(crate) endpoints_more: Arc<Map>,
    pub(crate) uplinks: Arc<Map>,
    pub(crate) flows: Arc<Map>,
    pub(crate) quotas: Arc<Map>,
    pub(crate) denials: Arc<Map>,
    pub(crate) denied: Arc<Map>,
    pub(crate) busy: Arc<Map>,
    pub(crate) events: Arc<Map>,
    pub(crate) reported: Arc<Map>,
    pub(crate) reported_busy: Arc<Map>,
}

struct Spec {
    name: &'static str,
    attributes: MapAttributes,
    inner: Option<MapAttributes>,
}

impl Maps {
    /// Makes what is missing and takes over what is there.
    pub(crate) fn open(layout: &Layout, flows: u32) -> Result<Self, KernelError> {
        let cpus = possible_cpus()?;
        let open = |spec: Spec| spec.open(layout).map(Arc::new);
        Ok(Self {
            globals: open(globals())?,
            images: open(outer(map::IMAGES, image_lines(1)))?,
            image_starts: open(image_starts())?,
            addresses: open(outer(map::ADDRESSES, image_addresses(1)))?,
            endpoints: open(endpoints())?,
            endpoints_more: open(endpoints_more())?,
            uplinks: open(uplinks())?,
            flows: open(flow_table(flows))?,
            quotas: open(quotas())?,
            denials: open(denials(cpus))?,
            denied: open(denied())?,
            busy: open(busy())?,
            events: open(events())?,
            reported: open(reported(cpus))?,
            reported_busy: open(reported_busy())?,
        })
    }

    /// Takes over what is there, for reading; nothing is made.
    pub(crate) fn pinned(layout: &Layout) -> Result<Self, KernelError> {
        let open = |name: &'static str| match Map::pinned(&layout.map(name)) {
            Ok(map) => Ok(Arc::new(map)),
            Err(error) => Err(on_map(name, "open pin")(error)),
        };
        Ok(Self {
            globals: open(map::GLOBALS)?,
            images: open(map::IMAGES)?,
            image_starts: open(map::IMAGE_STARTS)?,
            addresses: open(map::ADDRESSES)?,
            endpoints: open(map::ENDPOINTS)?,
            endpoints_more: open(map::ENDPOINTS_MORE)?,
            uplinks: open(map::UPLINKS)?,
            flows: open(map::FLOWS)?,
            quotas: open(map::QUOTAS)?,
            denials: open(map::DENIALS)?,
            denied: open(map::DENIED)?,
            busy: open(map::BUSY)?,
            events: open(map::EVENTS)?,
            reported: open(REPORTED)?,
            reported_busy: open(REPORTED_BUSY)?,
        })
    }

    /// The maps that programs use, by the names of the contract.
    pub(crate) fn of_programs(&self) -> [(&'static str, &Map); 13] {
        [
            (map::GLOBALS, &self.globals),
            (map::IMAGES, &self.images),
            (map::IMAGE_STARTS, &self.image_starts),
            (map::ADDRESSES, &self.addresses),
            (map::ENDPOINTS, &self.endpoints),
            (map::ENDPOINTS_MORE, &self.endpoints_more),
            (map::UPLINKS, &self.uplinks),
            (map::FLOWS, &self.flows),
            (map::QUOTAS, &self.quotas),
            (map::DENIALS, &self.denials),
            (map::DENIED, &self.denied),
            (map::BUSY, &self.busy),
            (map::EVENTS, &self.events),
        ]
    }

    /// All of them, with the names of their pins.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Map)> {
        let own: [(&'static str, &Map); 2] = [(REPORTED, &self.reported), (REPORTED_BUSY, &self.reported_busy)];
        self.of_programs().into_iter().chain(own)
    }
}

impl Spec {
    fn open(&self, layout: &Layout) -> Result<Map, KernelError> {
        let path = layout.map(self.name);
        match Map::pinned(&path) {
            Ok(map) => {
                // Its size is a setting: another one counts from the next purge on, flows are worth more.
                let any_size = self.name == map::FLOWS;
                compare(self.name, map.attributes(), &self.attributes, any_size)?;
                if map.attributes().entries != self.attributes.entries {
                    tracing::warn!(
                        map = self.name,
                        pinned = map.attributes().entries,
                        configured = self.attributes.entries,
                        "the pinned size stays"
                    );
                }
                Ok(map)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pattern = match &self.inner {
                    Some(inner) => Some(Map::create(self.name, inner, None).map_err(on_map(self.name, "create"))?),
                    None => None,
                };
                let map = Map::create(self.name, &self.attributes, pattern.as_ref());
                let map = map.map_err(on_map(self.name, "create"))?;
                sys::object_pin(map.fd(), &path).map_err(on_map(self.name, "pin"))?;
                Ok(map)
            }
            Err(error) => Err(on_map(self.name, "open pin")(error)),
        }
    }
}

/// Compares a map with what this build makes.
pub(crate) fn compare(
    name: &str,
    found: &MapAttributes,
    expected: &MapAttributes,
    any_size: bool,
) -> Result<(), KernelError> {
    let entries = if any_size { found.entries } else { expected.entries };
    for (what, found, expected) in [
        ("type", found.kind, expected.kind),
        ("key size", found.key_size, expected.key_size),
        ("value size", found.value_size, expected.value_size),
        ("entries", found.entries, entries),
        ("flags", found.flags, expected.flags),
    ] {
        if found != expected {
            return Err(KernelError::MapMismatch {
                name: name.to_owned(),
                what,
                found: found.into(),
                expected: expected.into(),
            });
        }
    }
    Ok(())
}

/// Number of CPUs that may ever be there.
pub(crate) fn possible_cpus() -> Result<u32, KernelError> {
    let cpus = sys::possible_cpus().map_err(|source| KernelError::System { call: "read the possible CPUs", source })?;
    Ok(cpus as u32)
}

/// Lines of an image.
pub(crate) fn image_lines(lines: u32) -> MapAttributes {
    array::<Line>(lines, flag::INNER_MAP | flag::RDONLY_PROG)
}

/// Exact addresses of an image. The kernel makes no map without an entry.
pub(crate) fn image_addresses(addresses: u32) -> MapAttributes {
    hash::<Address, AddressEntry>(addresses.max(1), flag::RDONLY_PROG)
}

fn array<V>(entries: u32, flags: u32) -> MapAttributes {
    MapAttributes { kind: kind::ARRAY, key_size: 4, value_size: size_of::<V>() as u32, entries, flags }
}

fn hash<K, V>(entries: u32, flags: u32) -> MapAttributes {
    MapAttributes {
        kind: kind::HASH,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        entries,
        flags,
    }
}

fn plain(name: &'static str, attributes: MapAttributes) -> Spec {
    Spec { name, attributes, inner: None }
}

fn outer(name: &'static str, inner: MapAttributes) -> Spec {
    let attributes = MapAttributes { kind: kind::ARRAY_OF_MAPS, ..array::<u32>(2, 0) };
    Spec { name, attributes, inner: Some(inner) }
}

fn globals() -> Spec {
    plain(map::GLOBALS, array::<u64>(limits::GLOBALS, flag::MMAPABLE))
}

fn image_starts() -> Spec {
    plain(map::IMAGE_STARTS, array::<Start>(2, flag::RDONLY_PROG))
}

fn endpoints() -> Spec {
    plain(map::ENDPOINTS, array::<Endpoint>(limits::ENDPOINTS, flag::MMAPABLE))
}

fn endpoints_more() -> Spec {
    plain(map::ENDPOINTS_MORE, hash::<u32, Endpoint>(limits::ENDPOINTS_MORE, flag::NO_PREALLOC))
}

fn uplinks() -> Spec {
    plain(map::UPLINKS, hash::<u32, u32>(limits::UPLINKS, flag::NO_PREALLOC))
}

fn flow_table(flows: u32) -> Spec {
    plain(map::FLOWS, hash::<FlowKey, FlowValue>(flows, 0))
}

fn quotas() -> Spec {
    plain(map::QUOTAS, array::<Quota>(limits::WORKLOADS, flag::MMAPABLE))
}

fn denials(cpus: u32) -> Spec {
    plain(map::DENIALS, array::<WaySet>(cpus * limits::DENIAL_SETS, flag::MMAPABLE))
}

fn denied() -> Spec {
    let attributes = MapAttributes { kind: kind::PERCPU_ARRAY, ..array::<Counts>(2 * REASON_COUNT as u32, 0) };
    plain(map::DENIED, attributes)
}

fn busy() -> Spec {
    let attributes = MapAttributes { kind: kind::PERCPU_HASH, ..hash::<BusyKey, u64>(limits::BUSY, 0) };
    plain(map::BUSY, attributes)
}

fn events() -> Spec {
    let attributes =
        MapAttributes { kind: kind::RINGBUF, key_size: 0, value_size: 0, entries: limits::EVENTS, flags: 0 };
    plain(map::EVENTS, attributes)
}

fn reported(cpus: u32) -> Spec {
    let ways = cpus * limits::DENIAL_SETS * limits::DENIAL_WAYS as u32;
    plain(REPORTED, array::<u64>(ways, flag::MMAPABLE))
}

fn reported_busy() -> Spec {
    plain(REPORTED_BUSY, hash::<BusyKey, u64>(limits::BUSY, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_is_compared_and_named() {
        let expected = array::<u64>(8, flag::MMAPABLE);
        let check = |found: MapAttributes, any_size| match compare("GLOBALS", &found, &expected, any_size) {
            Err(KernelError::MapMismatch { name, what, .. }) if name == "GLOBALS" => what,
            Ok(()) => "",
            Err(other) => panic!("{other}"),
        };
        assert_eq!(check(expected, false), "");
        for (found, what) in [
            (MapAttributes { kind: kind::HASH, ..expected }, "type"),
            (MapAttributes { key_size: 8, ..expected }, "key size"),
            (MapAttributes { value_size: 4, ..expected }, "value size"),
            (MapAttributes { entries: 9, ..expected }, "entries"),
            (MapAttributes { flags: 0, ..expected }, "flags"),
        ] {
            assert_eq!(check(found, false), what);
        }
        assert_eq!(check(MapAttributes { entries: 9, ..expected }, true), "");
    }
}
