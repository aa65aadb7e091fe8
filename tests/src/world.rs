//! The tables of the datapath in ordinary memory: what the kernel keeps in maps.
//!
//! Input: a snapshot and the image that was compiled for it. Output: the tables by which frames are judged.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use enforcer::compile::Image;
use enforcer::workload::model::{LocalWorkload, Snapshot, WorkloadKey};
use enforcer_common::datapath;
use enforcer_common::decide::AskPolicy;
use enforcer_common::endpoint::Endpoint;
use enforcer_common::flow_key::FlowKey;
use enforcer_common::flow_state::{FlowValue, FlowWord, Home};
use enforcer_common::follow::Follow;
use enforcer_common::half_open::{claim, to_give_way};
use enforcer_common::home::{HomeKey, Station};
use enforcer_common::icmp_error::FindQuoted;
use enforcer_common::id::{
    Address, Direction, Ifindex, IncarnationId, OwnerId, PolicyWord, QuotaPlace, Revision, Row, Slot,
};
use enforcer_common::judge::JudgeWork;
use enforcer_common::limits::OWN_ADDRESSES;
use enforcer_common::live;
use enforcer_common::opaque::Flag;
use enforcer_common::quota::Quota;
use enforcer_common::tables::{Bounds, Clock, Devices, Flows, Homes, PolicyTables};
use enforcer_common::verdict::{Reason, Verdict};
use enforcer_common::work::{Meta, Work};

use crate::packet::Bytes;

/// What becomes of workloads that nobody has named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unknown {
    /// Closed.
    Strict,
    /// Judged by no policy.
    Open,
}

/// Flow table, endpoints, homes and images of one node.
pub struct MemoryWorld {
    /// The policy in force.
    pub word: PolicyWord,
    /// Clock of about one second a tick.
    pub tick: u32,
    /// CLOCK_BOOTTIME in ns.
    pub boot_time: u64,
    /// Flows that fit.
    pub flow_limit: usize,
    /// Half-open flows of one direction that fit.
    pub half_open_limit: usize,
    /// Established flows of one direction that a workload may have.
    pub share_limit: u32,
    /// Bytes that a quoting ICMP error may have; 0: as many as its family permits.
    pub error_bytes: u32,
    /// What is sent to a Service is judged once more where the node has translated it.
    pub judges_backends: bool,
    images: [Option<Image>; 2],
    endpoints: HashMap<Ifindex, Endpoint>,
    bridges: Vec<Ifindex>,
    homes: HashSet<HomeKey>,
    flows: FlowTable,
    /// Keys and places of half-open flows, oldest first, by direction.
    half_open: RefCell<[VecDeque<(FlowKey, u32)>; 2]>,
    quotas: RefCell<HashMap<QuotaPlace, Quota>>,
    live: Cell<usize>,
    next_owner: u32,
}

impl MemoryWorld {
    /// A node without policy, endpoints and flows. `bridges`: devices above the veths of all workloads.
    pub fn new(bridges: impl IntoIterator<Item = u32>) -> Self {
        Self {
            word: PolicyWord::default(),
            tick: 1,
            boot_time: 1,
            flow_limit: FlowTable::SLOTS / 2,
            half_open_limit: FlowTable::SLOTS / 8,
            share_limit: u32::MAX,
            error_bytes: 0,
            judges_backends: false,
            images: [None, None],
            endpoints: HashMap::new(),
            bridges: bridges.into_iter().map(Ifindex).collect(),
            homes: HashSet::new(),
            flows: FlowTable::new(),
            half_open: RefCell::default(),
            quotas: RefCell::default(),
            live: Cell::new(0),
            next_owner: 1,
        }
    }

    /// Puts an image in force, as a swap does: the other slot, the rows of every endpoint, then the word.
    pub fn install(&mut self, snapshot: &Snapshot, image: Image, unknown: Unknown) {
        let next = PolicyWord { revision: Revision(self.word.revision.0 + 1), epoch: self.word.epoch + 1 };
        let slot = next.slot();
        for (key, workload) in &snapshot.local {
            for ifindex in workload.endpoints.keys() {
                if !self.endpoints.contains_key(ifindex) {
                    let endpoint = self.endpoint(*ifindex, workload);
                    self.endpoints.insert(*ifindex, endpoint);
                }
                for address in workload.addresses.keys().chain(workload.disputed.keys()) {
                    self.settle(Address::from(*address), *ifindex);
                }
                if let Some(endpoint) = self.endpoints.get_mut(ifindex) {
                    set_rows(endpoint, slot, *key, workload, &image, unknown);
                }
            }
        }
        self.homes.extend(snapshot.beside.uplinks.iter().map(|uplink| HomeKey::out(*uplink)));
        for (veth, broadcasts) in &snapshot.beside.broadcasts {
            let all = broadcasts.iter().map(|address| HomeKey::for_all(IpAddr::from(*address).into(), *veth));
            self.homes.extend(all);
        }
        let stations = snapshot.beside.stations.iter();
        self.homes.extend(stations.map(|(veth, mac)| HomeKey::station(Station::of(*mac), *veth)));
        self.images[slot.index()] = Some(image);
        self.word = next;
    }

