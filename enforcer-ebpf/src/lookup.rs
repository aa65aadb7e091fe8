//! Implements the tables of the decision and the flow state over eBPF maps.

use core::sync::atomic::Ordering::Relaxed;

use aya_ebpf::{
    Global,
    bindings::__sk_buff,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
};
use enforcer_common::{
    decide::{self, AskPolicy, Question},
    endpoint::Endpoint,
    flow_key::FlowKey,
    flow_state::{Course, FlowValue, FlowWord, Home},
    follow::{self, Follow},
    home::HomeKey,
    icmp_error::{self, FindQuoted},
    id::{Address, Direction, Ifindex, IncarnationId, OwnerId, PolicyWord, QuotaPlace, Slot},
    image::{AddressEntry, Line, PortKey, ReadImage, Start},
    judge::{self, JudgeWork},
    limits,
    opaque::opaque,
    packet::PacketBytes,
    quota::Quota,
    tables::{Bounds, Clock, Devices, Flows, Homes, PolicyTables, Veths},
    translated::{self, Connection},
    verdict::{Reason, Verdict},
    work::Work,
};

use crate::context::Anywhere;
use crate::half_open;
use crate::maps::{ADDRESSES, ENDPOINTS, ENDPOINTS_MORE, FLOWS, GLOBALS, HOMES, IMAGE_STARTS, IMAGES, QUOTAS, VETHS};
use crate::outcome::{NOT_DONE, code, done};

/// jiffies >> this is the tick of about a second; user space sets it by the kernel's HZ.
#[unsafe(no_mangle)]
static TICK_SHIFT: Global<u32> = Global::new(8);

/// The maps of the object, for a packet.
pub(crate) struct Maps {
    pub(crate) skb: *mut __sk_buff,
}

/// The image in a slot.
pub(crate) struct MapImage {
    slot: Slot,
    start: &'static Start,
}

/// The tick at this moment.
#[inline(always)]
pub(crate) fn tick() -> u32 {
    // SAFETY: no arguments; the verifier turns it into a load.
    (unsafe { bpf_jiffies64() } >> (TICK_SHIFT.load() & 63)) as u32
}

impl PolicyTables for Maps {
    type Image = MapImage;

    #[inline(always)]
    fn word(&self) -> PolicyWord {
        let word = GLOBALS
            .get_ptr(limits::Global::Word as u32)
            // SAFETY: user space stores the word as one u64; volatile makes this its only load.
            .map_or(0, |word| unsafe { word.read_volatile() });
        PolicyWord::from_u64(word)
    }

    #[inline(always)]
    fn image(&self, slot: Slot) -> Option<MapImage> {
        Some(MapImage { slot, start: IMAGE_STARTS.get(slot.number())? })
    }

    #[inline(always)]
    fn judges_backends(&self) -> bool {
        GLOBALS.get(limits::Global::JudgesBackends as u32).is_some_and(|judges| *judges != 0)
    }
}

impl Devices for Maps {
    #[inline(always)]
    fn endpoint(&self, ifindex: Ifindex) -> Option<&Endpoint> {
        let endpoint = ENDPOINTS.get(ifindex.0 & (limits::ENDPOINTS - 1))?;
        if endpoint.ifindex == ifindex {
            return Some(endpoint);
        }
        if endpoint.ifindex == Ifindex::NONE {
            return None;
        }
        // SAFETY: user space waits for a grace period before it adds an element once it has freed one, so none is reused
        // under this run.
        unsafe { ENDPOINTS_MORE.get(&ifindex.0) }
    }

    #[inline(always)]
    fn owner_of(&self, endpoint: &Endpoint, address: &Address) -> Option<OwnerId> {
        let owner = OwnerId(owner_of(endpoint, address) as u32);
        (owner != OwnerId::NONE).then_some(owner)
    }
}

impl Homes for Maps {
    #[inline(always)]
    fn has_home(&self, key: &HomeKey) -> bool {
        HOMES.get_ptr(key).is_some()
    }
}

impl Veths for Maps {
    #[inline(always)]
    fn veth_of(&self, address: &Address) -> Option<Ifindex> {
        // SAFETY: an element that is reused holds a veth of another workload's address, and user space waits for a grace period
        // before it frees one whose address a workload may have sent from.
        unsafe { VETHS.get(address) }.map(|veth| Ifindex(*veth))
    }
}

