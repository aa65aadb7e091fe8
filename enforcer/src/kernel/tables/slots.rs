//! The two slots of the outer maps.
//!
//! Input: the image of a plan. Output: the idle slot is filled with it. No program reads that slot until the policy word
//! names it.
//!
//! Each inner map is made with its exact size, filled, and pinned beside the pin of the slot. Then it is put into the outer
//! map, and only then its pin is renamed over the pin of the slot, so the slot in force always has a pin. The copy of an
//! image's first lines is written in place. Whatever a crash leaves in the idle slot is filled again.

use std::path::Path;
use std::sync::Arc;

use enforcer_common::id::{Address, PolicyWord, Revision, Slot};
use enforcer_common::image::{AddressEntry, Header, Line, Start};
use enforcer_common::limits::{self, map};

use crate::kernel::error::{KernelError, at, on_map};
use crate::kernel::pins::layout::{self, Layout, incoming};
use crate::kernel::pins::{self, PolicyMaps, compare};
use crate::kernel::sys::{self, Map};
use crate::plan::Plan;

/// Elements of one batch: bounds the copy that is made of them.
const BATCH: usize = 16_384;

/// Header and range tables.
const COMPARED: u32 = 3;

/// The two slots.
#[derive(Debug)]
pub(crate) struct Slots {
    layout: Layout,
    images: Arc<Map>,
    image_starts: Arc<Map>,
    addresses: Arc<Map>,
}

impl Slots {
    /// The slots of the pinned maps.
    pub(crate) fn open(layout: &Layout, maps: &PolicyMaps) -> Self {
        Self {
            layout: layout.clone(),
            images: Arc::clone(&maps.images),
            image_starts: Arc::clone(&maps.image_starts),
            addresses: Arc::clone(&maps.addresses),
        }
    }

    /// Checks the image in force and the copy of its first lines.
    pub(crate) fn check_whole(&self, word: PolicyWord) -> Result<(), KernelError> {
        if word.revision == Revision::NONE {
            return Ok(());
        }
        let header = self.check(word)?;
        self.compare_start(word, header)
    }