    /// Makes an address at home on a veth, and on the bridges.
    pub fn settle(&mut self, address: Address, veth: Ifindex) {
        let devices = self.bridges.iter().copied().chain([veth, HomeKey::ANYWHERE]);
        self.homes.extend(devices.map(|device| HomeKey::new(address, device)));
    }

    fn endpoint(&mut self, ifindex: Ifindex, workload: &LocalWorkload) -> Endpoint {
        let mut endpoint = Endpoint {
            ifindex,
            quota: QuotaPlace(ifindex.0),
            id: IncarnationId(self.owner().0),
            owned: workload.addresses.len() as u32,
            ..Endpoint::FREE
        };
        assert!(workload.addresses.len() <= OWN_ADDRESSES, "more addresses than an endpoint holds");
        for (place, address) in workload.addresses.keys().enumerate() {
            endpoint.owners[place] = self.owner();
            endpoint.addresses[place] = Address::from(*address);
        }
        endpoint
    }

    fn owner(&mut self) -> OwnerId {
        self.next_owner += 1;
        OwnerId(self.next_owner)
    }

    /// An endpoint, to change what a test needs.
    pub fn endpoint_mut(&mut self, ifindex: Ifindex) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(&ifindex)
    }

    /// Forgets all flows.
    pub fn forget_flows(&mut self) {
        self.flows.clear();
        self.half_open.take();
        self.quotas.take();
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.flows.values().len()
    }

    /// Established flows of a workload's device, by the direction in which they were opened.
    pub fn established(&self, ifindex: Ifindex, share: Direction) -> u32 {
        self.with_quota(QuotaPlace(ifindex.0), |quota| quota.of(share).load(Relaxed))
    }

    fn with_quota<T>(&self, place: QuotaPlace, then: impl FnOnce(&Quota) -> T) -> T {
        let (limit, mut quotas) = (self.share_limit, self.quotas.borrow_mut());
        // All is reserved: nothing takes from a pool.
        let new = || Quota { reserve: u32::MAX.into(), ..Quota::default() };
        let quota = quotas.entry(place).or_insert_with(new);
        quota.limit.store(limit, Relaxed);
        then(quota)
    }

    /// Judges a frame as the program of that direction would. What the short way lets pass goes the long way as well: it
    /// must pass there too and leave the flows as they are.
    pub fn verdict_of(&self, direction: Direction, meta: &Meta, frame: &[u8]) -> (Verdict, Work) {
        let (mut work, mut absent) = (Work::EMPTY, Flag::lowered());
        let live = live::look(&self, direction, meta, &Bytes(frame), &mut absent);
        let flows = live.then(|| self.flows.values());
        let verdict = datapath::judge_frame(&self, direction, meta, &Bytes(frame), absent.is_raised(), &mut work);
        if live {
            assert_eq!(verdict, Verdict::Allow, "{direction:?} {meta:?} {frame:02x?}");
            assert_eq!(Some(self.flows.values()), flows, "{direction:?} {meta:?} {frame:02x?}");
            self.live.set(self.live.get() + 1);
        }
        (verdict, work)
    }

    /// How many frames the short way has let pass.
    pub fn live_count(&self) -> usize {
        self.live.get()
    }

    /// A frame that a workload sends.
    pub fn sends(&self, ifindex: Ifindex, frame: &[u8]) -> Verdict {
        let meta = Meta { ifindex, ingress_ifindex: ifindex, vlan: false };
        self.verdict_of(Direction::Egress, &meta, frame).0
    }

    /// A frame that is about to reach a workload; `from` is the device by which it came, [`Ifindex::NONE`] for the node itself.
    pub fn receives(&self, ifindex: Ifindex, from: Ifindex, frame: &[u8]) -> Verdict {
        let meta = Meta { ifindex, ingress_ifindex: from, vlan: false };
        self.verdict_of(Direction::Ingress, &meta, frame).0
    }
}

fn set_rows(
    endpoint: &mut Endpoint,
    slot: Slot,
    key: WorkloadKey,
    workload: &LocalWorkload,
    image: &Image,
    unknown: Unknown,
) {
    let routes = if workload.routes { Endpoint::ROUTES } else { 0 };
    (endpoint.flags[slot.index()], endpoint.rows[slot.index()]) = match (&workload.identity, unknown) {
        (Some(_), _) => (routes, [Direction::Ingress, Direction::Egress].map(|direction| image.row(key, direction))),
        (None, Unknown::Strict) => (Endpoint::UNKNOWN, [Row::NONE; 2]),
        (None, Unknown::Open) if workload.lost_its_name() => (Endpoint::UNKNOWN, [Row::NONE; 2]),
        (None, Unknown::Open) => (Endpoint::ROUTES, [Row::NOT_ISOLATED; 2]),
    };
}

impl<'a> PolicyTables for &'a MemoryWorld {
    type Image = &'a Image;

    fn word(&self) -> PolicyWord {
        self.word
    }

    fn image(&self, slot: Slot) -> Option<Self::Image> {
        self.images[slot.index()].as_ref()
    }

