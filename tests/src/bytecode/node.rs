//! The loaded programs over maps that hold a scene.
//!
//! Input: a [`Scene`] and frames. Output: verdicts with their reasons, and the contents of the maps afterwards.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use enforcer::kernel::Sweep;
use enforcer_common::{
    denial::{BusyKey, Counts, WaySet},
    endpoint::Endpoint,
    event::DenialEvent,
    flow_key::FlowKey,
    flow_state::{FlowWord, Home, Role, state},
    half_open::{HalfOpen, first_place},
    home::HomeKey,
    id::{Address, Direction, PolicyWord, Slot},
    image::{AddressEntry, Line, Start},
    limits::{self, Global, START_LINES, map},
    packet::ProtocolClass,
    quota::Quota,
    schema,
    sweep::SweepArguments,
    verdict::{REASON_COUNT, REASONS, Reason, Verdict},
};

use super::{
    object,
    scene::{LO, OWNERS, PLACE, Scene, WORKLOAD, ip, who},
    sys,
};
use crate::packet::{Frame, Transport};

const TCX_NEXT: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// `ingress_ifindex`, `ifindex` of `struct __sk_buff`, in words.
const CONTEXT: [usize; 2] = [9, 10];

/// A flow as it lies in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// First word.
    pub word: FlowWord,
    /// Tick of the last packet.
    pub last_seen: u32,
    /// Device of the peer's side.
    pub ingress: u32,
    /// Place in `QUOTAS`, and among the half-open ones.
    pub home: Home,
    /// What it waits for.
    pub mark: u32,
    /// What each side last acknowledged, as it lies in the packet.
    pub acknowledged: [u32; 2],
}

impl Flow {
    fn to_words(self) -> [u64; 7] {
        let pair = |[low, high]: [u32; 2]| u64::from(low) | u64::from(high) << 32;
        let rest = [[self.last_seen, self.ingress], [self.home.0, self.mark], self.acknowledged].map(pair);
        [self.word.0, rest[0], rest[1], rest[2], 0, 0, 0]
    }

    fn from_words([word, second, third, fourth, ..]: [u64; 7]) -> Self {
        let high = |word: u64| (word >> 32) as u32;
        Self {
            word: FlowWord(word),
            last_seen: second as u32,
            ingress: high(second),
            home: Home(third as u32),
            mark: high(third),
            acknowledged: [fourth as u32, high(fourth)],
        }
    }
}

/// A value of `HALF_OPEN`.
#[derive(Clone, Copy)]
#[repr(C)]
struct HalfOpenWords(FlowKey, [u32; 2]);

// SAFETY: integers without padding, as long as `HalfOpen`.
unsafe impl aya::Pod for HalfOpenWords {}
const _: () = assert!(size_of::<HalfOpenWords>() == size_of::<HalfOpen>());

/// See the module.
pub struct Node {
    ebpf: Ebpf,
    sweep: Sweep,
}

/// A tick of the object's defaults, and a cap that no test reaches by chance.
pub const SWEEP: SweepArguments =
    SweepArguments { tick_shift: 8, tick_ms: 1024, cap: 16_384, left_ms: SweepArguments::NEVER };

