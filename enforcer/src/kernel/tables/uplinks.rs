//! The devices that lead out of the node. Input: the uplinks of a plan. Output: their entries in `UPLINKS`.

use std::collections::BTreeSet;
use std::sync::Arc;

use enforcer_common::id::Ifindex;
use enforcer_common::limits::map;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::FlowMaps;
use crate::kernel::sys::Map;

/// The uplinks, and which of them are pinned.
#[derive(Debug)]
pub(crate) struct Uplinks {
    map: Arc<Map>,
    devices: BTreeSet<Ifindex>,
}

impl Uplinks {
    /// Reads the uplinks.
    pub(crate) fn open(maps: &FlowMaps) -> Result<Self, KernelError> {
        let map = Arc::clone(&maps.uplinks);
        let devices = read(&map)?;
        Ok(Self { map, devices })
    }

    /// Every uplink, sorted.
    pub(crate) fn devices(&self) -> &BTreeSet<Ifindex> {
        &self.devices
    }

    /// Adds what is missing. An uplink only takes rights away, so this may come before the word.
    pub(super) fn add(&mut self, wanted: &[Ifindex]) -> Result<(), KernelError> {
        for ifindex in wanted {
            let added = self.map.update(&ifindex.0.to_ne_bytes(), &1_u32.to_ne_bytes());
            added.map_err(on_map(map::UPLINKS, "update"))?;
            self.devices.insert(*ifindex);
        }
        Ok(())
    }

    /// Removes what is in the map and is not wanted.
    pub(super) fn remove_others(&mut self, wanted: &[Ifindex]) -> Result<(), KernelError> {
        for ifindex in read(&self.map)? {
            if !wanted.contains(&ifindex) {
                self.map.delete(&ifindex.0.to_ne_bytes()).map_err(on_map(map::UPLINKS, "delete"))?;
                self.devices.remove(&ifindex);
            }
        }
        Ok(())
    }
}

fn read(uplinks: &Map) -> Result<BTreeSet<Ifindex>, KernelError> {
    let mut found = BTreeSet::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(key) = uplinks.next_key(last.as_deref()).map_err(on_map(map::UPLINKS, "next key"))? {
        if let Some(bytes) = key.first_chunk() {
            found.insert(Ifindex(u32::from_ne_bytes(*bytes)));
        }
        last = Some(key);
    }
    Ok(found)
}