    fn judges_backends(&self) -> bool {
        self.judges_backends
    }
}

impl Devices for &MemoryWorld {
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        self.endpoints.get(&ifindex)
    }
}

impl Homes for &MemoryWorld {
    fn has_home(&self, key: &HomeKey) -> bool {
        self.homes.contains(key)
    }
}

impl Flows for &MemoryWorld {
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue> {
        self.flows.find(key)
    }

    fn insert(&self, key: &FlowKey, flow: &mut FlowValue) -> Result<bool, Reason> {
        let share = FlowWord(flow.word.load(Relaxed)).role().ok_or(Reason::Internal)?.direction();
        self.with_quota(flow.home.quota(), |quota| quota.has_room(share, None))?;
        if self.flow(key).is_some() {
            return Ok(false);
        }
        if self.flow_count() >= self.flow_limit {
            return Err(Reason::FlowTableFull);
        }
        let ring = &mut self.half_open.borrow_mut()[share as usize];
        let place = ring.back().map_or(0, |(_, last)| last + 1);
        flow.home = Home::new(flow.home.quota(), place);
        self.flows.add(key, flow);
        ring.push_back((*key, place));
        if ring.len() > self.half_open_limit
            && let Some((oldest, place)) = ring.pop_front()
            && let Some(flow) = self.flow(&oldest)
            && let Some(word) = to_give_way(flow, &oldest, place)
        {
            assert!(claim(flow, word), "nobody else writes");
        }
        Ok(true)
    }

    fn take(&self, place: QuotaPlace, share: Direction) -> Result<(), Reason> {
        self.with_quota(place, |quota| quota.take(share, None))
    }

    fn give(&self, place: QuotaPlace, share: Direction) {
        self.with_quota(place, |quota| quota.give(share, None));
    }

    fn settle(&self, key: &FlowKey, home: Home) {
        for ring in self.half_open.borrow_mut().iter_mut() {
            ring.retain(|(other, place)| (other, *place) != (key, home.half_open()));
        }
    }
}

impl Bounds for &MemoryWorld {
    fn error_bytes(&self) -> u32 {
        self.error_bytes
    }
}

impl Clock for &MemoryWorld {
    fn tick(&self) -> u32 {
        self.tick
    }

    fn boot_time(&self) -> u64 {
        self.boot_time
    }
}

// The parts run in line.
impl AskPolicy for &MemoryWorld {}
impl Follow for &MemoryWorld {}
impl JudgeWork for &MemoryWorld {}
impl FindQuoted for &MemoryWorld {}

/// An open table of cells that are written once: references stay valid while flows are added.
struct FlowTable {
    slots: Vec<OnceCell<(FlowKey, FlowValue)>>,
    used: RefCell<Vec<usize>>,
}

impl FlowTable {
    const SLOTS: usize = 1 << 12;

    fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(OnceCell::new).take(Self::SLOTS).collect(),
            used: RefCell::new(Vec::new()),
        }
    }

    /// Places of a key, in the order in which they are tried.
    fn places(key: &FlowKey) -> impl Iterator<Item = usize> {
        let first = key.tag() as usize;
        (first..first + Self::SLOTS).map(|place| place % Self::SLOTS)
    }

    fn find(&self, key: &FlowKey) -> Option<&FlowValue> {
        for place in Self::places(key) {
            let (known, value) = self.slots[place].get()?;
            if known == key && value.word.load(Relaxed) != FlowWord::FREED.0 {
                return Some(value);
            }
        }
        None
    }

    fn add(&self, key: &FlowKey, value: &FlowValue) {
        let copy = || FlowValue {
            word: value.word.load(Relaxed).into(),
            last_seen: value.last_seen.load(Relaxed).into(),
            ingress: value.ingress.load(Relaxed).into(),
            home: value.home,
            mark: value.mark.load(Relaxed).into(),
            acknowledged: value.acknowledged.each_ref().map(|number| number.load(Relaxed).into()),
            pad: value.pad,
        };
        for place in Self::places(key) {
            if self.slots[place].get().is_none() {
                let (cell, entry) = (&self.slots[place], (*key, copy()));
                assert!(cell.set(entry).is_ok(), "the cell was empty");
                self.used.borrow_mut().push(place);
                return;
            }
        }
    }

    /// Everything in the table, in the order in which it came: the words of each flow.
    fn values(&self) -> Vec<(u64, [u32; 5])> {
        let used = self.used.borrow();
        let flows = used.iter().filter_map(|place| self.slots[*place].get()).map(|(_, flow)| {
            let [to_workload, from_workload] = flow.acknowledged.each_ref();
            let words = [&flow.last_seen, &flow.ingress, &flow.mark, to_workload, from_workload];
            (flow.word.load(Relaxed), words.map(|word| word.load(Relaxed)))
        });
        flows.filter(|(word, _)| *word != FlowWord::FREED.0).collect()
    }

    fn clear(&mut self) {
        for place in self.used.get_mut().drain(..) {
            self.slots[place] = OnceCell::new();
        }
    }
}
