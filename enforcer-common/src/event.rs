//! Records of the ring buffer: the first packet of a denied flow, and the last word about one whose way is reused.

use crate::denial::{DenialKey, Way};
use crate::id::{Address, OwnerId};

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
            workload: OwnerId(word(32)),
            revision: word(36),
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
