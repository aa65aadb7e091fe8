//! Tests of flow state: what is written, which packets a live flow lets pass, and which are judged again.

use enforcer_common::{
    flow_key::FlowKey,
    flow_state::{FlowWord, Role, state},
    id::{Direction, Row},
    limits,
    packet::tcp,
    sweep::SweepArguments,
    verdict::{Reason, Verdict},
};
use enforcer_tests::{
    bytecode::{
        node::{Flow, SWEEP},
        scene::{OTHER, PLACE, Scene, UPLINK, ip, who},
    },
    packet::{Frame, Transport},
};

use crate::Both;

const ALLOW: Verdict = Verdict::Allow;
const NO_RULE: Verdict = Verdict::Deny(Reason::NoRule);

fn frame(source: &str, destination: &str, transport: Transport) -> Vec<u8> {
    Frame::new(ip(source), ip(destination), transport).bytes()
}

fn segment(source: u16, destination: u16, flags: u8) -> Transport {
    Transport::Tcp { source, destination, flags }
}

fn only_flow(both: &Both) -> Flow {
    let flows = both.node.flows().unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    let established = u32::from(flows[0].1.word.share().is_some());
    assert_eq!(both.node.quota().unwrap().0, established, "the quota counts what is established");
    flows[0].1
}

#[test]
fn a_live_flow_vouches_for_replies_and_nothing_else() {
    for family in 0..2 {
        let Some(both) = Both::new(&Scene::default()) else {
            return;
        };
        let (own, friend) = (who::WORKLOAD[family], who::FRIEND[family]);
        assert_eq!(both.receives(OTHER, &frame(friend, own, segment(80, 40_000, tcp::ACK))), NO_RULE);
        assert_eq!(both.sends(&frame(own, friend, segment(40_000, 80, tcp::SYN))), ALLOW);
        let flow = only_flow(&both);
        assert_eq!(flow.word.role(), Some(Role::WorkloadOpened));
        assert_eq!((flow.ingress, flow.home.quota()), (u32::MAX, PLACE));
        assert_eq!(both.receives(OTHER, &frame(friend, own, segment(80, 40_000, tcp::SYN | tcp::ACK))), ALLOW);
        let flow = only_flow(&both);
        assert_eq!(flow.ingress, OTHER, "the first packet of the peer shows its device");
        assert_ne!(flow.word.state() & state::REPLIED, 0);
        for (why, transport) in [
            ("another port", segment(80, 40_001, tcp::ACK)),
            ("another peer port", segment(81, 40_000, tcp::ACK)),
            ("a SYN never passes as a reply", segment(80, 40_000, tcp::SYN)),
            ("another protocol", Transport::Udp { source: 80, destination: 40_000 }),
        ] {
            assert_eq!(both.receives(OTHER, &frame(friend, own, transport)), NO_RULE, "{why}");
        }
        let stranger = who::STRANGER[family];
        assert_eq!(both.receives(OTHER, &frame(stranger, own, segment(80, 40_000, tcp::ACK))), NO_RULE);
    }
}

#[test]
fn a_new_epoch_judges_again_in_the_stored_role() {
    let mut scene = Scene::default();
    let Some(mut both) = Both::new(&scene) else { return };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    assert_eq!(both.sends(&frame(own, friend, segment(40_000, 80, tcp::SYN))), ALLOW);
    scene.word.epoch += 1;
    both.node.set_word(scene.word).unwrap();
    let reply = frame(friend, own, segment(80, 40_000, tcp::ACK));
    let verdict = both.node.verdict_of(Direction::Ingress, OTHER, &reply).unwrap();
    assert_eq!(verdict, ALLOW, "port 40000 is not allowed in, the flow is judged as egress to port 80");
    assert!(only_flow(&both).word.0 >> 32 == u64::from(scene.word.epoch), "and renewed");
    scene.word.revision.0 += 1;
    scene.word.epoch += 1;
    scene.open = false;
    both.node.install(&scene).unwrap();
    for (direction, packet) in
        [(Direction::Ingress, reply), (Direction::Egress, frame(own, friend, segment(40_000, 80, tcp::ACK)))]
    {
        let verdict = both.node.verdict_of(direction, OTHER, &packet).unwrap();
        assert_eq!(verdict, NO_RULE, "policy has closed it: {direction:?}");
    }
}

