//! Flow state ABI: one live flow of one workload, seen from that workload.
//!
//! Written by the datapath after an allow verdict, read by it at every further packet. A layout change is an ABI change.

use core::sync::atomic::Ordering;

use crate::atomic::{AtomicU32, AtomicU64};
use crate::id::{Address, Direction, OwnerId};
use crate::packet::{Packet, ProtocolClass, tcp};

/// Key of the flow table.
///
/// Local and peer instead of source and destination: one entry serves both directions, and one lookup a packet is enough.
/// `owner` names one incarnation of a workload and one of its addresses, so no other workload's packet can hit the entry.
/// Local port in the upper half of `ports`. An IPv4 address is mapped into IPv6 (RFC 4291 2.5.5.2).
/// 24 bytes: jhash takes 12 a round, so a third word more would cost a round.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    owner_and_class: u32,
    ports: u32,
    peer: Address,
}
const _: () = assert!(size_of::<FlowKey>() == 24 && align_of::<FlowKey>() == 4);

impl FlowKey {
    /// Nobody's.
    pub const NONE: Self = Self { owner_and_class: 0, ports: 0, peer: Address::UNSPECIFIED };

    /// A key.
    #[inline(always)]
    pub fn new(owner: OwnerId, class: ProtocolClass, local_port: u16, peer_port: u16, peer: &Address) -> Self {
        Self {
            owner_and_class: owner.0 << 3 | class as u32,
            ports: u32::from(local_port) << 16 | u32::from(peer_port),
            peer: *peer,
        }
    }

    /// The owner of the flow.
    pub fn owner(&self) -> OwnerId {
        OwnerId(self.owner_and_class >> 3)
    }

    /// The protocol class.
    #[inline(always)]
    pub fn class(&self) -> ProtocolClass {
        ProtocolClass::from_bits(self.owner_and_class as u8 & 7)
    }

    /// The address of the other side.
    #[inline(always)]
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// Port of the workload, or as [`crate::datapath`] documents.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// Port of the peer.
    #[inline(always)]
    pub fn peer_port(&self) -> u16 {
        self.ports as u16
    }

    /// 24 bits that differ for most pairs of keys: a table element that was freed and reused for another key shows it.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let Address([a, b, c, d]) = self.peer;
        // Odd factors, so that words that are exchanged show; the last one moves what they differ in to the upper bits.
        let mixed = self.owner_and_class
            ^ self.ports.wrapping_mul(0x0000_2003)
            ^ a.wrapping_mul(0x0000_0101)
            ^ b.wrapping_mul(0x0001_0007)
            ^ c
            ^ d.wrapping_mul(0x0000_0805);
        let mixed = mixed.wrapping_mul(0x9e37_79b1);
        mixed >> 8
    }
}

/// Value of the flow table.
#[repr(C)]
#[derive(Debug)]
pub struct FlowValue {
    /// Epoch (32 bits), tag of the key (24), state (8): see [`FlowWord`]. Rewritten by compare-and-swap only.
    pub word: AtomicU64,
    /// Tick of the last packet.
    pub last_seen: AtomicU32,
    /// ifindex by which the peer's packets come in: 0 for the node itself, [`FlowValue::UNKNOWN`] before the first.
    pub ingress: AtomicU32,
    /// Place of the workload in `QUOTAS`.
    pub workload: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<FlowValue>() == 24 && align_of::<FlowValue>() == 8);

impl FlowValue {
    /// No packet of the peer has been seen.
    pub const UNKNOWN: u32 = 0xffff_ffff;

    /// A new flow.
    #[inline(always)]
    pub fn new(word: FlowWord, now: u32, ingress: u32, workload: u32) -> Self {
        Self {
            word: AtomicU64::new(word.0),
            last_seen: AtomicU32::new(now),
            ingress: AtomicU32::new(ingress),
            workload,
            pad: 0,
        }
    }

