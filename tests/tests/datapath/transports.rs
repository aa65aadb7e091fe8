//! Tests of transport headers that are cut short or contradict themselves.

use enforcer_common::id::Ifindex;
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_tests::packet::{Frame, Transport};

use crate::stage::*;

const SHORT: Verdict = Verdict::Deny(Reason::L4Short);

/// Judges a frame whose bytes behind the IP header are these.
fn carrying(v4: bool, number: u8, bytes: &[u8]) -> Verdict {
    let frame = Frame { payload: bytes, ..Frame::new(host(v4, A), peer(v4), Transport::Other(number)) };
    Stage::new(&[]).sends(A, &frame)
}

#[test]
fn tcp_offset() {
    for v4 in FAMILIES {
        for offset in 0..16u8 {
            for length in [20, 24, 40, 60] {
                let mut segment = vec![0; length];
                segment[12] = offset << 4;
                let whole = offset >= 5 && usize::from(offset) * 4 <= length;
                let verdict = if whole { ALLOW } else { SHORT };
                assert_eq!(carrying(v4, 6, &segment), verdict, "offset {offset} in {length} bytes");
            }
        }
        for length in 0..20 {
            let mut segment = vec![0x50; length];
            if let Some(offset) = segment.get_mut(12) {
                *offset = 0x50;
            }
            assert_eq!(carrying(v4, 6, &segment), SHORT, "{length} bytes");
        }
    }
}

#[test]
fn udp_length() {
    for v4 in FAMILIES {
        for length in 0..=40u16 {
            let mut datagram = vec![0; 16];
            datagram[4..6].copy_from_slice(&length.to_be_bytes());
            let verdict = if (8..=16).contains(&length) { ALLOW } else { SHORT };
            assert_eq!(carrying(v4, 17, &datagram), verdict, "length {length} in 16 bytes");
        }
        for length in 0..8 {
            assert_eq!(carrying(v4, 17, &vec![0; length]), SHORT, "{length} bytes");
        }
    }
}

#[test]
fn sctp_and_icmp_length() {
    for v4 in FAMILIES {
        for length in 0..=20 {
            let verdict = if length >= 16 { ALLOW } else { SHORT };
            assert_eq!(carrying(v4, 132, &vec![0; length]), verdict, "SCTP of {length} bytes");
            let verdict = if length >= 8 { ALLOW } else { SHORT };
            let number = if v4 { 1 } else { 58 };
            assert_eq!(carrying(v4, number, &vec![200; length]), verdict, "ICMP of {length} bytes");
        }
    }
}

#[test]
fn a_header_is_not_read_from_the_padding() {
    // 40 bytes follow the IP header; its length says how many of them are the packet's.
    for v4 in FAMILIES {
        for (number, whole) in [(6, 20u16), (17, 8), (132, 16), (if v4 { 1 } else { 58 }, 8)] {
            for inside in 0..=whole {
                let mut bytes = vec![0; 40];
                match number {
                    6 => bytes[12] = 0x50,
                    17 => bytes[5] = 8,
                    _ => bytes[0] = 200,
                }
                let frame = Frame { payload: &bytes, ..Frame::new(host(v4, A), peer(v4), Transport::Other(number)) };
                let mut frame = frame.bytes();
                let (at, length) = if v4 { (16, 20 + inside) } else { (18, inside) };
                frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
                let verdict = if inside == whole { ALLOW } else { SHORT };
                assert_eq!(
                    Stage::new(&[]).world.sends(Ifindex(A), &frame),
                    verdict,
                    "{inside} bytes of protocol {number}"
                );
            }
        }
    }
}

#[test]
fn other_protocols_need_no_header() {
    for v4 in FAMILIES {
        assert_eq!(carrying(v4, 47, &[]), ALLOW, "GRE without a byte");
        assert_eq!(carrying(v4, 59, &[]), ALLOW, "no next header");
        assert_eq!(carrying(v4, 51, &[0; 4]), ALLOW, "AH is a protocol, not an extension that is walked");
    }
}

/// TFTP answers from a port that it has just chosen, and so does whatever is asked by a group (docs/policy-reference.md).
#[test]
fn who_answers_from_another_port_or_address_opens_a_flow_of_its_own() {
    for v4 in FAMILIES {
        let (client, server, other) = ((host(v4, A), 40_000), (peer(v4), 69), (stranger(v4), 69));
        let chosen = (server.0, 50_000);
        let ask = "{ to: anywhere, ports: [69/udp] }";
        let stage = Stage::closed_but(ask);
        assert_eq!(stage.sends(A, &datagram(client, server)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &datagram(server, client)), ALLOW, "from the port that was asked");
        assert_eq!(stage.receives(A, UPLINK, &datagram(chosen, client)), NO_RULE, "from another port");
        assert_eq!(stage.receives(A, UPLINK, &datagram(other, client)), NO_RULE, "from another address");
        let stage = Stage::closed_but(&format!("{ask}, {{ from: anywhere, ports: [32768-60999/udp] }}"));
        assert_eq!(stage.sends(A, &datagram(client, server)), ALLOW);
        assert_eq!(stage.receives(A, UPLINK, &datagram(chosen, client)), ALLOW, "a rule for the client's ports");
        assert_eq!(stage.sends(A, &datagram(client, chosen)), ALLOW, "what follows belongs to that flow");
        assert_eq!(stage.receives(A, UPLINK, &datagram(chosen, (client.0, 69))), NO_RULE, "the rule's ports alone");
    }
}