impl Flows for Maps {
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&FlowValue> {
        // SAFETY: an element may be reused for another key at any time; every field is atomic or is never written again
        // with another meaning, and the tag in its word tells whose it is.
        unsafe { FLOWS.get(key) }
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey, flow: &mut FlowValue) -> Result<bool, Reason> {
        // SAFETY: it is one of those.
        unsafe { Self::found(half_open::insert_flow(key, flow)) }
    }

    #[inline(always)]
    fn take(&self, quota: QuotaPlace, share: Direction) -> Result<(), Reason> {
        QUOTAS.get(quota.0).ok_or(Reason::Internal)?.take(share, QUOTAS.get(Quota::POOL.0))
    }

    #[inline(always)]
    fn give(&self, quota: QuotaPlace, share: Direction) {
        give(quota, share);
    }

    #[inline(always)]
    fn settle(&self, key: &FlowKey, home: Home) {
        half_open::settle(key, home);
    }
}

impl Bounds for Maps {
    #[inline(always)]
    fn error_bytes(&self) -> u32 {
        GLOBALS.get(limits::Global::ErrorBytes as u32).map_or(0, |bytes| *bytes as u32)
    }
}

impl Clock for Maps {
    #[inline(always)]
    fn tick(&self) -> u32 {
        tick()
    }

    #[inline(always)]
    fn boot_time(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

impl Follow for Maps {
    #[inline(always)]
    fn follow(&self, work: &Work, flow: &FlowValue, current: FlowWord, course: Course) -> Result<bool, Reason> {
        // SAFETY: it is one of those.
        unsafe { Self::found(follow_flow(work, flow, current.0, course.to_code())) }
    }
}

impl JudgeWork for Maps {
    #[inline(always)]
    fn judge_work(&self, work: &Work, endpoint: Option<&Endpoint>) -> Result<(), Reason> {
        let endpoint = endpoint.map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: it is one of those.
        unsafe { Self::result(judge_work(work, endpoint)) }
    }
}

impl AskPolicy for Maps {
    #[inline(always)]
    fn ask_policy(&self, slot: Slot, endpoint: &Endpoint, question: &Question<'_>) -> Verdict {
        let entry = question.entry.map_or(UNKNOWN, |entry| u64::from(entry.0));
        let place = slot.number() | (question.direction as u32) << 1 | question.port.index() << 2;
        // SAFETY: it is one of those.
        match unsafe { Self::result(ask_policy(endpoint, place, question.peer, entry)) } {
            Ok(()) => Verdict::Allow,
            Err(reason) => Verdict::Deny(reason),
        }
    }
}

impl FindQuoted for Maps {
    #[inline(always)]
    fn find_quoted<B: PacketBytes>(&self, _: &B, work: &mut Work) {
        find_quoted(self.skb, work);
    }
}

impl Maps {
    /// For what reads no packet.
    pub(crate) const TABLES: Self = Self { skb: core::ptr::null_mut() };

    /// SAFETY: `code` comes from one of the functions below, which return nothing but 0, [`NOT_DONE`] and reasons.
    #[inline(always)]
    unsafe fn found(code: u64) -> Result<bool, Reason> {
        if code == NOT_DONE {
            return Ok(false);
        }
        // SAFETY: as the caller promises.
        unsafe { Self::result(code) }.map(|()| true)
    }

    /// SAFETY: `code` comes from one of the functions below, which return nothing but 0 and reasons.
    #[inline(always)]
    unsafe fn result(code: u64) -> Result<(), Reason> {
        match code as u8 {
            0 => Ok(()),
            // SAFETY: as the caller promises.
            reason => Err(unsafe { core::mem::transmute::<u8, Reason>(reason) }),
        }
    }
}

// Functions of their own, and global, so that the verifier follows each once for whatever its arguments hold, and not from
// every way that leads to it. No packet of a live flow comes here. The verifier knows a pointer as null or as that of a
// whole value.

/// The reason, or 0 for allow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_work(work: *const Work, endpoint: *const Endpoint) -> u64 {
    // SAFETY: as above.
    let (Some(work), endpoint) = (unsafe { (work.as_ref(), endpoint.as_ref()) }) else {
        return Reason::Internal as u64;
    };
    code(judge::judge_work(&Maps::TABLES, work, endpoint))
}

/// The reason, 0 if the packet is recorded, [`NOT_DONE`] if the flow has changed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_flow(work: *const Work, flow: *const FlowValue, current: u64, course: u32) -> u64 {
    // SAFETY: as above.
    let (Some(work), Some(flow), Some(course)) = (unsafe { (work.as_ref(), flow.as_ref(), Course::from_code(course)) })
    else {
        return Reason::Internal as u64;
    };
    done(follow::follow(&Maps::TABLES, work, flow, FlowWord(current), course))
}

