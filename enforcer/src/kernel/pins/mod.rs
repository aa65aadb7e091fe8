//! What is pinned: where it lies, what each map looks like, and how all of it is removed.
//!
//! Input: the pin directory and the configured sizes. Output: every map, pinned, under the lock of one daemon.

pub(crate) mod layout;
mod maps;
mod purge;

use std::path::Path;

pub(crate) use layout::Layout;
pub(crate) use maps::{Maps, REPORTED, REPORTED_BUSY, compare, image_addresses, image_lines, possible_cpus};
pub use purge::purge;

use layout::{Lock, incoming, replace, unpin};

use crate::kernel::error::{KernelError, at};
use crate::kernel::sys::{self, Map};

/// The pins of one directory, which no other daemon touches while this is held.
#[derive(Debug)]
pub(crate) struct Pins {
    layout: Layout,
    maps: Maps,
    _lock: Lock,
}

impl Pins {
    /// Takes the lock, and makes or takes over the maps. `namespace`: the cookie of the network namespace of the devices.
    /// `flows`: entries of a flow table that is made.
    pub(crate) fn open(pin_dir: &Path, namespace: u64, flows: u32) -> Result<Self, KernelError> {
        let (layout, lock) = Layout::open(pin_dir, namespace)?;
        let maps = Maps::open(&layout, flows)?;
        Ok(Self { layout, maps, _lock: lock })
    }

    /// Where everything is pinned.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The maps.
    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Maps whose pin is gone or another's.
    pub(crate) fn lost(&self) -> Vec<&'static str> {
        let is_lost = |(name, map): &(&'static str, &Map)| {
            let pinned = Map::pinned(&self.layout.map(name));
            !pinned.is_ok_and(|pinned| pinned.id() == map.id())
        };
        self.maps.all().filter(is_lost).map(|(name, _)| name).collect()
    }

    /// Pins a map again.
    pub(crate) fn pin_again(&self, name: &str) -> Result<(), KernelError> {
        let path = self.layout.map(name);
        let new = incoming(&path);
        if let Some((_, map)) = self.maps.all().find(|(held, _)| *held == name) {
            unpin(&new)?;
            sys::object_pin(map.fd(), &new).map_err(at(&new, "pin"))?;
            replace(&new, &path)?;
        }
        Ok(())
    }
}
