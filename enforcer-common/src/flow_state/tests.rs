use super::step::{ACCEPTANCE, ANY_ANSWER, ANY_PACKET, FIRST_WINDOW};
use super::*;
use crate::packet::{Kind, ProtocolClass, tcp};

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
    for (epoch, tag) in
        [(0, 0), (1, 1), (PolicyWord::EPOCHS, 0x00ff_ffff), (0x4000_0000, 0x0080_0000), (5, 0x00ab_cdef)]
    {
        for (direction, bits) in [Direction::Ingress, Direction::Egress]
            .into_iter()
            .flat_map(|direction| [0, 1, 0b11_1111, 0xff].map(|bits| (direction, bits)))
        {
            let word = FlowWord::new(epoch, tag, bits);
            assert_eq!(word.0, u64::from(epoch) << 32 | u64::from(tag) << 8 | u64::from(bits));
            assert!(word.is_current(direction, epoch, tag) && word.has_tag(tag));
            assert_eq!(word.state(), bits);
            for bit in 0..31 {
                assert!(!word.is_current(direction, epoch ^ 1 << bit, tag), "bit {bit} of the epoch");
            }
            for bit in 0..24 {
                assert!(!word.is_current(direction, epoch, tag ^ 1 << bit), "bit {bit} of the tag");
                assert!(!word.has_tag(tag ^ 1 << bit), "bit {bit} of the tag");
            }
            let other = word.with_state(!bits);
            assert!(other.is_current(direction, epoch, tag) && other.state() == !bits, "state bits are beside both");
        }
    }
}

#[test]
fn a_flow_that_is_judged_behind_translation_vouches_for_answers_alone() {
    let word = FlowWord::new(5, 7, Role::WorkloadOpened as u8);
    let behind = word.with_behind(true);
    assert!(!word.is_behind() && behind.is_behind() && behind.with_state(0).is_behind());
    assert_eq!(behind.with_behind(false), word);
    assert!(behind.is_current(Direction::Ingress, 5, 7) && !behind.is_current(Direction::Ingress, 6, 7));
    for epoch in [5, 6, 5 | 1 << 31, u32::MAX] {
        assert!(!behind.is_current(Direction::Egress, epoch & PolicyWord::EPOCHS, 7));
    }
    assert_eq!((behind.state(), behind.has_tag(7), behind.role()), (1, true, Some(Role::WorkloadOpened)));
}

#[test]
fn a_course_is_one_number() {
    for role in [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened] {
        for behind in [false, true] {
            let course = Course { role, behind };
            assert_eq!(Course::from_code(course.to_code()), Some(course));
        }
    }
    assert_eq!(Course::from_code(1 << 2), None, "nobody has opened it");
}

#[test]
fn roles_are_their_bits() {
    for role in [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened] {
        let others = !state::ROLE;
        assert_eq!(Role::of_state(role as u8 | others), Some(role));
    }
    assert_eq!(Role::of_state(!state::ROLE), None, "no flow, whatever else is set");
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(Role::of_sender(direction).direction(), direction);
    }
    assert_eq!(Role::NodeOpened.direction(), Direction::Ingress);
}

/// Sequence number of the acceptance.
const ISN: u32 = 0x8000_0000;

fn seen(mark: u32) -> Seen {
    Seen { mark, others_acknowledgement: 77, is_later: false }
}

fn segment(tcp_flags: u8, [sequence, acknowledgement]: [u32; 2]) -> Packet {
    let [sequence, acknowledgement] = [sequence, acknowledgement].map(u32::to_be);
    Packet { class: ProtocolClass::Tcp, tcp_flags, sequence, acknowledgement, ..Packet::EMPTY }
}

fn chunk(chunk: u8, sequence: u32, acknowledgement: u32) -> Packet {
    Packet { class: ProtocolClass::Sctp, chunk, sequence, acknowledgement, ..Packet::EMPTY }
}

const OUT: Direction = Direction::Egress;
const BACK: Direction = Direction::Ingress;
const MINE: u8 = Role::WorkloadOpened as u8;
const PEERS: u8 = Role::PeerOpened as u8;
const NODES: u8 = Role::NodeOpened as u8;
use state::{ASKED_LOCAL, ASKED_PEER, ENDED, ESTABLISHED, FIN_LOCAL, FIN_PEER, REPLIED};
/// Established.
const LIVE: u8 = REPLIED | ESTABLISHED;