#[test]
fn another_device_judges_again() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    // The node may always send, so this flow lives under another's address.
    let syn = frame(friend, own, segment(5000, 99, tcp::SYN));
    assert_eq!(both.receives(0, &syn), ALLOW);
    assert_eq!(only_flow(&both).word.role(), Some(Role::NodeOpened));
    let ack = frame(friend, own, segment(5000, 99, tcp::ACK));
    assert_eq!(both.receives(0, &ack), ALLOW);
    assert_eq!(both.receives(OTHER, &ack), NO_RULE, "the workload itself did not open it");
    assert_eq!(both.receives(UPLINK, &ack), NO_RULE, "nor anybody outside");
    assert_eq!(both.receives(0, &ack), ALLOW, "and the node keeps its flow");
    assert_eq!(both.sends(&frame(own, friend, segment(99, 5000, tcp::ACK))), ALLOW, "with its replies");
    let spoofed = frame(who::NEIGHBOUR[0], own, segment(5000, 99, tcp::SYN));
    assert_eq!(both.receives(0, &spoofed), Verdict::Deny(Reason::SpoofedSource), "but not under a workload's address");
}

#[test]
fn the_nodes_answers_open_no_way_back() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let (own, node) = (who::WORKLOAD[0], who::NODE[0]);
    for (why, transport) in
        [("a SYN+ACK", segment(99, 5000, tcp::SYN | tcp::ACK)), ("an RST", segment(99, 5000, tcp::RST))]
    {
        assert_eq!(both.receives(0, &frame(node, own, transport)), ALLOW, "{why} reaches it");
        assert!(both.node.flows().unwrap().is_empty(), "{why} writes nothing");
    }
    assert_eq!(both.sends(&frame(own, node, segment(5000, 99, tcp::ACK))), NO_RULE);
    let reply = Transport::Icmp { kind: 0, code: 0, rest: [0, 1, 0, 0] };
    assert_eq!(both.receives(0, &frame(node, own, reply)), NO_RULE, "a reply to what it has not asked");
}

#[test]
fn a_full_quota_and_a_full_table_deny() {
    let scene = Scene { quota: 2, ..Scene::default() };
    let Some(both) = Both::new(&scene) else { return };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let syn = |port| frame(own, friend, segment(port, 80, tcp::SYN));
    for port in [1, 2] {
        connect(&both, port);
    }
    assert_eq!(both.node.shares().unwrap(), [0, 2]);
    assert_eq!(both.sends(&syn(3)), Verdict::Deny(Reason::FlowQuota));
    assert_eq!(both.sends(&syn(2)), ALLOW, "a flow that is there needs no room");
    assert_eq!(both.node.shares().unwrap(), [0, 2]);

    let scene = Scene { flows: 8, ..Scene::default() };
    let Some(both) = Both::new(&scene) else { return };
    // A preallocated hash keeps an element in reserve for each CPU, so the exact number is not ours to say.
    let verdicts: Vec<Verdict> =
        (0..64).map(|port| both.node.verdict_of(Direction::Egress, 1, &syn(port)).unwrap()).collect();
    assert!(verdicts[..8].iter().all(|verdict| *verdict == ALLOW));
    assert_eq!(verdicts[63], Verdict::Deny(Reason::FlowTableFull));
    let allowed = verdicts.iter().filter(|verdict| **verdict == ALLOW).count();
    let half_open = both.node.half_open(Direction::Egress).unwrap();
    let places = half_open.iter().filter(|key| **key != FlowKey::NONE).count();
    assert_eq!((both.node.flows().unwrap().len(), places), (allowed, allowed), "each of them has a place");
    assert_eq!(both.node.quota().unwrap().0, 0, "and is counted nowhere");
}

/// A connection of the workload to its friend.
fn connect(both: &Both, port: u16) {
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    assert_eq!(both.sends(&frame(own, friend, segment(port, 80, tcp::SYN))), ALLOW);
    assert_eq!(both.receives(OTHER, &frame(friend, own, segment(80, port, tcp::SYN | tcp::ACK))), ALLOW);
    assert_eq!(both.sends(&frame(own, friend, segment(port, 80, tcp::ACK))), ALLOW);
}

