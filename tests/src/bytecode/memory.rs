//! The tables of a scene in ordinary memory. The loaded programs must agree with them.

use std::{cell::RefCell, collections::HashMap, sync::atomic::Ordering::Relaxed};

use enforcer_common::{
    datapath,
    decide::AskPolicy,
    endpoint::Endpoint,
    flow_key::FlowKey,
    flow_state::{FlowValue, FlowWord, Home},
    follow::Follow,
    home::HomeKey,
    icmp_error::FindQuoted,
    id::{Address, Direction, Ifindex, PolicyWord, QuotaPlace, Slot},
    image::{AddressEntry, Line, ReadImage},
    judge::JudgeWork,
    quota::Quota,
    tables::{Bounds, Clock, Devices, Flows, Homes, PolicyTables},
    verdict::{Reason, Verdict},
    work::{Meta, Work},
};

use super::scene::Scene;
use crate::packet::Bytes;

/// A scene in memory.
pub struct Memory {
    scene: Scene,
    lines: Vec<Line>,
    addresses: HashMap<Address, AddressEntry>,
    flows: RefCell<HashMap<FlowKey, &'static FlowValue>>,
    quota: Quota,
}

impl Memory {
    /// Tables of a scene.
    pub fn new(scene: &Scene) -> Self {
        Self {
            lines: scene.image(),
            addresses: scene.addresses().into_iter().collect(),
            scene: scene.clone(),
            flows: RefCell::default(),
            quota: Quota { limit: scene.quota.into(), reserve: u32::MAX.into(), ..Quota::default() },
        }
    }

    /// Judges a frame.
    pub fn verdict_of(&self, direction: Direction, meta: &Meta, frame: &[u8]) -> (Verdict, Work) {
        let mut work = Work::EMPTY;
        let verdict = datapath::run(&self, direction, meta, &Bytes(frame), &mut work);
        (verdict, work)
    }

    /// Judges a frame whose headers cannot be read.
    pub fn judge_unreadable(&self, direction: Direction, meta: &Meta) -> (Verdict, Work) {
        let mut work = Work::EMPTY;
        let verdict = datapath::unreadable(&self, direction, meta, &mut work);
        (verdict, work)
    }

    /// Forgets every flow.
    pub fn forget_flows(&self) {
        self.flows.borrow_mut().clear();
        self.quota.flows.iter().for_each(|flows| flows.store(0, Relaxed));
    }
}

impl<'a> PolicyTables for &'a Memory {
    type Image = &'a Memory;

    fn word(&self) -> PolicyWord {
        self.scene.word
    }

    fn image(&self, _: Slot) -> Option<Self::Image> {
        Some(self)
    }

    fn judges_backends(&self) -> bool {
        false
    }
}

impl Devices for &Memory {
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        (ifindex == self.scene.endpoint.ifindex).then_some(&self.scene.endpoint)
    }
}

impl Homes for &Memory {
    fn has_home(&self, key: &HomeKey) -> bool {
        self.scene.homes().contains(key)
    }
}

impl Flows for &Memory {
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue> {
        self.flows.borrow().get(key).copied()
    }

    fn insert(&self, key: &FlowKey, flow: &mut FlowValue) -> Result<bool, Reason> {
        let share = FlowWord(flow.word.load(Relaxed)).role().ok_or(Reason::Internal)?.direction();
        self.quota.has_room(share, None)?;
        let mut flows = self.flows.borrow_mut();
        let known = flows.contains_key(key);
        if flows.len() >= self.scene.flows as usize && !known {
            return Err(Reason::FlowTableFull);
        }
        // Leaked: a reference to a flow outlives the borrow of the table, and a test's flows are few.
        flows.entry(*key).or_insert_with(|| {
            Box::leak(Box::new(FlowValue {
                word: flow.word.load(Relaxed).into(),
                last_seen: flow.last_seen.load(Relaxed).into(),
                ingress: flow.ingress.load(Relaxed).into(),
                home: flow.home,
                mark: flow.mark.load(Relaxed).into(),
                acknowledged: flow.acknowledged.each_ref().map(|number| number.load(Relaxed).into()),
                pad: flow.pad,
            }))
        });
        Ok(!known)
    }

    fn take(&self, _: QuotaPlace, share: Direction) -> Result<(), Reason> {
        self.quota.take(share, None)
    }

    fn give(&self, _: QuotaPlace, share: Direction) {
        self.quota.give(share, None);
    }

    fn settle(&self, _: &FlowKey, _: Home) {}
}

impl Bounds for &Memory {
    fn error_bytes(&self) -> u32 {
        0
    }
}

impl Clock for &Memory {
    fn tick(&self) -> u32 {
        1
    }

    fn boot_time(&self) -> u64 {
        1
    }
}

// The parts run in line.
impl AskPolicy for &Memory {}
impl Follow for &Memory {}
impl JudgeWork for &Memory {}
impl FindQuoted for &Memory {}

impl ReadImage for Memory {
    fn line(&self, index: u32) -> Option<&Line> {
        self.lines.get(index as usize)
    }

    fn address(&self, address: &Address) -> Option<AddressEntry> {
        self.addresses.get(address).copied()
    }
}