#[test]
fn nobody_but_the_opener_who_got_the_acceptance_establishes_a_connection() {
    let accepted = ISN.wrapping_add(1);
    let syn_ack = segment(tcp::SYN | tcp::ACK, [ISN, 5]);
    for (opener, out, back) in [(MINE, OUT, BACK), (PEERS, BACK, OUT), (NODES, BACK, OUT)] {
        let to = |state, mark| Step { state: opener | state, mark };
        let ack = |number| segment(tcp::ACK, [6, number]);
        for (before, mark, direction, packet, after, why) in [
            (0, 0, back, syn_ack, to(REPLIED, accepted), "the acceptance"),
            (0, 0, out, syn_ack, to(0, 0), "of the opener it is none"),
            (0, 0, out, ack(accepted), to(0, 0), "an acknowledgement of what was never sent"),
            (0, 0, back, ack(1), to(0, 0), "an answer that accepts nothing: that of an older connection"),
            (REPLIED, accepted, back, ack(accepted), to(REPLIED, accepted), "the other side alone does not do"),
            (REPLIED, accepted, back, segment(tcp::SYN | tcp::ACK, [9, 5]), to(REPLIED, 10), "accepted once more"),
            (REPLIED, accepted, out, ack(accepted), to(LIVE, accepted), "the opener has got it"),
            (REPLIED, accepted, out, ack(accepted + FIRST_WINDOW - 1), to(LIVE, accepted), "and first data with it"),
            (REPLIED, accepted, out, ack(accepted + FIRST_WINDOW), to(REPLIED, accepted), "a guess too high"),
            (REPLIED, accepted, out, ack(accepted - 1), to(REPLIED, accepted), "a guess too low"),
            (REPLIED, accepted, out, ack(0), to(REPLIED, accepted), "no guess"),
            (REPLIED, accepted, out, segment(0, [6, accepted]), to(REPLIED, accepted), "without ACK it means nothing"),
            (REPLIED, u32::MAX, out, ack(3), to(LIVE, u32::MAX), "numbers wrap"),
            (
                REPLIED,
                accepted,
                out,
                segment(tcp::ACK | tcp::FIN, [6, accepted]),
                to(LIVE | fin(out), accepted),
                "with a FIN",
            ),
        ] {
            assert_eq!(step(opener | before, direction, &packet, seen(mark)), after, "{opener} {why}");
        }
    }
}

fn fin(direction: Direction) -> u8 {
    if matches!(direction, Direction::Egress) { FIN_LOCAL } else { FIN_PEER }
}

#[test]
fn a_connection_that_was_met_midway_is_established_by_the_side_that_has_not_spoken_yet() {
    let any = segment(tcp::ACK, [1, 2]);
    for (role, out, back) in [(Role::WorkloadOpened, OUT, BACK), (Role::PeerOpened, BACK, OUT)] {
        let opener = role as u8;
        let by_opener = first(role, out, &any);
        assert_eq!(by_opener, Step { state: opener, mark: ANY_ANSWER });
        assert_eq!(
            step(by_opener.state, out, &any, seen(by_opener.mark)),
            by_opener,
            "who goes on alone proves nothing"
        );
        assert_eq!(step(by_opener.state, back, &any, seen(by_opener.mark)).state, opener | LIVE);
        let refused = segment(tcp::RST | tcp::ACK, [9, 9]);
        assert_eq!(step(by_opener.state, back, &refused, seen(by_opener.mark)), by_opener, "a refusal is no answer");
        let by_other = first(role, back, &any);
        assert_eq!(by_other, Step { state: opener | REPLIED, mark: ANY_PACKET });
        assert_eq!(step(by_other.state, back, &any, seen(by_other.mark)), by_other);
        assert_eq!(step(by_other.state, out, &refused, seen(by_other.mark)), by_other);
        assert_eq!(step(by_other.state, out, &any, seen(by_other.mark)).state, opener | LIVE);
        let opening = Packet { kind: Kind::Opening, ..segment(tcp::SYN, [1, 2]) };
        assert_eq!(first(role, out, &opening), Step { state: opener, mark: ACCEPTANCE });
    }
}

