//! The endpoint table: what the programs know about each veth.
//!
//! Input: complete endpoints. Output: words in the mapped array, or an element of the hash for an endpoint whose place in the
//! array is taken.
//!
//! A program may read an endpoint of the array while it is written. So a change is stored word by word, in an order in which
//! every mixture of old and new words is safe: first the addresses, then the ids that make them own addresses, and the tag
//! last. If an endpoint goes, its tag is cleared first. An element of the hash is replaced as a whole. The kernel may use the
//! memory of the old element for the next one at once, while a program still reads it. So after each replacement or removal,
//! the next element waits for a grace period.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::Arc;

use enforcer_common::endpoint::Endpoint;
use enforcer_common::id::{Address, Ifindex, IncarnationId, OwnerId, QuotaPlace, Row};
use enforcer_common::limits::{ENDPOINTS, ENDPOINTS_MORE, OWN_ADDRESSES, map};

use crate::kernel::error::{KernelError, on_map};
use crate::kernel::pins::FlowMaps;
use crate::kernel::sys::Map;
use crate::kernel::tables::grace;
use crate::kernel::tables::mmap::Mapped;

/// Tag of a place in the array that is not free and belongs to no device. Programs that find this tag look in the hash.
const SHADOW: u32 = u32::MAX;
/// Number of 32-bit words in an endpoint.
const WORDS: usize = size_of::<Endpoint>() / 4;
/// The order in which the parts of an endpoint are stored, each as its first word and its number of words. Tag and window
/// are missing, because they are stored apart.
const ORDER: [(usize, usize); 7] = [
    (offset_of!(Endpoint, rows) / 4, 4),
    (offset_of!(Endpoint, flags) / 4, 2),
    (offset_of!(Endpoint, addresses) / 4, 4 * OWN_ADDRESSES),
    (offset_of!(Endpoint, quota) / 4, 1),
    (offset_of!(Endpoint, id) / 4, 1),
    (offset_of!(Endpoint, owners) / 4, OWN_ADDRESSES),
    (offset_of!(Endpoint, owned) / 4, 1),
];

/// The table, and what was last stored in it.
#[derive(Debug)]
pub(crate) struct EndpointTable {
    array: Mapped,
    more: Arc<Map>,
    endpoints: BTreeMap<Ifindex, Endpoint>,
    /// Programs may still read an element of the hash that was freed.
    freed: bool,
}

impl EndpointTable {
    /// Reads the table.
    pub(crate) fn open(maps: &FlowMaps, writable: bool) -> Result<Self, KernelError> {
        let array = Mapped::new(&maps.endpoints, writable).map_err(on_map(map::ENDPOINTS, "mmap"))?;
        let more = Arc::clone(&maps.endpoints_more);
        let mut endpoints = BTreeMap::new();
        for index in 0..array.entries() {
            let endpoint = read_place(&array, index);
            if endpoint.ifindex != Ifindex::NONE && endpoint.ifindex != Ifindex(SHADOW) {
                endpoints.insert(endpoint.ifindex, endpoint);
            }
        }
        let mut last: Option<Vec<u8>> = None;
        while let Some(key) = more.next_key(last.as_deref()).map_err(on_map(map::ENDPOINTS_MORE, "next key"))? {
            if let Some(endpoint) = read_more(&more, &key)? {
                let index = place_of(endpoint.ifindex);
                // The pin of the array may have been lost while that of the hash was not.
                if writable && array.read32(index, offset_of!(Endpoint, ifindex)) == 0 {
                    array.write32(index, offset_of!(Endpoint, ifindex), SHADOW);
                }
                endpoints.insert(endpoint.ifindex, endpoint);
            }
            last = Some(key);
        }
        Ok(Self {
            array,
            more,
            endpoints,
            // Whoever opens it for writing waits once before anything else.
            freed: false,
        })
    }

    /// The endpoint of a device, as last stored.
    pub(crate) fn get(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        self.endpoints.get(&ifindex)
    }

    /// Every endpoint, by ifindex.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// The ids of all workloads and addresses.
    pub(crate) fn ids(&self) -> impl Iterator<Item = OwnerId> {
        self.iter().flat_map(|endpoint| endpoint.owners.into_iter().chain([endpoint.id.owner()]))
    }

