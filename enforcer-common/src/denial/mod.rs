//! Counts denied packets by flow, in a per-CPU slice of sets with four ways each (docs/architecture.md, "How denials are
//! counted"). Pure over the set.
//!
//! Input: a denied packet. Output: how it was counted. Each denied packet is counted as exactly one of three: logged (its
//! event was sent), lost (the ring had no room for its event), or suppressed (it was counted in a way; or, if all four ways
//! are busy, for its workload). So denied = logged + suppressed + lost, exactly.
//!
//! One CPU writes a set. User space reads it by mmap and never writes it. The generation of a way is odd while the way is
//! rewritten, and a reader drops what changed while it read.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::id::{Address, Direction, IncarnationId, Revision};
use crate::limits::DENIAL_WAYS;
use crate::verdict::Reason;
use crate::work::Work;

/// A denied flow. Source port and flags are not part of it: they are those of its first packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DenialKey {
    /// The workload's incarnation.
    pub workload: IncarnationId,
    /// Revision in force.
    pub revision: Revision,
    /// Address of the other side.
    pub peer: Address,
    /// Destination port; the type for ICMP.
    pub destination_port: u16,
    /// Ethertype of the frame; 0: it had none.
    pub ethertype: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Direction`].
    pub direction: u8,
    /// [`Reason`].
    pub reason: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<DenialKey>() == 32 && align_of::<DenialKey>() == 4);

impl DenialKey {
    #[inline(always)]
    fn words(&self) -> [u32; 8] {
        let Address([a, b, c, d]) = self.peer;
        let small = u32::from(self.protocol)
            | u32::from(self.direction) << 8
            | u32::from(self.reason) << 16
            | u32::from(self.pad) << 24;
        let wide = u32::from(self.destination_port) | u32::from(self.ethertype) << 16;
        [self.workload.0, self.revision.0, a, b, c, d, wide, small]
    }

    /// By words: equality of arrays becomes a call of `memcmp` on the bpf target.
    #[inline(always)]
    fn same(&self, other: &Self) -> bool {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (self.words(), other.words());
        // First what tells most flows of a flood apart.
        (f ^ n) | (g ^ o) == 0 && (a ^ i) | (b ^ j) | (c ^ k) | (d ^ l) | (e ^ m) | (h ^ p) == 0
    }

    /// The set for this key. Seeded, so that a sender cannot choose flows that share one.
    #[inline(always)]
    pub fn set(&self, seed: u64, sets: u32) -> u32 {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        // Products of pairs (NH of UMAC, RFC 4418 5.2): they do not wait for each other.
        let pair = |first: u32, second: u32, number: u32| {
            u64::from(first.wrapping_add(low ^ number)).wrapping_mul(u64::from(second.wrapping_add(high ^ number)))
        };
        let [a, b, c, d, e, f, g, h] = self.words();
        let sum = pair(a, b, 0x243f_6a88)
            .wrapping_add(pair(c, d, 0x85a3_08d3))
            .wrapping_add(pair(e, f, 0x1319_8a2e))
            .wrapping_add(pair(g, h, 0x0370_7344));
        ((sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 & (sets - 1)
    }
}

/// One denied flow in a set: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// 0: free; odd: being rewritten; rises with every new flow.
    pub generation: u32,
    /// Tick of the last packet.
    pub tick: u32,
    /// Packets of this generation that were not lost; wraps.
    pub total: u32,
    /// Source port of the first packet.
    pub source_port: u16,
    /// TCP flags of the first packet.
    pub tcp_flags: u8,
    /// Zero.
    pub pad: u8,
    /// The flow.
    pub key: DenialKey,
    /// Address of the workload's side, of the first packet.
    pub local: Address,
}
const _: () = assert!(size_of::<Way>() == 64 && align_of::<Way>() == 4);

impl Way {
    /// Never used.
    pub const FREE: Self = Self {
        generation: 0,
        tick: 0,
        total: 0,
        source_port: 0,
        tcp_flags: 0,
        pad: 0,
        key: DenialKey {
            workload: IncarnationId::NONE,
            revision: Revision::NONE,
            peer: Address::UNSPECIFIED,
            destination_port: 0,
            ethertype: 0,
            protocol: 0,
            direction: 0,
            reason: 0,
            pad: 0,
        },
        local: Address::UNSPECIFIED,
    };
}

/// Value of `DENIALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WaySet(pub [Way; DENIAL_WAYS]);
const _: () = assert!(size_of::<WaySet>() == 256);

