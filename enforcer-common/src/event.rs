//! The records of the ring buffer: the first packet of a denied flow, and the final total of a flow whose way is reused.

use crate::denial::{DenialKey, Way};
use crate::id::{Address, IncarnationId, Revision};

/// A record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DenialEvent {
    /// [`DenialEvent::VERSION`].
    pub version: u16,
    /// [`DenialEvent::OPENED`] or [`DenialEvent::CLOSED`].
    pub kind: u16,
    /// CPU whose slice the way is in.
    pub cpu: u32,
    /// Set of the slice.
    pub set: u32,
    /// Way of the set.
    pub place: u32,
    /// The way at that moment: with its generation, and its total so far.
    pub way: Way,
}
const _: () = assert!(size_of::<DenialEvent>() == 80 && align_of::<DenialEvent>() == 4);

impl DenialEvent {
    /// Of this layout.
    pub const VERSION: u16 = 1;
    /// The first packet of a flow.
    pub const OPENED: u16 = 1;
    /// The way is about to be reused: its total is final.
    pub const CLOSED: u16 = 2;

    /// From the bytes of a record; `None` if they are too short or of an unknown version or kind.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 80] = bytes.first_chunk()?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let address = |at: usize| Address([word(at), word(at + 4), word(at + 8), word(at + 12)]);
        let (version, kind) = (half(0), half(2));
        if version != Self::VERSION || !matches!(kind, Self::OPENED | Self::CLOSED) {
            return None;
        }
        let key = DenialKey {
            workload: IncarnationId(word(32)),
            revision: Revision(word(36)),
            peer: address(40),
            destination_port: half(56),
            ethertype: half(58),
            protocol: bytes[60],
            direction: bytes[61],
            reason: bytes[62],
            pad: bytes[63],
        };
        let way = Way {
            generation: word(16),
            tick: word(20),
            total: word(24),
            source_port: half(28),
            tcp_flags: bytes[30],
            pad: bytes[31],
            key,
            local: address(64),
        };
        Some(Self { version, kind, cpu: word(4), set: word(8), place: word(12), way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    /// A record whose every byte tells its place.
    fn bytes() -> [u8; 80] {
        let mut bytes = core::array::from_fn(|place| place as u8);
        bytes[0..2].copy_from_slice(&DenialEvent::VERSION.to_ne_bytes());
        bytes[2..4].copy_from_slice(&DenialEvent::OPENED.to_ne_bytes());
        bytes
    }

    #[test]
    fn every_field_is_read_from_where_it_lies_in_memory() {
        let bytes = bytes();
        let DenialEvent { version, kind, cpu, set, place, way } = DenialEvent::from_bytes(&bytes).unwrap();
        let Way { generation, tick, total, source_port, tcp_flags, pad, key, local } = way;
        let of_way = offset_of!(DenialEvent, way);
        let of_key = of_way + offset_of!(Way, key);
        let address = |Address(words): Address| words.map(u32::to_ne_bytes).concat();
        for (value, at, name) in [
            (version.to_ne_bytes().to_vec(), offset_of!(DenialEvent, version), "version"),
            (kind.to_ne_bytes().to_vec(), offset_of!(DenialEvent, kind), "kind"),
            (cpu.to_ne_bytes().to_vec(), offset_of!(DenialEvent, cpu), "cpu"),
            (set.to_ne_bytes().to_vec(), offset_of!(DenialEvent, set), "set"),
            (place.to_ne_bytes().to_vec(), offset_of!(DenialEvent, place), "place"),
            (generation.to_ne_bytes().to_vec(), of_way + offset_of!(Way, generation), "generation"),
            (tick.to_ne_bytes().to_vec(), of_way + offset_of!(Way, tick), "tick"),
            (total.to_ne_bytes().to_vec(), of_way + offset_of!(Way, total), "total"),
            (source_port.to_ne_bytes().to_vec(), of_way + offset_of!(Way, source_port), "source port"),
            (vec![tcp_flags], of_way + offset_of!(Way, tcp_flags), "flags"),
            (vec![pad], of_way + offset_of!(Way, pad), "pad"),
            (address(local), of_way + offset_of!(Way, local), "local"),
            (key.workload.0.to_ne_bytes().to_vec(), of_key + offset_of!(DenialKey, workload), "workload"),
            (key.revision.0.to_ne_bytes().to_vec(), of_key + offset_of!(DenialKey, revision), "revision"),
            (address(key.peer), of_key + offset_of!(DenialKey, peer), "peer"),
            (key.destination_port.to_ne_bytes().to_vec(), of_key + offset_of!(DenialKey, destination_port), "port"),
            (key.ethertype.to_ne_bytes().to_vec(), of_key + offset_of!(DenialKey, ethertype), "ethertype"),
            (vec![key.protocol], of_key + offset_of!(DenialKey, protocol), "protocol"),
            (vec![key.direction], of_key + offset_of!(DenialKey, direction), "direction"),
            (vec![key.reason], of_key + offset_of!(DenialKey, reason), "reason"),
            (vec![key.pad], of_key + offset_of!(DenialKey, pad), "pad of the key"),
        ] {
            assert_eq!(value, bytes[at..at + value.len()], "{name}");
        }
    }

    #[test]
    fn short_and_unknown_records_are_refused() {
        let bytes = bytes();
        for length in 0..80 {
            assert_eq!(DenialEvent::from_bytes(&bytes[..length]), None, "{length} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(DenialEvent::from_bytes(&longer), DenialEvent::from_bytes(&bytes), "what follows is not its own");
        for (at, number, known, why) in [
            (0, 0u16, false, "version 0"),
            (0, 2, false, "the next version"),
            (0, 0x0101, false, "a version that starts alike"),
            (2, 0, false, "kind 0"),
            (2, DenialEvent::CLOSED, true, "closed"),
            (2, 3, false, "the next kind"),
            (2, u16::MAX, false, "the last kind"),
        ] {
            let mut other = bytes;
            other[at..at + 2].copy_from_slice(&number.to_ne_bytes());
            assert_eq!(DenialEvent::from_bytes(&other).is_some(), known, "{why}");
        }
    }
}
