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
use crate::kernel::tables::census::Census;

/// The entries as this process last stored them.
#[derive(Debug)]
pub(crate) struct Veths {
    map: Arc<Map>,
    entries: BTreeMap<Address, Ifindex>,
    census: Census,
}

impl Veths {
    /// Reads the entries.
    pub(crate) fn open(map: &Arc<Map>) -> Result<Self, KernelError> {
        let map = Arc::clone(map);
        let entries = read(&map)?;
        Ok(Self { map, entries, census: Census::default() })
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
        let is_whole = self.census.is_whole(
            &self.map,
            self.entries.len(),
            || self.has_all(),
            || Ok(read(&self.map)? == self.entries),
        )?;
        Ok(!is_whole)
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

    /// Whether each address leads to its veth.
    fn has_all(&self) -> Result<bool, KernelError> {
        for (address, veth) in &self.entries {
            if veth_of(&self.map, &to_bytes(address))? != Some(*veth) {
                return Ok(false);
            }
        }
        Ok(true)
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
        if let (Some(address), Some(veth)) = (from_bytes(&key), veth_of(veths, &key)?) {
            found.insert(address, veth);
        }
        last = Some(key);
    }
    Ok(found)
}

/// The veth to which an address leads.
fn veth_of(veths: &Map, address: &[u8]) -> Result<Option<Ifindex>, KernelError> {
    let mut veth = [0; 4];
    let found = veths.lookup(address, &mut veth).map_err(on_map(map::VETHS, "look up"))?;
    Ok(found.map(|()| Ifindex(u32::from_ne_bytes(veth))))
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