    /// Whether it lets a packet pass: judged in this epoch, and the peer's packets come the way they came then. `current` is
    /// its word as it was read, `ingress` the device by which the packet came in, `tag` its key's.
    #[inline(always)]
    pub fn vouches(&self, current: FlowWord, direction: Direction, ingress: u32, epoch: u32, tag: u32) -> bool {
        let same_way = match direction {
            Direction::Egress => true,
            Direction::Ingress => self.ingress.load(Ordering::Relaxed) == ingress,
        };
        same_way && current.is_current(epoch, tag)
    }

    /// Stores `now` if it is another tick.
    #[inline(always)]
    pub fn touch(&self, now: u32) {
        if self.last_seen.load(Ordering::Relaxed) != now {
            self.last_seen.store(now, Ordering::Relaxed);
        }
    }
}

/// The first word of a [`FlowValue`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowWord(pub u64);

/// Who opened a flow: policy judges it in the direction in which it was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Role {
    /// The workload opened it: egress.
    WorkloadOpened = 1,
    /// The peer opened it: ingress.
    PeerOpened = 2,
    /// The node itself opened it (D3). A role of its own, since the word is the only part of a value that is safe from
    /// late writes: an `ingress` of 0 beside it could come from a writer that held the element for another flow.
    NodeOpened = 3,
}

impl Role {
    /// The role of whoever sends a packet in `direction` without being answered yet.
    #[inline(always)]
    pub fn of_sender(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::WorkloadOpened,
            Direction::Ingress => Self::PeerOpened,
        }
    }

    /// The role in state bits; `None`: there is no flow.
    #[inline(always)]
    pub fn of_state(state: u8) -> Option<Self> {
        match state & state::ROLE {
            1 => Some(Self::WorkloadOpened),
            2 => Some(Self::PeerOpened),
            3 => Some(Self::NodeOpened),
            _ => None,
        }
    }

    /// The direction in which the flow was opened.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        match self {
            Self::WorkloadOpened => Direction::Egress,
            Self::PeerOpened | Self::NodeOpened => Direction::Ingress,
        }
    }
}

/// State bits: role (2), the other side has answered (1), FIN of the workload (1), FIN of the peer (1), RST (1).
pub mod state {
    /// Mask of the role.
    pub const ROLE: u8 = 0b11;
    /// The side that did not open the flow has sent a packet.
    pub const REPLIED: u8 = 1 << 2;
    /// The workload has sent a FIN.
    pub const FIN_LOCAL: u8 = 1 << 3;
    /// The peer has sent a FIN.
    pub const FIN_PEER: u8 = 1 << 4;
    /// The last segment was an RST.
    pub const RST: u8 = 1 << 5;
}

impl FlowWord {
    /// A word.
    #[inline(always)]
    pub fn new(epoch: u32, tag: u32, state: u8) -> Self {
        Self(u64::from(epoch) << 32 | u64::from(tag & 0x00ff_ffff) << 8 | u64::from(state))
    }

    /// Same epoch and same key: what was decided still holds.
    #[inline(always)]
    pub fn is_current(self, epoch: u32, tag: u32) -> bool {
        self.0 >> 8 == u64::from(epoch) << 24 | u64::from(tag & 0x00ff_ffff)
    }

    /// It belongs to the key with this tag.
    #[inline(always)]
    pub fn has_tag(self, tag: u32) -> bool {
        (self.0 >> 8) as u32 & 0x00ff_ffff == tag & 0x00ff_ffff
    }

    /// State bits.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.0 as u8
    }

    /// The stored role; `None` is a corrupt word.
    #[inline(always)]
    pub fn role(self) -> Option<Role> {
        Role::of_state(self.state())
    }

    /// The same word with other state bits.
    #[inline(always)]
    #[must_use]
    pub fn with_state(self, state: u8) -> Self {
        Self(self.0 & !0xff | u64::from(state))
    }
}

