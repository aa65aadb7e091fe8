//! Raw frames that must not arrive. Without enforcement each one arrives; with it each one is dropped and counted by its
//! reason.

use std::time::{Duration, Instant};

use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;
use enforcer_tests::net::wire::{Inject, PATIENCE, Wire};
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::nonce;

/// A frame and how it is to be dropped.
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) nonce: [u8; 24],
    pub(crate) frame: Vec<u8>,
    pub(crate) direction: Direction,
    pub(crate) reason: Reason,
}

impl Attack {
    /// `build` puts the nonce into the frame.
    pub(crate) fn new(
        name: impl Into<String>,
        direction: Direction,
        reason: Reason,
        build: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Self {
        let nonce = nonce();
        Self { name: name.into(), nonce, frame: build(&nonce), direction, reason }
    }
}

/// Each arrives: the positive control.
pub(crate) fn arrive(sender: &impl Inject, victim: &Wire, attacks: &[Attack]) {
    reach("positive control", sender, victim, attacks);
}

/// Each arrives.
pub(crate) fn reach(when: &str, sender: &impl Inject, victim: &Wire, attacks: &[Attack]) {
    for attack in attacks {
        sender.inject(&attack.frame).unwrap();
    }
    for attack in attacks {
        assert!(victim.wait(PATIENCE, |frame| frame.holds(&attack.nonce)), "{when}: {}", attack.name);
    }
    victim.frames().clear();
}

/// None arrives, and each is counted.
pub(crate) fn fail(stage: &Stage, when: &str, sender: &impl Inject, victim: &Wire, attacks: &[Attack]) {
    let mut wrong = Vec::new();
    for attack in attacks {
        let before = stage.denied(attack.direction, attack.reason);
        sender.inject(&attack.frame).unwrap();
        let (mut counted, end) = (0, Instant::now() + PATIENCE);
        while counted == 0 && Instant::now() < end {
            counted = stage.denied(attack.direction, attack.reason) - before;
            if counted == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // What the kernel itself sends now and then may be denied by policy too.
        let exact = !matches!(attack.reason, Reason::NoRule | Reason::NotAddressed);
        if counted == 0 || exact && counted != 1 {
            let all: Vec<_> = stage.view().denied.into_iter().map(|(key, counts)| (key, counts.logged)).collect();
            wrong.push(format!("{}: counted {counted} times as {:?}; {all:?}", attack.name, attack.reason));
        }
    }
    // Once for all of them.
    victim.settle();
    for attack in attacks {
        let arrived = victim.peek(|frame| !frame.outgoing && frame.holds(&attack.nonce));
        if arrived > 0 {
            wrong.push(format!("{}: {arrived} arrived", attack.name));
        }
    }
    assert!(wrong.is_empty(), "{when}:\n  {}", wrong.join("\n  "));
}
