//! By which veth each address of a local workload is reached.
//!
//! Input: the addresses of a plan. Output: their entries in `VETHS`. What leaves from an address without an entry is not judged
//! again behind translation, so an entry comes before its workload may send from the address and goes after that.

use std::collections::BTreeMap;
use std::sync::Arc;

use enforcer_common::id::{Address, Ifindex};
use enforcer_common::limits::map;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::sys::Map;

/// The entries as this process last stored them.
#[derive(Debug)]
pub(crate) struct Veths {
    map: Arc<Map>,
    entries: BTreeMap<Address, Ifindex>,
}

impl Veths {
    /// Reads the entries.
    pub(crate) fn open(map: &Arc<Map>) -> Result<Self, KernelError> {
        let map = Arc::clone(map);
        let entries = read(&map)?;
        Ok(Self { map, entries })
    }

    /// Adds what is missing, and corrects what leads to another veth.
    pub(super) fn add(&mut self, wanted: &BTreeMap<Address, Ifindex>) -> Result<(), KernelError> {
        for (address, veth) in wanted {
            if self.entries.get(address) != Some(veth) {
                self.put(address, *veth)?;
                self.entries.insert(*address, *veth);
            }
        }
        Ok(())
    }

    /// Removes what is not wanted.
    pub(super) fn remove_others(&mut self, wanted: &BTreeMap<Address, Ifindex>) -> Result<(), KernelError> {
        let others: Vec<Address> =
            self.entries.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in others {
            self.map.delete(&to_bytes(&address)).map_err(on_map(map::VETHS, "delete"))?;
            self.entries.remove(&address);
        }
        Ok(())
    }

    /// Whether the map holds anything else than was stored there.
    pub(super) fn has_drifted(&self) -> Result<bool, KernelError> {
        Ok(read(&self.map)? != self.entries)
    }

    /// Stores again what was last stored, and nothing else.
    pub(super) fn restore(&self) -> Result<(), KernelError> {
        for (address, veth) in &self.entries {
            self.put(address, *veth)?;
        }
        for address in read(&self.map)?.keys().filter(|address| !self.entries.contains_key(address)) {
            self.map.delete(&to_bytes(address)).map_err(on_map(map::VETHS, "delete"))?;
        }
        Ok(())
    }

    fn put(&self, address: &Address, veth: Ifindex) -> Result<(), KernelError> {
        self.map.update(&to_bytes(address), &veth.0.to_ne_bytes()).map_err(on_map(map::VETHS, "update"))
    }
}

fn to_bytes(address: &Address) -> [u8; 16] {
    address.octets()
}

fn from_bytes(bytes: &[u8]) -> Option<Address> {
    let [a, b, c, d] = *bytes.as_chunks::<4>().0.first_chunk()?;
    Some(Address([a, b, c, d].map(u32::from_ne_bytes)))
}

fn read(veths: &Map) -> Result<BTreeMap<Address, Ifindex>, KernelError> {
    let mut found = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(key) = veths.next_key(last.as_deref()).map_err(on_map(map::VETHS, "next key"))? {
        let mut veth = [0; 4];
        let value = veths.lookup(&key, &mut veth).map_err(on_map(map::VETHS, "look up"))?;
        if let (Some(address), Some(())) = (from_bytes(&key), value) {
            found.insert(address, Ifindex(u32::from_ne_bytes(veth)));
        }
        last = Some(key);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_through_bytes() {
        let address = Address([1, 2, 3, 4]);
        assert_eq!(from_bytes(&to_bytes(&address)), Some(address));
        assert_eq!(from_bytes(&[0; 15]), None);
    }
}