    /// Number of endpoints in the hash. Their place in the array belongs to another device.
    pub(crate) fn in_more(&self) -> usize {
        let elsewhere =
            |ifindex: &&Ifindex| self.array.read32(place_of(**ifindex), offset_of!(Endpoint, ifindex)) != ifindex.0;
        self.endpoints.keys().filter(elsewhere).count()
    }

    /// Stores an endpoint: a new one, or a change of one that is there.
    pub(crate) fn store(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let index = place_of(endpoint.ifindex);
        let tag = self.array.read32(index, offset_of!(Endpoint, ifindex));
        let in_hash = tag != endpoint.ifindex.0 && self.endpoints.contains_key(&endpoint.ifindex);
        let free = tag == endpoint.ifindex.0 || tag == 0 || tag == SHADOW;
        if free && !in_hash {
            self.store_place(index, endpoint);
        } else {
            self.store_more(endpoint)?;
        }
        self.endpoints.insert(endpoint.ifindex, *endpoint);
        Ok(())
    }

    /// A grace period has gone by.
    pub(crate) fn waited(&mut self) {
        self.freed = false;
    }

    /// Frees a device's place. Nothing may be attached to the device any more.
    pub(crate) fn free(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        let index = place_of(ifindex);
        if self.array.read32(index, offset_of!(Endpoint, ifindex)) == ifindex.0 {
            let shared = self.endpoints.keys().any(|other| *other != ifindex && place_of(*other) == index);
            // Programs look into the hash only where a place is taken.
            let tag = if shared { SHADOW } else { 0 };
            self.array.write32(index, offset_of!(Endpoint, ifindex), tag);
        } else {
            let deleted = self.more.delete(&ifindex.0.to_ne_bytes());
            deleted.map_err(on_map(map::ENDPOINTS_MORE, "delete"))?;
            self.freed = true;
        }
        self.endpoints.remove(&ifindex);
        Ok(())
    }

    /// Devices whose endpoint in the kernel is not what was last stored.
    pub(crate) fn drift(&self) -> Result<Vec<Ifindex>, KernelError> {
        let mut drifted = Vec::new();
        for (ifindex, intended) in &self.endpoints {
            let place = read_place(&self.array, place_of(*ifindex));
            let found =
                if place.ifindex == *ifindex { Some(place) } else { read_more(&self.more, &ifindex.0.to_ne_bytes())? };
            if found.as_ref() != Some(intended) {
                drifted.push(*ifindex);
            }
        }
        Ok(drifted)
    }

    /// Stores again what was last stored.
    pub(crate) fn restore(&mut self, ifindex: Ifindex) -> Result<(), KernelError> {
        match self.endpoints.get(&ifindex).copied() {
            Some(endpoint) => self.store(&endpoint),
            None => Ok(()),
        }
    }

    fn store_more(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let key = endpoint.ifindex.0.to_ne_bytes();
        let found = read_more(&self.more, &key)?;
        if found.as_ref() == Some(endpoint) {
            return Ok(());
        }
        if self.freed {
            grace::wait()?;
            self.freed = false;
        }
        let stored = self.more.update(&key, &to_bytes(endpoint));
        stored.map_err(|source| match source.raw_os_error() {
            Some(libc::E2BIG) => KernelError::NoRoom {
                what: "endpoints",
                needed: self.endpoints.len() + 1,
                room: (ENDPOINTS + ENDPOINTS_MORE) as usize,
            },
            _ => on_map(map::ENDPOINTS_MORE, "update")(source),
        })?;
        self.freed = found.is_some();
        Ok(())
    }

    fn store_place(&self, index: u32, endpoint: &Endpoint) {
        let words = to_words(endpoint);
        let same = self.array.read32(index, offset_of!(Endpoint, ifindex)) == endpoint.ifindex.0;
        let window = offset_of!(Endpoint, window_end);
        if self.array.read64(index, window) != endpoint.window_end {
            self.array.write64(index, window, endpoint.window_end);
        }
        for (first, count) in ORDER {
            for (place, word) in words.iter().enumerate().skip(first).take(count) {
                if self.array.read32(index, place * 4) != *word {
                    self.array.write32(index, place * 4, *word);
                }
            }
        }
        if !same {
            self.array.write32(index, offset_of!(Endpoint, ifindex), endpoint.ifindex.0);
        }
    }
}

fn place_of(ifindex: Ifindex) -> u32 {
    ifindex.0 & (ENDPOINTS - 1)
}

