//! Judges the cases of every example policy by the loaded programs over the compiled image. The workload under test is
//! behind `lo`: first the sender of the case, then its receiver.

use enforcer::compile::compile;
use enforcer_common::{
    endpoint::Endpoint,
    home::HomeKey,
    id::{Direction, Ifindex},
    verdict::Verdict,
};
use enforcer_tests::{
    bytecode::scene::{LO, PLACE, Scene, WORKLOAD},
    cases::{Expect, examples},
    packet::Frame,
    planned::{End, answer, end, resolved, transport},
    world::{MemoryWorld, Unknown},
};

use crate::Both;

/// A workload's endpoint, moved behind `lo`.
fn behind_lo(world: &mut MemoryWorld, end: &End) -> Option<Endpoint> {
    let (_, ifindex) = end.local?;
    let endpoint = *world.endpoint_mut(ifindex).unwrap();
    Some(Endpoint { ifindex: Ifindex(LO), quota: PLACE, id: WORKLOAD, ..endpoint })
}

#[test]
fn every_case_of_every_example_comes_out_as_it_says() {
    let Some(both) = Both::new(&Scene::default()) else { return };
    let mut node = both.node;
    let mut cases = 0;
    for example in examples().unwrap() {
        let resolved = resolved(&example);
        let image = compile(&resolved).unwrap();
        let mut world = MemoryWorld::new([]);
        world.install(resolved.snapshot(), image.clone(), Unknown::Strict);
        node.set_word(world.word).unwrap();
        node.install_tables(world.word.slot(), &image.lines, &image.addresses).unwrap();
        for (case, v4) in example.cases.iter().flat_map(|case| [(case, true), (case, false)]) {
            let what = format!("{}, {}: {}", example.name, if v4 { "IPv4" } else { "IPv6" }, case.why);
            let (from, to) = (end(&resolved, &case.from, v4), end(&resolved, &case.to, v4));
            let pairs = [&from, &to].map(|end| HomeKey::new(end.address.into(), Ifindex(end.device().0 + 100)));
            node.settle(pairs).unwrap();
            let opens = Frame::new(from.address, to.address, transport(case.port, v4)).bytes();
            let answers = Frame::new(to.address, from.address, answer(case.port, v4)).bytes();
            let mut verdict = (Verdict::Allow, None);
            for (own, direction, device) in
                [(&from, Direction::Egress, LO), (&to, Direction::Ingress, from.device().0 + 100)]
            {
                let Some(endpoint) = behind_lo(&mut world, own) else { continue };
                if verdict.0 != Verdict::Allow {
                    continue;
                }
                node.forget_flows().unwrap();
                node.set_endpoint(&endpoint).unwrap();
                let judged = node.verdict_of(direction, device, &opens).unwrap();
                verdict = (judged, (judged != Verdict::Allow).then_some(direction));
                if case.expect == Expect::Allow {
                    let (back, device) = match direction {
                        Direction::Egress => (Direction::Ingress, to.device().0 + 100),
                        Direction::Ingress => (Direction::Egress, LO),
                    };
                    let judged = node.verdict_of(back, device, &answers).unwrap();
                    assert_eq!(judged, Verdict::Allow, "{what}: its answer");
                }
            }
            let expected = match case.expect {
                Expect::Allow => (Verdict::Allow, None),
                Expect::Deny { reason, at } => (Verdict::Deny(reason), Some(at)),
            };
            assert_eq!(verdict, expected, "{what}");
            cases += 1;
        }
    }
    assert!(cases >= 100, "{cases} cases are too few to mean much");
}