#[test]
fn an_association_is_established_by_the_tag_that_the_other_side_chose() {
    let init_ack = chunk(crate::packet::sctp::INIT_ACK, 0xbeef, 1);
    for (opener, out, back) in [(MINE, OUT, BACK), (PEERS, BACK, OUT)] {
        let accepted = step(opener, back, &init_ack, seen(ACCEPTANCE));
        assert_eq!(accepted, Step { state: opener | REPLIED, mark: 0xbeef });
        for (tag, state) in [(0xbeef, LIVE), (0xbef0, REPLIED), (0, REPLIED)] {
            let cookie = chunk(10, 0, tag);
            assert_eq!(step(accepted.state, out, &cookie, seen(accepted.mark)).state, opener | state, "{tag:#x}");
        }
        let midway = Step { state: opener, mark: ANY_ANSWER };
        let refused = step(opener, back, &chunk(crate::packet::sctp::ABORT, 0, 0), seen(ANY_ANSWER));
        assert_eq!(refused, midway, "a refusal is no answer");
        assert_eq!(step(opener, back, &chunk(0, 0, 1), seen(ANY_ANSWER)).state, opener | LIVE);
    }
}

#[test]
fn a_flow_without_numbers_is_established_by_the_opener_who_goes_on_or_by_answers_that_do() {
    for class in [ProtocolClass::Udp, ProtocolClass::Icmp, ProtocolClass::Icmpv6, ProtocolClass::Other] {
        let packet = Packet { class, tcp_flags: tcp::RST | tcp::FIN, ..Packet::EMPTY };
        let next = |state, direction, is_later| {
            step(state, direction, &packet, Seen { is_later, ..seen(0) }).state & !(FIN_LOCAL | FIN_PEER)
        };
        for (opener, out, back) in [(MINE, OUT, BACK), (PEERS, BACK, OUT), (NODES, BACK, OUT)] {
            for (before, direction, later, after, why) in [
                (0, out, false, 0, "nobody answers"),
                (0, out, true, 0, "ever"),
                (0, back, true, REPLIED, "an answer"),
                (REPLIED, back, false, REPLIED, "all of it"),
                (REPLIED, back, true, LIVE, "it goes on"),
                (REPLIED, out, false, LIVE, "the opener goes on"),
            ] {
                assert_eq!(next(opener | before, direction, later), opener | after, "{class:?} {why}");
            }
        }
    }
}

#[test]
fn a_reset_ends_what_the_other_side_takes_it_for() {
    let rst = |number| segment(tcp::RST, [number, 5]);
    let expected = |number: u32| Seen { mark: 3, others_acknowledgement: number.to_be(), is_later: false };
    for (before, direction, number, after, why) in [
        (MINE | LIVE, OUT, 500, ENDED, "what the peer expects next"),
        (MINE | LIVE, BACK, 500, ENDED, "what the workload expects next"),
        (MINE | LIVE, OUT, 501, ASKED_LOCAL, "not what the peer expects"),
        (MINE | LIVE, OUT, 499, ASKED_LOCAL, "a byte before"),
        (MINE | LIVE, BACK, 501, ASKED_PEER, "not what the workload expects"),
        (PEERS | LIVE, OUT, 0, ASKED_LOCAL, "no guess"),
        (PEERS | REPLIED, BACK, 501, 0, "half open it is as old as it is"),
    ] {
        let mark = if after & state::RESET > ENDED { number } else { 3 };
        let next = step(before, direction, &rst(number), expected(500));
        assert_eq!(next, Step { state: before | after, mark }, "{why}");
    }
    // A closed port answers with the number zero, and whoever has sent nothing but a SYN has acknowledged nothing.
    assert_eq!(step(MINE, BACK, &rst(0), expected(0)).state, MINE | ENDED);
    let plain = |acknowledgement| segment(tcp::ACK, [1, acknowledgement]);
    for (before, direction, acknowledgement, after, why) in [
        (ENDED, OUT, 1, 0, "who goes on has not ended it"),
        (ENDED, BACK, 1, 0, "neither side"),
        (ASKED_LOCAL, BACK, 900, ENDED, "the peer had come as far"),
        (ASKED_LOCAL, BACK, 899, 0, "it had not"),
        (ASKED_LOCAL, OUT, 900, 0, "who has sent it goes on"),
        (ASKED_PEER, OUT, 900, ENDED, "the workload had come as far"),
        (ASKED_PEER, BACK, 900, 0, "who has sent it goes on"),
    ] {
        let next = step(MINE | LIVE | before, direction, &plain(acknowledgement), seen(900));
        assert_eq!(next.state, MINE | LIVE | after, "{why}");
    }
}

