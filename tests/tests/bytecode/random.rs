//! Broken frames: the loaded programs and the tables in memory must give the same verdict for the same reason.

use enforcer_common::{
    id::{Direction, Ifindex},
    packet::tcp,
    verdict::Verdict,
    work::Meta,
};
use enforcer_tests::{
    bytecode::scene::{LO, OTHER, Scene, TAP, UPLINK, ip, who},
    packet::{Frame, Transport},
};

use crate::Both;

/// Frames, each run in one direction by one device.
const FRAMES: u32 = 100_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn whole_frame(random: &mut Random, direction: Direction) -> Vec<u8> {
    let family = random.below(2) as usize;
    let peers = [who::FRIEND, who::NEIGHBOUR, who::NODE, who::RANGE, who::STRANGER, who::WORKLOAD];
    let peer = ip(peers[random.below(6) as usize][family]);
    let own = ip(who::WORKLOAD[family]);
    let port = |random: &mut Random| [80, 53, 81, 5000, 40_000][random.below(5) as usize];
    let (source_port, destination_port) = (port(random), port(random));
    let transport = match random.below(6) {
        0 | 1 => Transport::Tcp {
            source: source_port,
            destination: destination_port,
            flags: [tcp::SYN, tcp::ACK, tcp::SYN | tcp::ACK, tcp::RST, tcp::FIN | tcp::ACK][random.below(5) as usize],
        },
        2 => Transport::Udp { source: source_port, destination: destination_port },
        3 => Transport::Sctp { source: source_port, destination: destination_port, chunk: random.below(3) as u8 },
        4 => Transport::Icmp {
            kind: [0, 3, 8, 11, 13, 1, 128, 129, 134, 135, 136][random.below(11) as usize],
            code: 0,
            rest: [0, random.below(3) as u8, 0, 0],
        },
        _ => Transport::Other([47, 50, 1, 58][random.below(4) as usize]),
    };
    let (source, destination) = match direction {
        Direction::Egress => (own, peer),
        Direction::Ingress => (peer, own),
    };
    let quoted = Frame::new(destination, source, Transport::syn(destination_port, source_port)).bytes();
    let extensions: &[(u8, &[u8])] = match random.below(5) {
        0 => &[(0, &[0; 8])],
        1 => &[(60, &[0; 8]), (44, &[0; 8])],
        2 => &[(43, &[0; 8])],
        _ => &[],
    };
    Frame {
        extensions: if family == 1 { extensions } else { &[] },
        hop_limit: [64, 255][random.below(2) as usize],
        payload: if matches!(transport, Transport::Icmp { .. }) { &quoted[14..] } else { &[] },
        ..Frame::new(source, destination, transport)
    }
    .bytes()
}

#[test]
fn broken_frames_get_the_same_verdict_as_in_memory() {
    let scene = Scene { quota: 60, flows: 4096, ..Scene::default() };
    let Some(mut both) = Both::new(&scene) else { return };
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (mut allowed, mut reasons) = (0, [0u32; enforcer_common::verdict::REASON_COUNT]);
    for number in 0..FRAMES {
        if number % 1000 == 0 {
            both.forget_flows();
        }
        let direction = [Direction::Ingress, Direction::Egress][random.below(2) as usize];
        let mut frame = whole_frame(&mut random, direction);
        for _ in 0..random.below(3) {
            let bit = random.below(8 * frame.len() as u64) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        if random.below(20) == 0 {
            // `BPF_PROG_TEST_RUN` itself refuses a frame without a whole IP header.
            let least = if frame[12] == 0x08 { 34 } else { 54 };
            frame.truncate(least + random.below(20) as usize);
        }
        let from = [0, OTHER, UPLINK, TAP][random.below(4) as usize];
        let meta = Meta { ifindex: Ifindex(LO), ingress_ifindex: Ifindex(from), vlan: false };
        let (expected, _) = both.memory.verdict_of(direction, &meta, &frame);
        match expected {
            Verdict::Allow => {
                allowed += 1;
                let (passed, _) = both.node.run(direction, from, &frame, 1).unwrap();
                assert!(passed, "seed {seed}, frame {number}: memory allows {frame:02x?}");
            }
            Verdict::Deny(reason) => {
                reasons[reason as usize] += 1;
                let before = both.node.counts(direction, reason).unwrap();
                let (passed, _) = both.node.run(direction, from, &frame, 1).unwrap();
                let after = both.node.counts(direction, reason).unwrap();
                let risen =
                    after.logged + after.suppressed + after.lost - before.logged - before.suppressed - before.lost;
                assert!(
                    !passed && risen == 1,
                    "seed {seed}, frame {number}: memory denies for {reason:?}, {from} {frame:02x?}"
                );
            }
        }
    }
    println!("{allowed} allowed; by reason {reasons:?}");
    assert!(allowed > FRAMES / 20, "the generator makes too few frames that pass: {allowed}");
    assert!(reasons.iter().filter(|count| **count > 50).count() >= 8, "{reasons:?}");
}
