//! Tests with tables that take no new flow, either because they are full or so that a look at a packet leaves no trace.

use enforcer_common::datapath;
use enforcer_common::decide::AskPolicy;
use enforcer_common::endpoint::Endpoint;
use enforcer_common::flow_key::FlowKey;
use enforcer_common::flow_state::{FlowValue, Home};
use enforcer_common::follow::Follow;
use enforcer_common::home::HomeKey;
use enforcer_common::icmp_error::FindQuoted;
use enforcer_common::id::{Direction, Ifindex, PolicyWord, QuotaPlace, Slot};
use enforcer_common::judge::JudgeWork;
use enforcer_common::tables::{Bounds, Clock, Devices, Flows, Homes, PolicyTables};
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_common::work::{Meta, Work};
use enforcer_tests::packet::{Bytes, Frame};
use enforcer_tests::world::MemoryWorld;

/// Another world, but for new flows.
pub(crate) struct Refusing<'a> {
    world: &'a MemoryWorld,
    reason: Reason,
    /// It shows none of the flows that are there.
    blind: bool,
}

impl<'a> Refusing<'a> {
    /// There is no room.
    pub(crate) fn flows(world: &'a MemoryWorld, reason: Reason) -> Self {
        Self { world, reason, blind: false }
    }

    /// Nothing is there, and nothing stays.
    pub(crate) fn blind(world: &'a MemoryWorld) -> Self {
        Self { world, reason: Reason::FlowTableFull, blind: true }
    }

    /// Judges a frame that a device sends (`from` is `None`) or is to receive.
    pub(crate) fn verdict_of(&self, device: u32, from: Option<u32>, frame: &Frame<'_>) -> Verdict {
        self.look(device, from, frame).0
    }

    /// As `verdict_of`, with what was found on the way.
    pub(crate) fn look(&self, device: u32, from: Option<u32>, frame: &Frame<'_>) -> (Verdict, Work) {
        let direction = if from.is_some() { Direction::Ingress } else { Direction::Egress };
        let meta = Meta { ifindex: Ifindex(device), ingress_ifindex: Ifindex(from.unwrap_or(device)), vlan: false };
        let mut work = Work::EMPTY;
        let verdict = datapath::run(self, direction, &meta, &Bytes(&frame.bytes()), &mut work);
        (verdict, work)
    }
}

impl<'a> PolicyTables for Refusing<'a> {
    type Image = <&'a MemoryWorld as PolicyTables>::Image;

    fn word(&self) -> PolicyWord {
        PolicyTables::word(&self.world)
    }

    fn image(&self, slot: Slot) -> Option<Self::Image> {
        self.world.image(slot)
    }

    fn judges_backends(&self) -> bool {
        self.world.judges_backends()
    }
}

impl Devices for Refusing<'_> {
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        Devices::endpoint(&self.world, ifindex)
    }
}

impl Homes for Refusing<'_> {
    fn has_home(&self, key: &HomeKey) -> bool {
        self.world.has_home(key)
    }
}

impl Flows for Refusing<'_> {
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue> {
        Flows::flow(&self.world, key).filter(|_| !self.blind)
    }

    fn insert(&self, _: &FlowKey, _: &mut FlowValue) -> Result<bool, Reason> {
        Err(self.reason)
    }

    fn take(&self, _: QuotaPlace, _: Direction) -> Result<(), Reason> {
        Err(self.reason)
    }

    fn give(&self, place: QuotaPlace, share: Direction) {
        Flows::give(&self.world, place, share);
    }

    fn settle(&self, key: &FlowKey, home: Home) {
        Flows::settle(&self.world, key, home);
    }
}

impl Bounds for Refusing<'_> {
    fn error_bytes(&self) -> u32 {
        Bounds::error_bytes(&self.world)
    }
}

impl Clock for Refusing<'_> {
    fn tick(&self) -> u32 {
        Clock::tick(&self.world)
    }

    fn boot_time(&self) -> u64 {
        Clock::boot_time(&self.world)
    }
}

// The parts run in line.
impl AskPolicy for Refusing<'_> {}
impl Follow for Refusing<'_> {}
impl JudgeWork for Refusing<'_> {}
impl FindQuoted for Refusing<'_> {}