/// The owner id of an endpoint's own address, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owner_of(endpoint: *const Endpoint, address: *const Address) -> u64 {
    // SAFETY: as above.
    match unsafe { (endpoint.as_ref(), address.as_ref()) } {
        (Some(endpoint), Some(address)) => endpoint.owner_of(address).unwrap_or(OwnerId::NONE).0.into(),
        _ => OwnerId::NONE.0.into(),
    }
}

/// The reason, or 0 for allow. `place`: slot, direction, and port key, from the lowest bit on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_policy(endpoint: *const Endpoint, place: u32, peer: *const Address, entry: u64) -> u64 {
    // SAFETY: as above.
    let (Some(endpoint), Some(peer)) = (unsafe { (endpoint.as_ref(), peer.as_ref()) }) else {
        return Reason::Internal as u64;
    };
    let question = Question {
        direction: if place >> 1 & 1 == Direction::Egress as u32 { Direction::Egress } else { Direction::Ingress },
        peer,
        entry: (entry != UNKNOWN).then_some(AddressEntry(entry as u32)),
        port: PortKey::from_index(place >> 2),
    };
    let slot = Slot::of(place);
    let image = Maps::TABLES.image(slot);
    code(decide::answer(image.as_ref(), slot, endpoint, &question).into_result())
}

/// The reason, or 0 for allow. Of a denial `work` holds what the record needs.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn judge_backend(connection: *const Connection, work: *mut Work) -> u64 {
    // SAFETY: as above.
    let (Some(connection), Some(work)) = (unsafe { (connection.as_ref(), work.as_mut()) }) else {
        return Reason::Internal as u64;
    };
    code(translated::judge(&Maps::TABLES, connection, work))
}

/// Notes in `work` which flow its ICMP error quotes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_quoted(skb: *mut __sk_buff, work: *mut Work) -> u64 {
    // SAFETY: as above.
    if let Some(work) = unsafe { work.as_mut() } {
        icmp_error::find_quoted(&Maps { skb }, &Anywhere(skb), work);
    }
    0
}

impl ReadImage for MapImage {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        match self.start.get(index as usize) {
            Some(line) => Some(line),
            // A call each: the kernel does not inline the look-up of an inner array.
            None => IMAGES.get(self.slot.number())?.get(index),
        }
    }

    #[inline(always)]
    fn address(&self, address: &Address) -> Option<AddressEntry> {
        // SAFETY: user space fills the map before it is in force and does not edit it afterwards.
        let found =
            unsafe { ADDRESSES.get(self.slot.number())?.get(address) }.map_or(UNKNOWN, |entry| u64::from(entry.0));
        let found = opaque(found);
        (found != UNKNOWN).then_some(AddressEntry(found as u32))
    }
}

/// No entry.
const UNKNOWN: u64 = u64::MAX;

/// Whether the workload that uses a place of `QUOTAS` is gone.
#[inline(always)]
pub(crate) fn is_gone(place: QuotaPlace) -> bool {
    QUOTAS.get(place.0).is_none_or(|quota| quota.id.load(Relaxed) == IncarnationId::NONE.0)
}

/// Takes one flow off a share of a workload.
#[inline(always)]
pub(crate) fn give(place: QuotaPlace, share: Direction) {
    if let Some(quota) = QUOTAS.get(place.0) {
        quota.give(share, QUOTAS.get(Quota::POOL.0));
    }
}