#[test]
fn a_packet_changes_the_state_of_its_side() {
    let segment = |tcp_flags, has_payload| Packet { has_payload, ..segment(tcp_flags, [1, 1]) };
    for (before, direction, packet, after, why) in [
        (MINE, OUT, segment(tcp::FIN | tcp::ACK, false), MINE | FIN_LOCAL, "its FIN"),
        (MINE, BACK, segment(tcp::FIN, true), MINE | FIN_PEER, "the peer's, with the last data"),
        (MINE | FIN_LOCAL, OUT, segment(tcp::ACK, false), MINE | FIN_LOCAL, "an acknowledgement takes nothing back"),
        (MINE | FIN_LOCAL, OUT, segment(tcp::ACK, true), MINE, "data takes its side's FIN back"),
        (PEERS | FIN_PEER, OUT, segment(tcp::ACK, true), PEERS | FIN_PEER, "and no other's"),
        (MINE | LIVE | FIN_LOCAL, BACK, segment(tcp::ACK, true), MINE | LIVE | FIN_LOCAL, "established or not"),
    ] {
        assert_eq!(step(before, direction, &packet, seen(3)).state, after, "{why}");
    }
}

#[test]
fn what_opens_a_flow_anew() {
    let (tcp, echo) = (ProtocolClass::Tcp, ProtocolClass::Icmp);
    let (mine, peers) = (Role::WorkloadOpened, Role::PeerOpened);
    for (before, role, class, after, why) in [
        (MINE, mine, tcp, Some(MINE), "the SYN once more"),
        (MINE | REPLIED, mine, tcp, Some(MINE | REPLIED), "its acceptance was lost"),
        (MINE | REPLIED, peers, tcp, None, "the other side opens one"),
        (MINE | ENDED, mine, tcp, None, "it was refused"),
        (MINE | FIN_LOCAL | FIN_PEER, mine, tcp, None, "it was over"),
        (MINE | LIVE, mine, tcp, Some(MINE | LIVE), "whoever that is"),
        (MINE | LIVE | FIN_LOCAL, mine, tcp, Some(MINE | LIVE | FIN_LOCAL), "half closed"),
        (MINE | LIVE | FIN_LOCAL | FIN_PEER, mine, tcp, Some(MINE | LIVE), "its ports are used again"),
        (MINE | LIVE | ENDED, mine, tcp, Some(MINE | LIVE), "after a reset too"),
        (MINE | LIVE, peers, tcp, Some(PEERS | LIVE), "by the other side"),
        (PEERS | LIVE, Role::NodeOpened, tcp, Some(NODES | LIVE), "now it is the node"),
        (MINE, mine, echo, Some(MINE), "nobody answers"),
        (MINE | REPLIED, mine, echo, Some(MINE | LIVE), "it is answered and asks on"),
    ] {
        assert_eq!(open_again(before, role, class), after, "{why}");
    }
}

#[test]
fn what_is_settled_stays_as_it_is() {
    let mut settled = 0;
    let all = (0..=u8::MAX).filter(|bits| Role::of_state(*bits).is_some());
    for bits in all {
        for (direction, class) in
            [OUT, BACK].into_iter().flat_map(|way| CLASSES[..2].iter().map(move |class| (way, *class)))
        {
            // Datagrams have neither FINs nor resets.
            if !is_settled(bits, direction, class)
                || matches!(class, ProtocolClass::Udp) && bits & !(state::ROLE | LIVE) != 0
            {
                continue;
            }
            settled += 1;
            assert!(is_renewed(bits, class));
            for (tcp_flags, has_payload, is_later) in [(0, false, true), (tcp::ACK, true, false), (0xe8, false, true)] {
                let packet = Packet { class, tcp_flags, has_payload, ..Packet::EMPTY };
                let seen = Seen { is_later, ..seen(3) };
                let state = if bits & LIVE == ESTABLISHED { bits | REPLIED } else { bits };
                let next = step(state, direction, &packet, seen);
                assert_eq!(next, Step { state, mark: 3 }, "{bits:#b} {direction:?} {packet:?}");
            }
        }
    }
    // TCP: three roles, both directions, with the other side's FIN or not, and the answered bit or not. UDP: the same
    // without FINs, and the opener whom nobody answers.
    assert_eq!(settled, 3 * 2 * 2 * 2 + 3 * 2 * 2 + 3, "few states are not settled");
}