fn read_place(array: &Mapped, index: u32) -> Endpoint {
    let mut words = [0; WORDS];
    for (place, word) in words.iter_mut().enumerate() {
        *word = array.read32(index, place * 4);
    }
    from_words(&words)
}

fn read_more(more: &Map, key: &[u8]) -> Result<Option<Endpoint>, KernelError> {
    let mut bytes = vec![0; size_of::<Endpoint>()];
    let found = more.lookup(key, &mut bytes).map_err(on_map(map::ENDPOINTS_MORE, "lookup"))?;
    Ok(found.map(|()| {
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        from_words(&words)
    }))
}

fn to_bytes(endpoint: &Endpoint) -> Vec<u8> {
    to_words(endpoint).iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn to_words(endpoint: &Endpoint) -> [u32; WORDS] {
    let Endpoint { ifindex, quota, id, owned, flags, rows, window_end, owners, addresses } = endpoint;
    let [a, b, c, d, e, f, g, h] = window_end.to_ne_bytes();
    let head = [ifindex.0, quota.0, id.0, *owned, flags[0], flags[1]];
    let window = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])];
    let all = head
        .into_iter()
        .chain(rows.iter().flatten().map(|row| row.0))
        .chain(window)
        .chain(owners.iter().map(|owner| owner.0))
        .chain(addresses.iter().flat_map(|address| address.0));
    let mut words = [0; WORDS];
    for (word, value) in words.iter_mut().zip(all) {
        *word = value;
    }
    words
}

fn from_words(words: &[u32; WORDS]) -> Endpoint {
    let part = |offset: usize, count: usize| &words[offset / 4..offset / 4 + count];
    let one = |offset: usize| words[offset / 4];
    let mut endpoint = Endpoint::FREE;
    endpoint.ifindex = Ifindex(one(offset_of!(Endpoint, ifindex)));
    endpoint.quota = QuotaPlace(one(offset_of!(Endpoint, quota)));
    endpoint.id = IncarnationId(one(offset_of!(Endpoint, id)));
    endpoint.owned = one(offset_of!(Endpoint, owned));
    endpoint.flags.copy_from_slice(part(offset_of!(Endpoint, flags), 2));
    for (row, word) in endpoint.rows.iter_mut().flatten().zip(part(offset_of!(Endpoint, rows), 4)) {
        *row = Row(*word);
    }
    let [a, b, c, d] = one(offset_of!(Endpoint, window_end)).to_ne_bytes();
    let [e, f, g, h] = one(offset_of!(Endpoint, window_end) + 4).to_ne_bytes();
    endpoint.window_end = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let owners = part(offset_of!(Endpoint, owners), OWN_ADDRESSES);
    for (owner, word) in endpoint.owners.iter_mut().zip(owners) {
        *owner = OwnerId(*word);
    }
    let addresses = part(offset_of!(Endpoint, addresses), 4 * OWN_ADDRESSES);
    for (address, words) in endpoint.addresses.iter_mut().zip(addresses.as_chunks::<4>().0) {
        *address = Address(*words);
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_the_way_through_words() {
        let mut endpoint = Endpoint::FREE;
        endpoint.ifindex = Ifindex(1);
        endpoint.quota = QuotaPlace(2);
        endpoint.id = IncarnationId(3);
        endpoint.owned = 4;
        endpoint.flags = [5, 6];
        endpoint.rows = [[Row(7), Row(8)], [Row(9), Row(10)]];
        endpoint.window_end = 0x1122_3344_5566_7788;
        for place in 0..OWN_ADDRESSES {
            endpoint.owners[place] = OwnerId(100 + place as u32);
            endpoint.addresses[place] = Address([place as u32, 1, 2, 3]);
        }
        assert_eq!(from_words(&to_words(&endpoint)), endpoint);
        assert_eq!(to_words(&endpoint)[offset_of!(Endpoint, id) / 4], 3);
        assert_eq!(to_words(&endpoint)[offset_of!(Endpoint, owners) / 4 + 2], 102);
    }

    #[test]
    fn every_word_but_tag_and_window_has_its_turn_once() {
        let mut turns = [0; WORDS];
        for (first, count) in ORDER {
            for turn in &mut turns[first..first + count] {
                *turn += 1;
            }
        }
        let window = offset_of!(Endpoint, window_end) / 4;
        for (place, turn) in turns.into_iter().enumerate() {
            let apart = place == 0 || place == window || place == window + 1;
            assert_eq!(turn, i32::from(!apart), "word {place}");
        }
    }
}