#[test]
fn the_oldest_half_open_flow_gives_way_and_what_is_established_stays() {
    let Some(mut both) = Both::new(&Scene { flows: limits::FLOWS, ..Scene::default() }) else { return };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let syn = |port: u16| frame(own, friend, segment(port, 80, tcp::SYN));
    let places = (limits::half_open(limits::FLOWS) / 2) as u16;
    let opens = |both: &Both, port| assert!(both.node.run(Direction::Egress, 1, &syn(port), 1).unwrap().0);
    let known = |both: &Both| -> std::collections::BTreeSet<u16> {
        both.node.flows().unwrap().iter().map(|(key, _)| key.local_port()).collect()
    };
    connect(&both, 1);
    assert!(both.node.half_open(Direction::Egress).unwrap().iter().all(|key| *key == FlowKey::NONE), "it has left");
    (2..places + 2).for_each(|port| opens(&both, port));
    assert_eq!(known(&both), (1..places + 2).collect(), "the connection has left its place to the last one");
    (places + 2..places + 12).for_each(|port| opens(&both, port));
    let left = known(&both);
    assert!(left.contains(&1) && !left.contains(&11) && left.contains(&12), "ten more");
    assert_eq!(left.len(), usize::from(places) + 1);
    // A flow that was freed by its age has left its place.
    let all = SweepArguments { tick_shift: 0, ..SWEEP };
    while both.node.sweep(all).unwrap() != 0 {}
    assert!(both.node.half_open(Direction::Egress).unwrap().iter().all(|key| *key == FlowKey::NONE));
    assert_eq!((known(&both).len(), both.node.quota().unwrap().0), (0, 0));
    both.forget_flows();
    assert!(both.node.half_open(Direction::Ingress).unwrap().iter().all(|key| *key == FlowKey::NONE));
}

#[test]
fn beyond_its_reserve_a_workload_takes_from_the_pool() {
    let Some(mut both) = Both::new(&Scene::default()) else { return };
    both.node.set_pool(2, 3).unwrap();
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let node = |both: &Both, direction, source: &str, destination: &str, ports: [u16; 2], flags| {
        let frame = frame(source, destination, segment(ports[0], ports[1], flags));
        both.node.verdict_of(direction, OTHER, &frame).unwrap()
    };
    let connect = |both: &Both, port| {
        [
            node(both, Direction::Egress, own, friend, [port, 80], tcp::SYN),
            node(both, Direction::Ingress, friend, own, [80, port], tcp::SYN | tcp::ACK),
            node(both, Direction::Egress, own, friend, [port, 80], tcp::ACK),
        ]
    };
    for (port, pool) in [(1, 0), (2, 0), (3, 1), (4, 2), (5, 3)] {
        assert_eq!(connect(&both, port), [ALLOW; 3], "port {port}");
        assert_eq!(both.node.pool().unwrap(), pool);
    }
    let full = Verdict::Deny(Reason::FlowTableFull);
    assert_eq!(node(&both, Direction::Egress, own, friend, [6, 80], tcp::SYN), full);
    assert_eq!(node(&both, Direction::Ingress, friend, own, [9, 80], tcp::SYN), ALLOW, "its other reserve is its own");
    let (count, limit, _) = both.node.quota().unwrap();
    assert_eq!((count, both.node.shares().unwrap()), (5, [0, 5]));
    assert_eq!(limit, 1000);
    // The workload is gone: what it took goes back.
    both.node.retire().unwrap();
    while both.node.sweep(SWEEP).unwrap() != 0 {}
    assert_eq!((both.node.pool().unwrap(), both.node.shares().unwrap()), (0, [0; 2]));
}

#[test]
fn an_icmp_error_passes_with_the_flow_that_it_quotes() {
    for family in 0..2 {
        let Some(both) = Both::new(&Scene::default()) else {
            return;
        };
        let (own, friend) = (who::WORKLOAD[family], who::FRIEND[family]);
        let router = who::STRANGER[family];
        let sent = frame(own, friend, segment(40_000, 80, tcp::SYN));
        let error = |from: &str, to: &str, quoted: &[u8]| {
            Frame {
                payload: quoted,
                ..Frame::new(
                    ip(from),
                    ip(to),
                    Transport::Icmp { kind: if family == 0 { 3 } else { 1 }, code: 1, rest: [0; 4] },
                )
            }
            .bytes()
        };
        assert_eq!(both.receives(OTHER, &error(router, own, &sent[14..])), NO_RULE, "no flow yet");
        assert_eq!(both.sends(&sent), ALLOW);
        assert_eq!(both.receives(OTHER, &error(router, own, &sent[14..])), ALLOW);
        let header = if family == 0 { 20 } else { 40 };
        assert_eq!(
            both.receives(OTHER, &error(router, own, &sent[14..14 + header + 7])),
            NO_RULE,
            "too short to hold what makes a flow"
        );
        let other = frame(own, friend, segment(40_001, 80, tcp::SYN));
        assert_eq!(both.receives(OTHER, &error(router, own, &other[14..])), NO_RULE, "another flow");
        let received = frame(friend, own, segment(80, 40_000, tcp::ACK));
        assert_eq!(both.sends(&error(own, friend, &received[14..])), ALLOW, "an error about what it got");
        assert_eq!(
            both.sends(&error(own, router, &received[14..])),
            NO_RULE,
            "not to anybody else than who had sent it"
        );
    }
}

