//! Makes the pinned maps, or takes them over.
//!
//! Input: the rows of the schema, the layout and the configured sizes. Output: every map, pinned. A pinned map that differs
//! from its row is refused by name. Each map is made and pinned separately, so the next start completes one that was cut
//! short.

use std::sync::Arc;

use enforcer_common::limits;
use enforcer_common::schema::{self, Entries, Kind, MapRow};

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::layout::Layout;
use crate::kernel::sys::{self, Map, MapAttributes, kind};

/// Every pinned map.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) flows: FlowMaps,
    pub(crate) homes: Arc<Map>,
    pub(crate) veths: Arc<Map>,
    pub(crate) policy: PolicyMaps,
    pub(crate) denials: DenialMaps,
}

/// The maps of endpoints, uplinks and flows.
#[derive(Debug)]
pub(crate) struct FlowMaps {
    pub(crate) globals: Arc<Map>,
    pub(crate) endpoints: Arc<Map>,
    pub(crate) endpoints_more: Arc<Map>,
    pub(crate) uplinks: Arc<Map>,
    pub(crate) flows: Arc<Map>,
    pub(crate) half_open: Arc<Map>,
    pub(crate) quotas: Arc<Map>,
}

/// Both slots of the image.
#[derive(Debug)]
pub(crate) struct PolicyMaps {
    pub(crate) images: Arc<Map>,
    pub(crate) image_starts: Arc<Map>,
    pub(crate) addresses: Arc<Map>,
}

/// The maps of denied packets, and of what was reported of them.
#[derive(Debug)]
pub(crate) struct DenialMaps {
    pub(crate) denials: Arc<Map>,
    pub(crate) denied: Arc<Map>,
    pub(crate) busy: Arc<Map>,
    pub(crate) events: Arc<Map>,
    pub(crate) reported: Arc<Map>,
    pub(crate) reported_busy: Arc<Map>,
}

/// The numbers on which the sizes of some maps depend.
struct Sizes {
    cpus: u32,
    flows: u32,
}

impl Maps {
    /// Takes over the maps that are pinned, and makes the missing ones.
    pub(crate) fn open(layout: &Layout, flows: u32) -> Result<Self, KernelError> {
        let sizes = Sizes { cpus: possible_cpus()?, flows };
        let open = |row: &'static MapRow| sizes.open(layout, row).map(Arc::new);
        Ok(Self {
            flows: FlowMaps::of(open)?,
            homes: open(&schema::HOMES)?,
            veths: open(&schema::VETHS)?,
            policy: PolicyMaps {
                images: open(&schema::IMAGES)?,
                image_starts: open(&schema::IMAGE_STARTS)?,
                addresses: open(&schema::ADDRESSES)?,
            },
            denials: DenialMaps {
                denials: open(&schema::DENIALS)?,
                denied: open(&schema::DENIED)?,
                busy: open(&schema::BUSY)?,
                events: open(&schema::EVENTS)?,
                reported: open(&schema::REPORTED)?,
                reported_busy: open(&schema::REPORTED_BUSY)?,
            },
        })
    }

