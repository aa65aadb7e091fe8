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
        (mine | FIN_LOCAL, out, segment(tcp::ACK, false), mine | FIN_LOCAL, "an acknowledgement takes nothing back"),
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