/// Value of `DENIED`: packets by class, for one direction and reason, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Their event went out.
    pub logged: u64,
    /// Counted in a way or in `BUSY`.
    pub suppressed: u64,
    /// Their own event found no room.
    pub lost: u64,
}
const _: () = assert!(size_of::<Counts>() == 24);

/// Key of `BUSY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BusyKey {
    /// The workload's incarnation.
    pub workload: IncarnationId,
    /// [`Direction`].
    pub direction: u8,
    /// [`Reason`].
    pub reason: u8,
    /// Zero.
    pub pad: u16,
}
const _: () = assert!(size_of::<BusyKey>() == 8);

/// Denied packets that were not reported before, as they are read back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Denial {
    /// Denied packets of one flow.
    Flow {
        /// Key and first packet.
        way: Way,
        /// How many.
        count: u64,
    },
    /// Denied packets of one workload that came while no way was free.
    Busy {
        /// The workload's incarnation.
        workload: IncarnationId,
        /// Which way the packets went.
        direction: Direction,
        /// Why they were denied.
        reason: Reason,
        /// How many.
        count: u64,
    },
}

/// How a denied packet was counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// The first of its flow; its event went out.
    Logged,
    /// Added to its flow's way.
    Suppressed,
    /// The first of its flow; its event found no room.
    Lost,
    /// No way was free: to be counted by workload, direction and reason.
    Busy,
}

/// Takes events about a set.
pub trait Events {
    /// The first packet of a flow. False: no room.
    fn opened(&self, place: u32, way: &Way) -> bool;
    /// The last word about a flow whose way is about to be reused. False: no room.
    fn closed(&self, place: u32, way: &Way) -> bool;
}

/// The way of a denied packet before it is counted: key and first packet. `reason` is the number of a
/// [`Reason`].
#[inline(always)]
pub fn way_of(work: &Work, reason: u8, tick: u32) -> Way {
    let packet = &work.packet;
    let (local, peer) = packet.sides(work.direction);
    Way {
        generation: 0,
        tick,
        total: 0,
        source_port: packet.source_port,
        tcp_flags: packet.tcp_flags,
        pad: 0,
        key: DenialKey {
            workload: work.workload,
            revision: work.word.revision,
            peer: *peer,
            destination_port: packet.destination_port | u16::from(packet.icmp_type),
            ethertype: packet.ethertype,
            protocol: packet.protocol,
            direction: work.direction as u8,
            reason,
            pad: 0,
        },
        local: *local,
    }
}

/// Counts a denied packet in its set. `first` comes from [`way_of`].
#[inline(always)]
pub fn count<E: Events>(set: &mut WaySet, first: &Way, events: &E) -> Class {
    let mut oldest = None;
    let mut oldest_tick = first.tick;
    for place in 0..DENIAL_WAYS {
        let way = &mut set.0[place];
        if way.generation == 0 {
            oldest = Some(place);
            break;
        }
        if way.key.same(&first.key) {
            way.total = way.total.wrapping_add(1);
            way.tick = first.tick;
            return Class::Suppressed;
        }
        // Only in a later tick; ticks are compared as distances, since they wrap.
        let age = first.tick.wrapping_sub(way.tick);
        if age != 0 && age > first.tick.wrapping_sub(oldest_tick) {
            oldest = Some(place);
            oldest_tick = way.tick;
        }
    }
    let Some(place) = oldest else { return Class::Busy };
    let way = &mut set.0[place & (DENIAL_WAYS - 1)];
    if way.generation != 0 && !events.closed(place as u32, way) {
        return Class::Busy;
    }
    let generation = way.generation.wrapping_add(1) | 1;
    way.generation = generation;
    compiler_fence(Ordering::SeqCst);
    way.tick = first.tick;
    way.total = 0;
    way.source_port = first.source_port;
    way.tcp_flags = first.tcp_flags;
    way.key = first.key;
    way.local = first.local;
    way.total = 1;
    // 0 stands for a free way. The way is shown only when its total is true, so the event gets a copy.
    let next = if generation == u32::MAX { 2 } else { generation.wrapping_add(1) };
    let logged = events.opened(place as u32, &Way { generation: next, ..*way });
    way.total = u32::from(logged);
    compiler_fence(Ordering::SeqCst);
    way.generation = next;
    if logged { Class::Logged } else { Class::Lost }
}

#[cfg(test)]
mod tests;