#[test]
fn idle_limits() {
    for (class, bits, seconds) in [
        (ProtocolClass::Tcp, 0, 60),
        (ProtocolClass::Tcp, REPLIED, 60),
        (ProtocolClass::Tcp, LIVE, 7_800),
        (ProtocolClass::Tcp, LIVE | FIN_LOCAL, 7_800),
        (ProtocolClass::Tcp, LIVE | FIN_PEER, 7_800),
        (ProtocolClass::Tcp, LIVE | FIN_LOCAL | FIN_PEER, 10),
        (ProtocolClass::Tcp, FIN_LOCAL | FIN_PEER, 10),
        (ProtocolClass::Tcp, LIVE | ENDED, 10),
        (ProtocolClass::Tcp, LIVE | ASKED_LOCAL, 7_800),
        (ProtocolClass::Tcp, LIVE | ASKED_PEER, 7_800),
        (ProtocolClass::Tcp, ENDED, 10),
        (ProtocolClass::Sctp, 0, 60),
        (ProtocolClass::Sctp, REPLIED, 60),
        (ProtocolClass::Sctp, LIVE, 7_800),
        (ProtocolClass::Udp, 0, 30),
        (ProtocolClass::Udp, REPLIED, 180),
        (ProtocolClass::Udp, LIVE, 180),
        (ProtocolClass::Icmp, REPLIED, 30),
        (ProtocolClass::Icmpv6, REPLIED, 30),
        (ProtocolClass::Other, REPLIED, 30),
    ] {
        for role in [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened] {
            assert_eq!(idle_limit(class, bits | role as u8), seconds, "{class:?} {bits:#b} {role:?}");
        }
    }
}

/// What the time of the next sweep relies on.
#[test]
fn no_packet_ends_a_flow_before_its_least_limit() {
    for bits in (0..=u8::MAX).filter(|bits| Role::of_state(*bits).is_some()) {
        for class in CLASSES {
            let connection = matches!(class, ProtocolClass::Tcp | ProtocolClass::Sctp);
            if connection != matches!(class, ProtocolClass::Tcp) && bits & !(state::ROLE | LIVE) != 0 {
                // Of others than TCP there are no such states.
                continue;
            }
            assert!(least_limit(class, bits) <= idle_limit(class, bits), "{class:?} {bits:#b}");
            let flags = (0..=u8::MAX).map(|tcp_flags| Packet { class, tcp_flags, ..segment(tcp_flags, [ISN, 3]) });
            let stepped = flags.flat_map(|packet| [OUT, BACK].map(|way| step(bits, way, &packet, seen(3)).state));
            let roles = [Role::WorkloadOpened, Role::PeerOpened, Role::NodeOpened];
            let opened = roles.into_iter().filter_map(|role| open_again(bits, role, class));
            for next in stepped.chain(opened) {
                // Either the packet counts as the last one, or the flow is as old as before.
                let least = if is_renewed(next, class) { SHORTEST_LIMIT } else { least_limit(class, bits) };
                assert!(idle_limit(class, next) >= least, "{class:?} {bits:#b} {next:#b}");
            }
        }
    }
}

#[test]
fn a_home_holds_both_places_apart() {
    for (quota, half_open) in [(0, 0), (limits::WORKLOADS - 1, 0), (0, limits::HALF_OPEN_MOST - 1), (77, 12_345)] {
        let home = Home::new(QuotaPlace(quota), half_open);
        assert_eq!((home.quota(), home.half_open()), (QuotaPlace(quota), half_open));
    }
}
