//! Tests of the fast path for live flows: frames that it handles, and frames that only look like them.
//! `MemoryWorld::verdict_of` also sends each frame that the fast path lets pass through the whole datapath.

use enforcer_common::id::{Direction, Ifindex};
use enforcer_common::packet::tcp;
use enforcer_common::verdict::Reason;
use enforcer_common::work::Meta;
use enforcer_tests::packet::{Frame, Transport};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::stage::*;

/// One step of a conversation between `a` and X.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is tossed for itself")]
struct Step {
    v4: bool,
    from_workload: bool,
    transport: Transport,
    payload: bool,
    numbers: [u32; 2],
    extension: bool,
    way: u32,
    /// Seconds before it.
    pause: u32,
    /// The policy is put in force again before it.
    swap: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = [
        tcp::ACK,
        tcp::ACK,
        tcp::ACK,
        tcp::SYN,
        tcp::SYN | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        tcp::RST | tcp::ACK,
        0,
    ];
    let tcp = (any::<bool>(), proptest::sample::select(flags.to_vec())).prop_map(|(other, flags)| Transport::Tcp {
        source: 40_000 + u16::from(other),
        destination: 80,
        flags,
    });
    let transport = prop_oneof![4 => tcp, 2 => Just(Transport::Udp { source: 40_000, destination: 80 })];
    let ways = proptest::sample::select(vec![UPLINK, UPLINK, UPLINK, UPLINK, OTHER, NODE]);
    let rare = || proptest::bool::weighted(0.05);
    // What establishes a connection, or ends it, and what does neither.
    let numbers = proptest::sample::select(vec![[5, 6], [5, 6], [6, 6], [5, 7]]);
    (any::<bool>(), any::<bool>(), transport, any::<bool>(), numbers, rare(), ways, 0..2u32, rare()).prop_map(
        |(v4, from_workload, transport, payload, numbers, extension, way, pause, swap)| Step {
            v4,
            from_workload,
            transport,
            payload,
            numbers,
            extension: extension && !v4,
            way,
            pause,
            swap,
        },
    )
}

/// Plays a conversation and gives the share of its frames that went the short way, in frames.
fn play(steps: &[Step], spec: &str) -> usize {
    let mut stage = Stage::new(&[("a", spec)]);
    for step in steps {
        stage.world.tick += step.pause;
        if step.swap {
            stage.apply(&[("a", spec)]);
        }
        let (source, destination) = (host(step.v4, A), peer(step.v4));
        let extensions: &[(u8, &[u8])] = if step.extension { &[(60, &[0, 0, 1, 4, 0, 0, 0, 0])] } else { &[] };
        let payload: &[u8] = if step.payload { &[7; 9] } else { &[] };
        let frame = match step.transport {
            transport if step.from_workload => Frame::new(source, destination, transport),
            Transport::Tcp { source: ours, destination: theirs, flags } => {
                Frame::new(destination, source, Transport::Tcp { source: theirs, destination: ours, flags })
            }
            _ => Frame::new(destination, source, Transport::Udp { source: 80, destination: 40_000 }),
        };
        let frame = Frame { payload, extensions, numbers: step.numbers, ..frame }.bytes();
        let _ = stage.verdict_of(A, (!step.from_workload).then_some(step.way), &frame);
    }
    stage.world.live_count()
}

fn specs() -> [String; 3] {
    [
        "isolate: [ingress, egress], allow: [{ to: [{ cidr: 198.51.100.0/24 }, { cidr: '2001:db8::/64' }] }]".into(),
        "isolate: [ingress, egress], allow: [{ from: [{ cidr: 198.51.100.0/24 }, { cidr: '2001:db8::/64' }] }]".into(),
        CLOSED.into(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_are_one(steps in proptest::collection::vec(step(), 1..60), spec in proptest::sample::select(specs().to_vec())) {
        play(&steps, &spec);
    }
}

#[test]
fn a_tag_beside_the_frame_is_seen_on_a_live_flow() {
    for v4 in FAMILIES {
        let stage = Stage::new(&[]);
        let (udp, meta) = (Transport::Udp { source: 40_000, destination: 80 }, |vlan| Meta {
            ifindex: Ifindex(A),
            ingress_ifindex: Ifindex(A),
            vlan,
        });
        let frame = Frame::new(host(v4, A), peer(v4), udp).bytes();
        for (vlan, verdict) in [(false, ALLOW), (false, ALLOW), (true, denied(Reason::Vlan)), (false, ALLOW)] {
            assert_eq!(stage.world.verdict_of(Direction::Egress, &meta(vlan), &frame).0, verdict, "{v4} {vlan}");
        }
        assert_eq!(stage.world.live_count(), 2);
    }
}

#[test]
fn conversations_go_the_short_way() {
    let mut runner = TestRunner::deterministic();
    let (mut frames, mut live) = (0, [0, 0, 0]);
    for _ in 0..200 {
        let steps = proptest::collection::vec(step(), 60).new_tree(&mut runner).expect("steps").current();
        frames += steps.len();
        for (live, spec) in live.iter_mut().zip(specs()) {
            *live += play(&steps, &spec);
        }
    }
    let [out, back, closed] = live;
    assert!(out * 10 > frames && back * 10 > frames, "{out} and {back} of {frames}");
    assert!(closed * 10 < frames, "{closed} of {frames}: only the node's own may");
}