#[test]
fn an_echo_id_cannot_be_turned_round() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let reply = |id: u8| Transport::Icmp { kind: 0, code: 0, rest: [0, id, 0, 1] };
    assert_eq!(both.sends(&frame(own, friend, Transport::echo_request(true, 9))), ALLOW);
    assert_eq!(both.receives(OTHER, &frame(friend, own, reply(9))), ALLOW, "its own id comes back");
    assert_eq!(both.receives(OTHER, &frame(friend, own, reply(8))), NO_RULE, "no other");
    assert_eq!(both.sends(&frame(own, friend, reply(9))), NO_RULE, "nobody has asked the workload");
}

#[test]
fn rst_and_fin_shorten_the_limit_and_later_segments_restore_it() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let out = |flags| frame(own, friend, segment(40_000, 80, flags));
    let back = |flags| frame(friend, own, segment(80, 40_000, flags));
    connect(&both, 40_000);
    let bits = || only_flow(&both).word.state() & !state::ROLE;
    let live = state::REPLIED | state::ESTABLISHED;
    both.receives(OTHER, &back(tcp::RST)).into_result().unwrap();
    assert_eq!(bits(), live | state::ASKED_PEER, "not what the workload expects");
    both.receives(OTHER, &back(tcp::ACK)).into_result().unwrap();
    assert_eq!(bits(), live);
    let numbers = [0x0102_0305; 2];
    let reset = Frame { numbers, ..Frame::new(ip(friend), ip(own), segment(80, 40_000, tcp::RST)) }.bytes();
    both.receives(OTHER, &reset).into_result().unwrap();
    assert_eq!(bits(), live | state::ENDED);
    both.receives(OTHER, &back(tcp::ACK)).into_result().unwrap();
    assert_eq!(bits(), live, "who goes on has not ended it");
    both.sends(&out(tcp::FIN | tcp::ACK)).into_result().unwrap();
    both.receives(OTHER, &back(tcp::FIN | tcp::ACK)).into_result().unwrap();
    assert_eq!(bits(), live | state::FIN_LOCAL | state::FIN_PEER);
    both.sends(&out(tcp::ACK)).into_result().unwrap();
    assert_eq!(bits(), live | state::FIN_LOCAL | state::FIN_PEER, "last segments pass");
    both.sends(&out(tcp::SYN)).into_result().unwrap();
    assert_eq!(bits(), live, "a new SYN takes the entry over");
}

#[test]
fn connections_older_than_the_attach_survive_in_their_role() {
    let mut scene = Scene::default();
    // The workload may be asked on port 80, and may ask nobody.
    scene.endpoint.rows = [[Row(0), Row(0)]; 2];
    scene.endpoint.window_end = u64::MAX;
    let Some(mut both) = Both::new(&scene) else { return };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    let ack = frame(own, friend, segment(80, 50_000, tcp::ACK));
    assert_eq!(both.sends(&ack), ALLOW, "only the server writes");
    assert_eq!(only_flow(&both).word.role(), Some(Role::PeerOpened));
    both.forget_flows();
    for (why, flags) in [("a SYN+ACK answers a new SYN", tcp::SYN | tcp::ACK), ("an RST", tcp::RST)] {
        assert_eq!(both.sends(&frame(own, friend, segment(80, 50_000, flags))), NO_RULE, "{why}");
    }
    assert_eq!(
        both.sends(&frame(own, who::STRANGER[0], segment(80, 50_000, tcp::ACK))),
        NO_RULE,
        "policy must allow it in that role"
    );
    scene.endpoint.window_end = 1;
    let Some(both) = Both::new(&scene) else { return };
    assert_eq!(both.sends(&ack), NO_RULE, "the window is over");
}

#[test]
fn a_reused_element_shows_by_its_tag() {
    let Some(mut both) = Both::new(&Scene::default()) else {
        return;
    };
    let (own, friend) = (who::WORKLOAD[0], who::FRIEND[0]);
    assert_eq!(both.sends(&frame(own, friend, segment(40_000, 80, tcp::SYN))), ALLOW);
    let (key, flow) = both.node.flows().unwrap()[0];
    let late = FlowWord::new((flow.word.0 >> 32) as u32, key.tag() ^ 1, flow.word.state());
    both.node.set_flow(&key, Flow { word: late, ..flow }).unwrap();
    let reply = frame(friend, own, segment(80, 40_000, tcp::ACK));
    let verdict = both.node.verdict_of(Direction::Ingress, OTHER, &reply).unwrap();
    assert_eq!(verdict, NO_RULE, "a word of another key vouches for nothing");
}
