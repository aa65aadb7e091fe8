//! By which devices the packets of local workloads may come in.
//!
//! Input: the pairs of a plan. Output: their keys in `HOMES`. A pair more only lets packets of that workload pass, and an
//! address is guarded only while the pair that says so is there. So that pair is added last and removed first.

use std::collections::BTreeSet;
use std::sync::Arc;

use enforcer_common::home::HomeKey;
use enforcer_common::id::{Address, Ifindex};
use enforcer_common::limits::map;

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::sys::Map;
use crate::kernel::tables::census::Census;

/// The pairs, and which of them are pinned.
#[derive(Debug)]
pub(crate) struct Homes {
    map: Arc<Map>,
    pairs: BTreeSet<HomeKey>,
    census: Census,
}

impl Homes {
    /// Reads the pairs.
    pub(crate) fn open(map: &Arc<Map>) -> Result<Self, KernelError> {
        let map = Arc::clone(map);
        let pairs = read(&map)?;
        Ok(Self { map, pairs, census: Census::default() })
    }

    /// Adds what is missing.
    pub(super) fn add(&mut self, wanted: &BTreeSet<HomeKey>) -> Result<(), KernelError> {
        for key in marks_last(wanted.difference(&self.pairs)) {
            self.put(&key)?;
            self.pairs.insert(key);
        }
        Ok(())
    }

    /// Removes what is not wanted.
    pub(super) fn remove_others(&mut self, wanted: &BTreeSet<HomeKey>) -> Result<(), KernelError> {
        for key in marks_last(self.pairs.difference(wanted)).into_iter().rev() {
            self.map.delete(&to_bytes(&key)).map_err(on_map(map::HOMES, "delete"))?;
            self.pairs.remove(&key);
        }
        Ok(())
    }

    /// Whether the map holds anything else than was stored there.
    pub(super) fn has_drifted(&self) -> Result<bool, KernelError> {
        let is_whole = self.census.is_whole(
            &self.map,
            self.pairs.len(),
            || self.has_all(),
            || Ok(read(&self.map)? == self.pairs),
        )?;
        Ok(!is_whole)
    }

    /// Stores again what was last stored, and nothing else.
    pub(super) fn restore(&self) -> Result<(), KernelError> {
        let found = read(&self.map)?;
        for key in marks_last(self.pairs.difference(&found)) {
            self.put(&key)?;
        }
        for key in found.difference(&self.pairs) {
            self.map.delete(&to_bytes(key)).map_err(on_map(map::HOMES, "delete"))?;
        }
        Ok(())
    }

    /// Whether each pair is there.
    fn has_all(&self) -> Result<bool, KernelError> {
        for key in &self.pairs {
            let found = self.map.lookup(&to_bytes(key), &mut [0; 4]).map_err(on_map(map::HOMES, "look up"))?;
            if found.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put(&self, key: &HomeKey) -> Result<(), KernelError> {
        self.map.update(&to_bytes(key), &1_u32.to_ne_bytes()).map_err(on_map(map::HOMES, "update"))
    }
}

/// The pairs of devices, then those that say that an address is guarded.
fn marks_last<'a>(keys: impl Iterator<Item = &'a HomeKey>) -> Vec<HomeKey> {
    let (marks, mut pairs): (Vec<HomeKey>, Vec<HomeKey>) = keys.partition(|key| key.device == HomeKey::ANYWHERE);
    pairs.extend(marks);
    pairs
}

fn to_bytes(HomeKey { address, device }: &HomeKey) -> [u8; size_of::<HomeKey>()] {
    let mut bytes = [0; size_of::<HomeKey>()];
    let words = address.0.into_iter().chain([device.0]);
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    bytes
}

fn from_bytes(bytes: &[u8]) -> Option<HomeKey> {
    let [a, b, c, d, device] = *bytes.as_chunks::<4>().0.first_chunk()?;
    let address = Address([a, b, c, d].map(u32::from_ne_bytes));
    Some(HomeKey::new(address, Ifindex(u32::from_ne_bytes(device))))
}

fn read(homes: &Map) -> Result<BTreeSet<HomeKey>, KernelError> {
    let mut found = BTreeSet::new();
    let mut last: Option<Vec<u8>> = None;
    while let Some(key) = homes.next_key(last.as_deref()).map_err(on_map(map::HOMES, "next key"))? {
        found.extend(from_bytes(&key));
        last = Some(key);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Address = Address([1, 2, 3, 4]);

    #[test]
    fn a_pair_survives_the_way_through_bytes() {
        for key in [HomeKey::new(OWN, Ifindex(7)), HomeKey::guarded(OWN)] {
            assert_eq!(from_bytes(&to_bytes(&key)), Some(key));
        }
        assert_eq!(from_bytes(&[0; 19]), None);
    }

    #[test]
    fn an_address_is_guarded_once_all_its_pairs_are_there() {
        let keys =
            BTreeSet::from([HomeKey::guarded(OWN), HomeKey::new(OWN, Ifindex(1)), HomeKey::new(OWN, Ifindex(9))]);
        let sorted = marks_last(keys.iter());
        assert_eq!(sorted.last(), Some(&HomeKey::guarded(OWN)));
        assert_eq!(sorted.len(), 3);
    }
}
