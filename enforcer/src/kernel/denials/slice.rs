//! Finds a way in the mapped slices, and reads it while the kernel may rewrite it.

use std::mem::offset_of;

use enforcer_common::denial::{DenialKey, Way};
use enforcer_common::event::DenialEvent;
use enforcer_common::id::{Address, IncarnationId, Revision};
use enforcer_common::limits::{DENIAL_SETS, DENIAL_WAYS};

use crate::kernel::tables::Mapped;

/// Number of a way: CPU, set and place in one.
pub(super) fn way_number(event: &DenialEvent) -> Option<u32> {
    let set = event.cpu.checked_mul(DENIAL_SETS)?.checked_add(event.set)?;
    let place = (event.place as usize) < DENIAL_WAYS && event.set < DENIAL_SETS;
    let number = set.checked_mul(DENIAL_WAYS as u32)?.checked_add(event.place)?;
    place.then_some(number)
}

pub(super) fn ways(slices: &Mapped) -> u32 {
    slices.entries() * DENIAL_WAYS as u32
}

/// Element and offset of a way.
pub(super) fn place(way: u32) -> (u32, usize) {
    let ways = DENIAL_WAYS as u32;
    (way / ways, (way % ways) as usize * size_of::<Way>())
}

/// A way; `None` if it is free, or was rewritten meanwhile.
pub(super) fn read_way(slices: &Mapped, way: u32) -> Option<Way> {
    let (index, at) = place(way);
    let word = |offset: usize| slices.read32(index, at + offset);
    let generation = word(offset_of!(Way, generation));
    if generation == 0 || generation & 1 == 1 {
        return None;
    }
    let key = offset_of!(Way, key);
    let [first, wide, small] = [
        word(offset_of!(Way, source_port)).to_ne_bytes(),
        word(key + offset_of!(DenialKey, destination_port)).to_ne_bytes(),
        word(key + offset_of!(DenialKey, protocol)).to_ne_bytes(),
    ];
    let address = |offset: usize| Address([0, 4, 8, 12].map(|more| word(offset + more)));
    let found = Way {
        generation,
        tick: word(offset_of!(Way, tick)),
        total: word(offset_of!(Way, total)),
        source_port: u16::from_ne_bytes([first[0], first[1]]),
        tcp_flags: first[2],
        pad: 0,
        key: DenialKey {
            workload: IncarnationId(word(key)),
            revision: Revision(word(key + offset_of!(DenialKey, revision))),
            peer: address(key + offset_of!(DenialKey, peer)),
            destination_port: u16::from_ne_bytes([wide[0], wide[1]]),
            ethertype: u16::from_ne_bytes([wide[2], wide[3]]),
            protocol: small[0],
            direction: small[1],
            reason: small[2],
            pad: 0,
        },
        local: address(offset_of!(Way, local)),
    };
    (word(offset_of!(Way, generation)) == generation).then_some(found)
}