/// The state after one more packet. Pure.
///
/// RST and FIN only shorten how long the flow may be idle, so a blind RST cuts nothing: a later segment without RST takes
/// it back, and payload after a FIN takes that FIN back.
#[inline(always)]
pub fn step(current: u8, direction: Direction, packet: &Packet) -> u8 {
    let mut next = current;
    let workload_opened = current & state::ROLE == Role::WorkloadOpened as u8;
    let (fin, from_workload) = match direction {
        Direction::Egress => (state::FIN_LOCAL, true),
        Direction::Ingress => (state::FIN_PEER, false),
    };
    if workload_opened != from_workload {
        next |= state::REPLIED;
    }
    if !matches!(packet.class, ProtocolClass::Tcp) {
        return next;
    }
    if packet.tcp_flags & tcp::RST != 0 {
        next |= state::RST;
    } else {
        next &= !state::RST;
        if packet.tcp_flags & tcp::FIN != 0 {
            next |= fin;
        } else if packet.has_payload {
            next &= !fin;
        }
    }
    next
}

/// Whether a packet that neither opens nor closes leaves the state as it is, with payload or without: what [`step`] comes to
/// for most packets.
#[inline(always)]
pub fn is_settled(current: u8, direction: Direction) -> bool {
    match direction {
        Direction::Egress => {
            current & (state::FIN_LOCAL | state::RST) == 0
                && (current & state::REPLIED != 0 || current & state::ROLE == Role::WorkloadOpened as u8)
        }
        Direction::Ingress => {
            current & (state::FIN_PEER | state::RST) == 0
                && (current & state::REPLIED != 0 || current & state::ROLE != Role::WorkloadOpened as u8)
        }
    }
}