/// The context of a run: a packet that is about to go through `lo`, and the device by which it came.
pub fn context(from: u32) -> [u8; 192] {
    let mut context = [0u8; 192];
    for (place, value) in CONTEXT.into_iter().zip([from, LO]) {
        context[place * 4..place * 4 + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}

impl Node {
    /// Loads the object and fills its maps.
    pub fn new(scene: &Scene) -> Result<Self> {
        let (ebpf, sweep) = object::load(scene.flows)?;
        let mut node = Self { ebpf, sweep };
        node.install(scene)?;
        Ok(node)
    }

    /// Puts a scene in force in the slot of its revision; flows stay.
    pub fn install(&mut self, scene: &Scene) -> Result<()> {
        self.install_tables(scene.word.slot(), &scene.image(), &scene.addresses())?;
        self.set_endpoint(&scene.endpoint)?;
        self.settle(scene.homes())?;
        let flows = self.quota()?.0;
        self.set_quota(flows, scene.quota, WORKLOAD.0)?;
        self.set_global(Global::Seed, 0x5eed)?;
        self.set_word(scene.word)
    }

    /// Adds devices by which packets of local workloads may come in.
    pub fn settle(&mut self, pairs: impl IntoIterator<Item = HomeKey>) -> Result<()> {
        let mut homes: HashMap<_, HomeKey, u32> = self.map_mut(map::HOMES)?.try_into()?;
        pairs.into_iter().try_for_each(|pair| Ok(homes.insert(pair, 1, 0)?))
    }

    /// Fills a slot with an image.
    pub fn install_tables(&mut self, slot: Slot, lines: &[Line], entries: &[(Address, AddressEntry)]) -> Result<()> {
        let map = sys::create_map(sys::ARRAY, 4, 64, lines.len() as u32, schema::IMAGE_LINES.flags)?;
        let mut image: Array<MapData, Line> = map.try_into()?;
        for (place, line) in lines.iter().enumerate() {
            image.set(place as u32, line, 0)?;
        }
        self.set_start(slot, lines)?;
        let map = sys::create_map(sys::HASH, 16, 4, entries.len() as u32, schema::IMAGE_ADDRESSES.flags)?;
        let mut addresses: HashMap<MapData, Address, AddressEntry> = map.try_into()?;
        for (address, entry) in entries {
            addresses.insert(address, entry, 0)?;
        }
        let mut images: ArrayOfMaps<_, Array<MapData, Line>> = self.map_mut(map::IMAGES)?.try_into()?;
        images.set(slot.number(), &image, 0)?;
        let mut outer: ArrayOfMaps<_, HashMap<MapData, Address, AddressEntry>> =
            self.map_mut(map::ADDRESSES)?.try_into()?;
        Ok(outer.set(slot.number(), &addresses, 0)?)
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.ebpf.map(name).with_context(|| format!("no map {name}"))
    }

    /// Stores the policy word.
    pub fn set_word(&mut self, word: PolicyWord) -> Result<()> {
        self.set_global(Global::Word, word.to_u64())
    }

    fn set_global(&mut self, place: Global, value: u64) -> Result<()> {
        let mut globals: Array<_, u64> = self.map_mut(map::GLOBALS)?.try_into()?;
        Ok(globals.set(place as u32, value, 0)?)
    }

    /// Writes the workload's endpoint.
    pub fn set_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let mut endpoints: Array<_, Endpoint> = self.map_mut(map::ENDPOINTS)?.try_into()?;
        Ok(endpoints.set(LO, endpoint, 0)?)
    }

    /// Puts another device's endpoint in the array's place of `lo`, and `lo`'s in the hash.
    pub fn displace_endpoint(&mut self, endpoint: &Endpoint, other: &Endpoint) -> Result<()> {
        self.set_endpoint(other)?;
        let mut more: HashMap<_, u32, Endpoint> = self.map_mut(map::ENDPOINTS_MORE)?.try_into()?;
        Ok(more.insert(LO, endpoint, 0)?)
    }

    /// Takes the images out, as no kernel ever sees it.
    pub fn break_images(&mut self) -> Result<()> {
        let map = sys::create_map(sys::ARRAY, 4, 64, 1, schema::IMAGE_LINES.flags)?;
        let image: Array<MapData, Line> = map.try_into()?;
        let mut images: ArrayOfMaps<_, Array<MapData, Line>> = self.map_mut(map::IMAGES)?.try_into()?;
        images.set(0, &image, 0)?;
        images.set(1, &image, 0)?;
        Slot::BOTH.into_iter().try_for_each(|slot| self.set_start(slot, &[]))
    }

    fn set_start(&mut self, slot: Slot, lines: &[Line]) -> Result<()> {
        let mut start = lines[..lines.len().min(START_LINES as usize)].to_vec();
        start.resize(START_LINES as usize, Line::ZERO);
        let start: Box<Start> = start.into_boxed_slice().try_into().expect("its length");
        let mut starts: Array<_, Start> = self.map_mut(map::IMAGE_STARTS)?.try_into()?;
        Ok(starts.set(slot.number(), start, 0)?)
    }

    /// Established flows of both shares, limit of each, and id of the workload's quota.
    pub fn quota(&self) -> Result<(u32, u32, u32)> {
        let [ingress, egress] = self.shares()?;
        let quotas: Array<_, [u32; 8]> = self.map(map::QUOTAS)?.try_into()?;
        let [_, _, limit, _, id, ..] = quotas.get(&PLACE.0, 0)?;
        Ok((ingress + egress, limit, id))
    }

    /// Established flows of the workload, by the direction in which they were opened.
    pub fn shares(&self) -> Result<[u32; 2]> {
        let quotas: Array<_, [u32; 8]> = self.map(map::QUOTAS)?.try_into()?;
        let [ingress, egress, ..] = quotas.get(&PLACE.0, 0)?;
        Ok([ingress, egress])
    }

    /// What is taken of the pool.
    pub fn pool(&self) -> Result<u32> {
        let quotas: Array<_, [u32; 8]> = self.map(map::QUOTAS)?.try_into()?;
        Ok(quotas.get(&Quota::POOL.0, 0)?[0])
    }

    /// Writes the workload's quota: `flows` that it opened. All of them are reserved.
    pub fn set_quota(&mut self, flows: u32, limit: u32, id: u32) -> Result<()> {
        let mut quotas: Array<_, [u32; 8]> = self.map_mut(map::QUOTAS)?.try_into()?;
        Ok(quotas.set(PLACE.0, [0, flows, limit, u32::MAX, id, 0, 0, 0], 0)?)
    }

    /// The workload is gone; its counts stay.
    pub fn retire(&mut self) -> Result<()> {
        let mut quotas: Array<_, [u32; 8]> = self.map_mut(map::QUOTAS)?.try_into()?;
        let mut own = quotas.get(&PLACE.0, 0)?;
        own[4] = 0;
        Ok(quotas.set(PLACE.0, own, 0)?)
    }

    /// Reserves only some flows of each direction, and gives the pool a size.
    pub fn set_pool(&mut self, reserve: u32, size: u32) -> Result<()> {
        let mut quotas: Array<_, [u32; 8]> = self.map_mut(map::QUOTAS)?.try_into()?;
        let mut own = quotas.get(&PLACE.0, 0)?;
        own[3] = reserve;
        quotas.set(PLACE.0, own, 0)?;
        Ok(quotas.set(Quota::POOL.0, [0, 0, size, 0, 0, 0, 0, 0], 0)?)
    }

    /// Keys of the half-open flows of a direction, by their place in its ring.
    pub fn half_open(&self, share: Direction) -> Result<Vec<FlowKey>> {
        let all = limits::half_open(limits::FLOWS);
        let first = first_place(share, all / 2 - 1);
        let ring: Array<_, HalfOpenWords> = self.map(map::HALF_OPEN)?.try_into()?;
        (first..first + all / 2).map(|place| Ok(ring.get(&place, 0)?.0)).collect()
    }

    /// Frees every place of the half-open flows.
    pub fn forget_half_open(&mut self) -> Result<()> {
        let mut ring: Array<_, HalfOpenWords> = self.map_mut(map::HALF_OPEN)?.try_into()?;
        let none = HalfOpenWords(FlowKey::NONE, [0; 2]);
        (0..limits::half_open(limits::FLOWS)).try_for_each(|place| Ok(ring.set(place, none, 0)?))
    }

    /// All flows.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let flows: HashMap<_, FlowKey, [u64; 7]> = self.map(map::FLOWS)?.try_into()?;
        flows.iter().map(|entry| entry.map(|(key, words)| (key, Flow::from_words(words))).map_err(Into::into)).collect()
    }

    /// Writes a flow.
    pub fn set_flow(&mut self, key: &FlowKey, flow: Flow) -> Result<()> {
        let mut flows: HashMap<_, FlowKey, [u64; 7]> = self.map_mut(map::FLOWS)?.try_into()?;
        Ok(flows.insert(key, flow.to_words(), 0)?)
    }

    /// Adds established flows that the workload opened, each of another port or to another peer, up to a number.
    pub fn establish(&mut self, count: u32) -> Result<()> {
        const PORTS: u32 = 60_000;
        let (mut present, limit, id) = self.quota()?;
        // The only clock that both sides share is the one in a flow that has just been written.
        let probe = Frame::new(ip(who::WORKLOAD[0]), ip(who::FRIEND[0]), Transport::syn(1, 80)).bytes();
        ensure!(self.run(Direction::Egress, LO, &probe, 1)?.0, "a flow to read the clock from");
        let probe = FlowKey::new(OWNERS[0], ProtocolClass::Tcp, 1, 80, &ip(who::FRIEND[0]).into());
        let epoch = self.epoch()?;
        let mut flows: HashMap<_, FlowKey, [u64; 7]> = self.map_mut(map::FLOWS)?.try_into()?;
        let now = Flow::from_words(flows.get(&probe, 0)?).last_seen;
        flows.remove(&probe)?;
        while present < count {
            let peer = IpAddr::from((0xc000_0200 + present / PORTS).to_be_bytes());
            let port = (1 + present % PORTS) as u16;
            let key = FlowKey::new(OWNERS[0], ProtocolClass::Tcp, port, 80, &peer.into());
            let bits = Role::WorkloadOpened as u8 | state::REPLIED | state::ESTABLISHED;
            let word = FlowWord::new(epoch, key.tag(), bits);
            let flow =
                Flow { word, last_seen: now, ingress: LO, home: Home::new(PLACE, 0), mark: 0, acknowledged: [0; 2] };
            flows.insert(key, flow.to_words(), 0)?;
            present += 1;
        }
        self.forget_half_open()?;
        self.set_quota(present, limit, id)
    }

    fn epoch(&self) -> Result<u32> {
        let globals: Array<_, u64> = self.map(map::GLOBALS)?.try_into()?;
        Ok(PolicyWord::from_u64(globals.get(&(Global::Word as u32), 0)?).epoch)
    }

    /// Deletes every flow.
    pub fn forget_flows(&mut self) -> Result<()> {
        let keys: Vec<FlowKey> = self.flows()?.into_iter().map(|(key, _)| key).collect();
        let mut flows: HashMap<_, FlowKey, [u64; 7]> = self.map_mut(map::FLOWS)?.try_into()?;
        for key in keys {
            flows.remove(&key)?;
        }
        let (_, limit, id) = self.quota()?;
        self.set_quota(0, limit, id)
    }

    /// Denied packets of a direction and reason, over all CPUs.
    pub fn counts(&self, direction: Direction, reason: Reason) -> Result<Counts> {
        let denied: PerCpuArray<_, Counts> = self.map(map::DENIED)?.try_into()?;
        let index = direction as u32 * REASON_COUNT as u32 + reason as u32;
        Ok(denied.get(&index, 0)?.iter().fold(Counts::default(), |sum, one| Counts {
            logged: sum.logged + one.logged,
            suppressed: sum.suppressed + one.suppressed,
            lost: sum.lost + one.lost,
        }))
    }

    /// Denied packets of all directions and reasons.
    pub fn all_counts(&self) -> Result<Counts> {
        let mut sum = Counts::default();
        for direction in [Direction::Ingress, Direction::Egress] {
            for (reason, ..) in REASONS {
                let one = self.counts(direction, reason)?;
                sum.logged += one.logged;
                sum.suppressed += one.suppressed;
                sum.lost += one.lost;
            }
        }
        Ok(sum)
    }

    /// Takes all records out of the ring.
    pub fn events(&mut self) -> Result<Vec<DenialEvent>> {
        let mut ring: RingBuf<_> = self.map_mut(map::EVENTS)?.try_into()?;
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.push(DenialEvent::from_bytes(&record).context("a record of another layout")?);
        }
        Ok(events)
    }

    /// The sets of all CPUs.
    pub fn sets(&self) -> Result<Vec<WaySet>> {
        let sets: Array<_, WaySet> = self.map(map::DENIALS)?.try_into()?;
        sets.iter().map(|set| set.map_err(Into::into)).collect()
    }

    /// Sum of `BUSY`.
    pub fn busy(&self) -> Result<u64> {
        let busy: PerCpuHashMap<_, BusyKey, u64> = self.map(map::BUSY)?.try_into()?;
        let mut sum = 0;
        for entry in &busy {
            sum += entry?.1.iter().sum::<u64>();
        }
        Ok(sum)
    }

    /// Runs a program on a frame: its verdict.
    pub fn verdict_of(&self, direction: Direction, from: u32, frame: &[u8]) -> Result<Verdict> {
        let before = self.reason_totals(direction)?;
        if self.run(direction, from, frame, 1)?.0 {
            ensure!(before == self.reason_totals(direction)?, "allowed, yet counted as denied");
            return Ok(Verdict::Allow);
        }
        let after = self.reason_totals(direction)?;
        let risen: Vec<Reason> = REASONS
            .iter()
            .zip(before.iter().zip(after))
            .filter(|(_, (before, after))| after != *before)
            .map(|((reason, ..), _)| *reason)
            .collect();
        ensure!(risen.len() == 1, "one reason must have risen, and not {risen:?}");
        Ok(Verdict::Deny(risen[0]))
    }

    fn reason_totals(&self, direction: Direction) -> Result<Vec<u64>> {
        REASONS
            .iter()
            .map(|(reason, ..)| {
                let counts = self.counts(direction, *reason)?;
                Ok(counts.logged + counts.suppressed + counts.lost)
            })
            .collect()
    }

    /// Runs a program: whether it allows, and the nanoseconds that one run took.
    pub fn run(&self, direction: Direction, from: u32, frame: &[u8], repeat: u32) -> Result<(bool, f64)> {
        let name = match direction {
            Direction::Ingress => "to_workload",
            Direction::Egress => "from_workload",
        };
        let (code, nanoseconds) = self.run_program(name, from, frame, repeat)?;
        ensure!(code == TCX_NEXT || code == TC_ACT_SHOT, "{name} returned {code}, which is neither next nor shot");
        Ok((code == TCX_NEXT, nanoseconds))
    }

    /// Runs a program that is not of a veth's side: whether it lets the frame pass.
    pub fn lets_pass(&self, name: &str, frame: &[u8]) -> Result<bool> {
        let (code, _) = self.run_program(name, LO, frame, 1)?;
        ensure!(code == TCX_NEXT || code == TC_ACT_SHOT, "{name} returned {code}, which is neither next nor shot");
        Ok(code == TCX_NEXT)
    }

    /// Runs any program of the object: what it returned, and the nanoseconds that one run took.
    pub fn run_program(&self, name: &str, from: u32, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
        let program = self.program(name)?;
        let context = context(from);
        let begin = Instant::now();
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        })?;
        // The kernel's own mean is a whole number of nanoseconds.
        Ok((result.return_value, begin.elapsed().as_secs_f64() * 1e9 / f64::from(repeat)))
    }

    /// Loads one more program of the object, as what its section says.
    pub fn load(&mut self, name: &str) -> Result<()> {
        let program: &mut SchedClassifier = self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        Ok(program.load()?)
    }

    /// A program of the object.
    pub fn program(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(name).context("no such program")?.try_into()?)
    }

    /// Runs the sweep: how many flows it deleted.
    pub fn sweep(&self, arguments: SweepArguments) -> Result<u32> {
        Ok(self.sweep.run(arguments)?.deleted)
    }

    /// Runs the sweep: in what time the first of the flows that are left may be over.
    pub fn time_left(&self, arguments: SweepArguments) -> Result<Option<Duration>> {
        Ok(self.sweep.run(arguments)?.next)
    }
}
