//! Everything that is pinned: its paths, the maps, and how all of it is removed.
//!
//! Input: the pin directory and the configured sizes. Output: every map, pinned, under the lock of one daemon.

pub(crate) mod layout;
mod lock;
mod maps;
mod purge;

use std::fs;
use std::io;
use std::path::Path;

pub(crate) use layout::Layout;
pub use layout::group_directory;
pub(crate) use lock::is_locked;
pub(crate) use maps::{FlowMaps, Maps, PolicyMaps, compare, image_addresses, image_lines, pinned, possible_cpus};
pub use purge::purge;

use enforcer_common::schema::MapRow;
use layout::{Others, incoming, replace, unpin};
use lock::Lock;

use crate::kernel::error::{KernelError, at};
use crate::kernel::sys::{self, Map};

/// The pins of one directory, which no other daemon touches while this is held.
#[derive(Debug)]
pub(crate) struct Pins {
    layout: Layout,
    maps: Maps,
    others: Others,
    _lock: Lock,
}

impl Pins {
    /// Takes the lock, and makes or takes over the maps. `namespace`: the cookie of the network namespace of the devices.
    /// `flows`: entries of a flow table that is made.
    pub(crate) fn open(pin_dir: &Path, namespace: u64, flows: u32) -> Result<Self, KernelError> {
        let (layout, others, lock) = Layout::open(pin_dir, namespace)?;
        let maps = Maps::open(&layout, flows)?;
        Ok(Self { layout, maps, others, _lock: lock })
    }

    /// Where everything is pinned.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The maps.
    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Whether an image of another layout is there, which older programs may judge by.
    pub(crate) fn has_other_policy(&self) -> bool {
        self.others.policy
    }

    /// Removes what other versions have pinned. Nothing may use it any more. An error keeps nothing from the other directories,
    /// and what is removed, by whomever, is not tried again.
    pub(crate) fn remove_others(&mut self) -> Result<(), KernelError> {
        let mut failure = None;
        self.others.directories.retain(|directory| match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failure = Some(at(directory, "remove")(error));
                true
            }
            Ok(()) | Err(_) => false,
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.others = Others::default();
        Ok(())
    }

    /// Maps whose pin is gone or another's.
    pub(crate) fn lost(&self) -> Vec<&'static str> {
        let is_lost = |(row, map): &(&'static MapRow, &Map)| {
            let pinned = Map::pinned(&self.layout.map(row));
            !pinned.is_ok_and(|pinned| pinned.id() == map.id())
        };
        self.maps.all().filter(is_lost).map(|(row, _)| row.name).collect()
    }

    /// Pins a map again.
    pub(crate) fn pin_again(&self, name: &str) -> Result<(), KernelError> {
        if let Some((row, map)) = self.maps.all().find(|(row, _)| row.name == name) {
            let path = self.layout.map(row);
            let new = incoming(&path);
            unpin(&new)?;
            sys::object_pin(map.fd(), &new).map_err(at(&new, "pin"))?;
            replace(&new, &path)?;
        }
        Ok(())
    }
}
