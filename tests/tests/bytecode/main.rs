//! T1: runs the loaded programs by `BPF_PROG_TEST_RUN`, and each case also by `datapath::run` over ordinary memory.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests")]

mod cases;
mod denials;
mod flows;
mod guard;
mod link;
mod long;
mod random;
mod shapes;
mod sweep;
mod verdicts;

use enforcer_common::{
    id::{Direction, Ifindex},
    verdict::Verdict,
    work::Meta,
};
use enforcer_tests::bytecode::{
    memory::Memory,
    node::Node,
    scene::{LO, Scene},
};

/// A scene in the kernel and in memory, of which every verdict must be the same.
pub(crate) struct Both {
    pub(crate) node: Node,
    pub(crate) memory: Memory,
}

impl Both {
    /// `None`: this tier is skipped, on request alone.
    pub(crate) fn new(scene: &Scene) -> Option<Self> {
        if std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1") {
            eprintln!("skipped: ENFORCER_SKIP_PRIV=1");
            return None;
        }
        Some(Self {
            node: Node::new(scene).expect("T1 needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and the bpf object"),
            memory: Memory::new(scene),
        })
    }

    pub(crate) fn verdict_of(&self, direction: Direction, from: u32, frame: &[u8]) -> Verdict {
        let meta = Meta { ifindex: Ifindex(LO), ingress_ifindex: Ifindex(from), vlan: false };
        let verdict = self.node.verdict_of(direction, from, frame).unwrap();
        let (expected, _) = self.memory.verdict_of(direction, &meta, frame);
        assert_eq!(verdict, expected, "the kernel's verdict and that of memory differ");
        verdict
    }

    pub(crate) fn sends(&self, frame: &[u8]) -> Verdict {
        self.verdict_of(Direction::Egress, LO, frame)
    }

    pub(crate) fn receives(&self, from: u32, frame: &[u8]) -> Verdict {
        self.verdict_of(Direction::Ingress, from, frame)
    }

    pub(crate) fn forget_flows(&mut self) {
        self.node.forget_flows().unwrap();
        self.memory.forget_flows();
    }
}

#[test]
fn the_verifier_is_far_from_its_limit() {
    let Some(both) = Both::new(&Scene::default()) else {
        return;
    };
    for name in enforcer_tests::bytecode::object::PROGRAMS {
        let info = both.node.program(name).unwrap().info().unwrap();
        let verified = info.verified_instruction_count().unwrap();
        println!("{name}: {verified} instructions verified, {} bytes", info.size_jitted());
        let most = match name {
            "guard" => 10_000,
            "closed" => 100,
            _ => 300_000,
        };
        assert!(verified < most, "{name}: {verified}, and the bound is {most}");
    }
}