    /// Fills a slot.
    pub(crate) fn fill(&self, slot: Slot, plan: &Plan<'_>) -> Result<(), KernelError> {
        let lines = self.make_lines(slot, plan.lines)?;
        let addresses = self.make_addresses(slot, plan.addresses)?;
        self.write_start(slot, plan.lines)?;
        // Each update of an outer map waits for a grace period: both wait at once.
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(|| put(&self.addresses, slot, &addresses, map::ADDRESSES));
            let first = put(&self.images, slot, &lines, map::IMAGES);
            (first, other.join())
        });
        first?;
        second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        for path in [self.layout.image(slot), self.layout.addresses_of(slot)] {
            layout::replace(&incoming(&path), &path)?;
        }
        Ok(())
    }

    /// The header of the image of a slot, read back.
    pub(crate) fn check(&self, word: PolicyWord) -> Result<Header, KernelError> {
        let slot = word.slot();
        let damaged = |what| KernelError::DamagedImage { revision: word.revision, slot, what };
        let open = |path: &Path| Map::pinned(path).map_err(|_| damaged("its pin is not there"));
        let (lines, addresses) = (open(&self.layout.image(slot))?, open(&self.layout.addresses_of(slot))?);
        let names = [map::IMAGES, map::ADDRESSES];
        for ((outer, inner), name) in [(&self.images, &lines), (&self.addresses, &addresses)].into_iter().zip(names) {
            if inner_id(outer, slot, name)? != Some(inner.id()) {
                return Err(damaged("the slot holds another map than is pinned"));
            }
        }
        let header = read_header(&lines)?.ok_or_else(|| damaged("its first line is no header"))?;
        compare("image", lines.attributes(), &pins::image_lines(header.lines), false)?;
        compare("addresses", addresses.attributes(), &pins::image_addresses(header.addresses), false)?;
        Ok(header)
    }

    fn make_lines(&self, slot: Slot, lines: &[Line]) -> Result<Map, KernelError> {
        let count = u32::try_from(lines.len()).map_err(|_| KernelError::InvalidImage { what: "too many lines" })?;
        let map = Map::create("image", &pins::image_lines(count), None).map_err(on_map("image", "create"))?;
        for (batch, lines) in lines.chunks(BATCH).enumerate() {
            let first = (batch * BATCH) as u32;
            let keys: Vec<u8> = (first..first + lines.len() as u32).flat_map(u32::to_ne_bytes).collect();
            let values: Vec<u8> = lines.iter().flat_map(Line::to_bytes).collect();
            map.update_batch(&keys, &values).map_err(on_map("image", "fill"))?;
        }
        pin(&map, &self.layout.image(slot))?;
        Ok(map)
    }

    /// Nothing waits for a grace period here: whoever calls [`Slots::fill`] has waited for the slot's last readers.
    fn write_start(&self, slot: Slot, lines: &[Line]) -> Result<(), KernelError> {
        let lines = &lines[..lines.len().min(limits::START_LINES as usize)];
        let mut start: Vec<u8> = lines.iter().flat_map(Line::to_bytes).collect();
        start.resize(size_of::<Start>(), 0);
        let written = self.image_starts.update(&slot.number().to_ne_bytes(), &start);
        written.map_err(on_map(map::IMAGE_STARTS, "update"))
    }

    /// Compares the copy of the first lines with the image by the lines that say where everything is: the pin of that array
    /// may have been lost alone, and a new one is empty.
    fn compare_start(&self, word: PolicyWord, header: Header) -> Result<(), KernelError> {
        let slot = word.slot();
        let mut start = vec![0; size_of::<Start>()];
        let found = self.image_starts.lookup(&slot.number().to_ne_bytes(), &mut start);
        found.map_err(on_map(map::IMAGE_STARTS, "lookup"))?;
        let path = self.layout.image(slot);
        let lines = Map::pinned(&path).map_err(at(&path, "open pin"))?;
        let copied = start.chunks_exact(size_of::<Line>()).take(header.lines.min(COMPARED) as usize);
        for (index, copy) in copied.enumerate() {
            let mut line = [0; size_of::<Line>()];
            lines.lookup(&(index as u32).to_ne_bytes(), &mut line).map_err(on_map("image", "lookup"))?;
            if line != copy {
                let what = "the copy of its first lines is another image's";
                return Err(KernelError::DamagedImage { revision: word.revision, slot, what });
            }
        }
        Ok(())
    }

    fn make_addresses(&self, slot: Slot, addresses: &[(Address, AddressEntry)]) -> Result<Map, KernelError> {
        let count =
            u32::try_from(addresses.len()).map_err(|_| KernelError::InvalidImage { what: "too many addresses" })?;
        let map =
            Map::create("addresses", &pins::image_addresses(count), None).map_err(on_map("addresses", "create"))?;
        for addresses in addresses.chunks(BATCH) {
            let keys: Vec<u8> = addresses.iter().flat_map(|(address, _)| address.octets()).collect();
            let values: Vec<u8> = addresses.iter().flat_map(|(_, entry)| entry.0.to_ne_bytes()).collect();
            map.update_batch(&keys, &values).map_err(on_map("addresses", "fill"))?;
        }
        pin(&map, &self.layout.addresses_of(slot))?;
        Ok(map)
    }
}

/// Line 0 of an image, as a header.
pub(crate) fn read_header(lines: &Map) -> Result<Option<Header>, KernelError> {
    let mut line = [0; 64];
    let found = lines.lookup(&0_u32.to_ne_bytes(), &mut line);
    Ok(found.map_err(on_map("image", "lookup"))?.and_then(|()| Header::from_line(&Line::from_bytes(&line))))
}

fn pin(map: &Map, path: &Path) -> Result<(), KernelError> {
    let new = incoming(path);
    layout::unpin(&new)?;
    sys::object_pin(map.fd(), &new).map_err(at(&new, "pin"))
}

fn put(outer: &Map, slot: Slot, inner: &Map, name: &'static str) -> Result<(), KernelError> {
    use std::os::fd::AsRawFd;
    let fd = inner.fd().as_raw_fd();
    let put = outer.update(&slot.number().to_ne_bytes(), &fd.to_ne_bytes());
    put.map_err(on_map(name, "update"))
}

/// Id of the map in a slot.
pub(crate) fn inner_id(outer: &Map, slot: Slot, name: &'static str) -> Result<Option<u32>, KernelError> {
    let mut id = [0; 4];
    let found = outer.lookup(&slot.number().to_ne_bytes(), &mut id);
    Ok(found.map_err(on_map(name, "lookup"))?.map(|()| u32::from_ne_bytes(id)))
}