    /// The maps that programs use.
    pub(crate) fn of_programs(&self) -> [(&'static MapRow, &Map); 15] {
        let Self { flows, homes, veths, policy, denials } = self;
        [
            (&schema::GLOBALS, &flows.globals),
            (&schema::IMAGES, &policy.images),
            (&schema::IMAGE_STARTS, &policy.image_starts),
            (&schema::ADDRESSES, &policy.addresses),
            (&schema::ENDPOINTS, &flows.endpoints),
            (&schema::ENDPOINTS_MORE, &flows.endpoints_more),
            (&schema::HOMES, homes),
            (&schema::VETHS, veths),
            (&schema::FLOWS, &flows.flows),
            (&schema::HALF_OPEN, &flows.half_open),
            (&schema::QUOTAS, &flows.quotas),
            (&schema::DENIALS, &denials.denials),
            (&schema::DENIED, &denials.denied),
            (&schema::BUSY, &denials.busy),
            (&schema::EVENTS, &denials.events),
        ]
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static MapRow, &Map)> {
        let own: [(&'static MapRow, &Map); 3] = [
            (&schema::REPORTED, &self.denials.reported),
            (&schema::REPORTED_BUSY, &self.denials.reported_busy),
            (&schema::UPLINKS, &self.flows.uplinks),
        ];
        self.of_programs().into_iter().chain(own)
    }
}

impl FlowMaps {
    /// Opens the pinned maps for reading. It makes none.
    pub(crate) fn pinned(layout: &Layout) -> Result<Self, KernelError> {
        Self::of(|row| pinned(layout, row))
    }

    fn of(open: impl Fn(&'static MapRow) -> Result<Arc<Map>, KernelError>) -> Result<Self, KernelError> {
        Ok(Self {
            globals: open(&schema::GLOBALS)?,
            endpoints: open(&schema::ENDPOINTS)?,
            endpoints_more: open(&schema::ENDPOINTS_MORE)?,
            uplinks: open(&schema::UPLINKS)?,
            flows: open(&schema::FLOWS)?,
            half_open: open(&schema::HALF_OPEN)?,
            quotas: open(&schema::QUOTAS)?,
        })
    }
}

/// A map that is there, for reading.
pub(crate) fn pinned(layout: &Layout, row: &MapRow) -> Result<Arc<Map>, KernelError> {
    Map::pinned(&layout.map(row)).map(Arc::new).map_err(on_map(row.name, "open pin"))
}

impl Sizes {
    fn open(&self, layout: &Layout, row: &MapRow) -> Result<Map, KernelError> {
        let (name, expected) = (row.name, attributes(row, self.entries(row)));
        let path = layout.map(row);
        match Map::pinned(&path) {
            Ok(map) => {
                // Another size in the settings counts from the next purge on, because a new map would lose live flows.
                let any_size = matches!(row.entries, Entries::Setting(_) | Entries::HalfOpen(_));
                compare(name, map.attributes(), &expected, any_size)?;
                let pinned = map.attributes().entries;
                if pinned != expected.entries {
                    tracing::warn!(
                        map = name,
                        pinned,
                        configured = expected.entries,
                        "the map keeps its pinned size; `enforcer purge` and a new start give it the configured size"
                    );
                }
                Ok(map)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pattern = match row.inner {
                    Some(inner) => {
                        let pattern = Map::create(name, &attributes(inner, self.entries(inner)), None);
                        Some(pattern.map_err(on_map(name, "create"))?)
                    }
                    None => None,
                };
                let map = Map::create(name, &expected, pattern.as_ref()).map_err(on_map(name, "create"))?;
                sys::object_pin(map.fd(), &path).map_err(on_map(name, "pin"))?;
                Ok(map)
            }
            Err(error) => Err(on_map(name, "open pin")(error)),
        }
    }

    fn entries(&self, row: &MapRow) -> u32 {
        match row.entries {
            Entries::Fixed(entries) => entries,
            Entries::EachCpu(entries) => self.cpus * entries,
            Entries::Setting(_) => self.flows,
            Entries::HalfOpen(_) => limits::half_open(self.flows),
            // The kernel makes no map without an entry.
            Entries::Image => 1,
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
    attributes(&schema::IMAGE_LINES, lines)
}

/// Exact addresses of an image. The kernel makes no map without an entry.
pub(crate) fn image_addresses(addresses: u32) -> MapAttributes {
    attributes(&schema::IMAGE_ADDRESSES, addresses.max(1))
}

fn attributes(row: &MapRow, entries: u32) -> MapAttributes {
    let kind = match row.kind {
        Kind::Array => kind::ARRAY,
        Kind::Hash => kind::HASH,
        Kind::PerCpuArray => kind::PERCPU_ARRAY,
        Kind::PerCpuHash => kind::PERCPU_HASH,
        Kind::ArrayOfMaps => kind::ARRAY_OF_MAPS,
        Kind::RingBuffer => kind::RINGBUF,
    };
    MapAttributes { kind, key_size: row.key as u32, value_size: row.value as u32, entries, flags: row.flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_is_compared_and_named() {
        let expected = attributes(&schema::GLOBALS, 8);
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