/// Takes note of one more packet of a flow that was judged before. `current` is its word as it was read.
#[inline(always)]
pub fn renew(flow: &FlowValue, current: FlowWord, direction: Direction, packet: &Packet, now: u32) {
    flow.touch(now);
    let next = step(current.state(), direction, packet);
    if next != current.state() {
        // A lost race only leaves the idle limit longer or shorter by one packet.
        let _ = flow.word.compare_exchange(current.0, current.with_state(next).0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How long a flow in a state may be without a packet, in seconds.
///
/// TCP: a connection with Linux's default keepalive (first probe after 7,200 s) never loses its state.
pub fn idle_limit(class: ProtocolClass, flow_state: u8) -> u32 {
    let replied = flow_state & state::REPLIED != 0;
    let both_fins = flow_state & (state::FIN_LOCAL | state::FIN_PEER) == state::FIN_LOCAL | state::FIN_PEER;
    match class {
        ProtocolClass::Tcp if both_fins || flow_state & state::RST != 0 => 10,
        ProtocolClass::Tcp | ProtocolClass::Sctp if !replied => 60,
        ProtocolClass::Tcp | ProtocolClass::Sctp => 7_800,
        ProtocolClass::Udp if replied => 180,
        ProtocolClass::Udp | ProtocolClass::Icmp | ProtocolClass::Icmpv6 | ProtocolClass::Other => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [ProtocolClass; 6] = [
        ProtocolClass::Tcp,
        ProtocolClass::Udp,
        ProtocolClass::Sctp,
        ProtocolClass::Icmp,
        ProtocolClass::Icmpv6,
        ProtocolClass::Other,
    ];

    #[test]
    fn a_key_holds_its_parts_apart() {
        let peer = Address([1, 2, 3, 4]);
        for owner in [OwnerId(1), OwnerId(0x1234_5678 & OwnerId::MAX.0), OwnerId::MAX] {
            for class in CLASSES {
                for (local, remote) in [(0, 0), (0, 1), (1, 0), (u16::MAX, 0), (0, u16::MAX), (0x1234, 0x5678)] {
                    let key = FlowKey::new(owner, class, local, remote, &peer);
                    let parts = (key.owner(), key.class(), key.local_port(), key.peer_port(), *key.peer());
                    assert_eq!(parts, (owner, class, local, remote, peer));
                }
            }
        }
    }

    #[test]
    fn a_tag_tells_similar_keys_apart() {
        let base = |owner, local, peer_port, peer: [u32; 4]| {
            FlowKey::new(OwnerId(owner), ProtocolClass::Tcp, local, peer_port, &Address(peer)).tag()
        };
        let key = base(7, 40_000, 80, [1, 2, 3, 4]);
        assert!(key <= 0x00ff_ffff, "24 bits");
        for (other, why) in [
            (base(8, 40_000, 80, [1, 2, 3, 4]), "another owner"),
            (base(7, 40_001, 80, [1, 2, 3, 4]), "another local port"),
            (base(7, 40_000, 81, [1, 2, 3, 4]), "another peer port"),
            (base(7, 80, 40_000, [1, 2, 3, 4]), "ports turned round"),
            (base(7, 40_000, 80, [1, 2, 3, 5]), "another peer"),
            (base(7, 40_000, 80, [2, 1, 3, 4]), "a peer with its words turned round"),
        ] {
            assert_ne!(other, key, "{why}");
        }
    }

    #[test]
    fn a_word_is_current_for_one_epoch_and_one_tag() {
        for (epoch, tag) in [(0, 0), (1, 1), (u32::MAX, 0x00ff_ffff), (0x8000_0000, 0x0080_0000), (5, 0x00ab_cdef)] {
            for bits in [0, 1, 0b11_1111, 0xff] {
                let word = FlowWord::new(epoch, tag, bits);
                assert_eq!(word.0, u64::from(epoch) << 32 | u64::from(tag) << 8 | u64::from(bits));
                assert!(word.is_current(epoch, tag) && word.has_tag(tag));
                assert_eq!(word.state(), bits);
                for bit in 0..32 {
                    assert!(!word.is_current(epoch ^ 1 << bit, tag), "bit {bit} of the epoch");
                }
                for bit in 0..24 {
                    assert!(!word.is_current(epoch, tag ^ 1 << bit), "bit {bit} of the tag");
                    assert!(!word.has_tag(tag ^ 1 << bit), "bit {bit} of the tag");
                }
                let other = word.with_state(!bits);
                assert!(other.is_current(epoch, tag) && other.state() == !bits, "state bits are beside both");
            }
        }
    }

    #[test]
    fn roles_are_their_bits() {
        for role in [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened] {
            let others = state::REPLIED | state::FIN_LOCAL | state::FIN_PEER | state::RST;
            assert_eq!(Role::of_state(role as u8 | others), Some(role));
        }
        assert_eq!(Role::of_state(!state::ROLE), None, "no flow, whatever else is set");
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(Role::of_sender(direction).direction(), direction);
        }
        assert_eq!(Role::NodeOpened.direction(), Direction::Ingress);
    }

    #[test]
    fn a_packet_changes_the_state_of_its_side() {
        use state::{FIN_LOCAL, FIN_PEER, REPLIED, RST};
        let (out, back) = (Direction::Egress, Direction::Ingress);
        let (mine, peers, nodes) = (Role::WorkloadOpened as u8, Role::PeerOpened as u8, Role::NodeOpened as u8);
        let segment =
            |tcp_flags, has_payload| Packet { class: ProtocolClass::Tcp, tcp_flags, has_payload, ..Packet::EMPTY };
        let datagram = Packet { class: ProtocolClass::Udp, tcp_flags: tcp::RST | tcp::FIN, ..Packet::EMPTY };
        for (before, direction, packet, after, why) in [
            (mine, out, segment(tcp::ACK, false), mine, "the opener goes on"),
            (mine, back, segment(tcp::ACK, false), mine | REPLIED, "the other side answers"),
            (peers, back, segment(tcp::ACK, false), peers, "the opener goes on"),
            (peers, out, segment(tcp::ACK, false), peers | REPLIED, "the workload answers its peer"),
            (nodes, out, segment(tcp::ACK, false), nodes | REPLIED, "or the node"),
            (mine, out, segment(tcp::FIN | tcp::ACK, false), mine | FIN_LOCAL, "its FIN"),
            (mine, back, segment(tcp::FIN, true), mine | REPLIED | FIN_PEER, "the peer's, with the last data"),
            (
                mine | FIN_LOCAL,
                out,
                segment(tcp::ACK, false),
                mine | FIN_LOCAL,
                "an acknowledgement takes nothing back",
            ),
            (mine | FIN_LOCAL, out, segment(tcp::ACK, true), mine, "data takes its side's FIN back"),
            (peers | FIN_PEER, out, segment(tcp::ACK, true), peers | REPLIED | FIN_PEER, "and no other's"),
            (mine, out, segment(tcp::RST, false), mine | RST, "RST"),
            (mine | FIN_LOCAL, out, segment(tcp::RST | tcp::FIN, true), mine | FIN_LOCAL | RST, "which is all it is"),
            (mine | RST, out, segment(tcp::ACK, false), mine, "a later segment takes it back"),
            (mine | RST, back, segment(tcp::ACK, false), mine | REPLIED, "of either side"),
            (mine, out, datagram, mine, "UDP has no flags"),
            (mine, back, datagram, mine | REPLIED, "but answers"),
        ] {
            assert_eq!(step(before, direction, &packet), after, "{why}");
        }
    }

    #[test]
    fn what_is_settled_stays_as_it_is() {
        let mut settled = 0;
        for bits in (0..64_u8).filter(|bits| Role::of_state(*bits).is_some()) {
            for direction in [Direction::Ingress, Direction::Egress].into_iter().filter(|way| is_settled(bits, *way)) {
                settled += 1;
                for class in CLASSES {
                    for (tcp_flags, has_payload) in [(0, false), (tcp::ACK, false), (tcp::ACK, true), (0xe8, true)] {
                        let packet = Packet { class, tcp_flags, has_payload, ..Packet::EMPTY };
                        assert_eq!(step(bits, direction, &packet), bits, "{bits:#b} {direction:?} {packet:?}");
                    }
                }
            }
        }
        // Of both directions: three roles with an answer, the opener's without, the other side's FIN or not.
        assert_eq!(settled, (3 + 3) * 2 + 3 * 2, "few states are not settled");
    }

    #[test]
    fn idle_limits() {
        use state::{FIN_LOCAL, FIN_PEER, REPLIED, RST};
        for (class, bits, seconds) in [
            (ProtocolClass::Tcp, 0, 60),
            (ProtocolClass::Tcp, REPLIED, 7_800),
            (ProtocolClass::Tcp, REPLIED | FIN_LOCAL, 7_800),
            (ProtocolClass::Tcp, REPLIED | FIN_PEER, 7_800),
            (ProtocolClass::Tcp, REPLIED | FIN_LOCAL | FIN_PEER, 10),
            (ProtocolClass::Tcp, FIN_LOCAL | FIN_PEER, 10),
            (ProtocolClass::Tcp, REPLIED | RST, 10),
            (ProtocolClass::Tcp, RST, 10),
            (ProtocolClass::Sctp, 0, 60),
            (ProtocolClass::Sctp, REPLIED, 7_800),
            (ProtocolClass::Udp, 0, 30),
            (ProtocolClass::Udp, REPLIED, 180),
            (ProtocolClass::Icmp, REPLIED, 30),
            (ProtocolClass::Icmpv6, REPLIED, 30),
            (ProtocolClass::Other, REPLIED, 30),
        ] {
            for role in [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened] {
                assert_eq!(idle_limit(class, bits | role as u8), seconds, "{class:?} {bits:#b} {role:?}");
            }
        }
    }
}
