//! Every map of the programs. Sizes, entries and flags come from the map's row in `enforcer_common::schema`. User space makes
//! the pinned maps from the same rows before it loads the programs.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use enforcer_common::{
    denial::{BusyKey, Counts, WaySet},
    endpoint::Endpoint,
    flow_key::FlowKey,
    flow_state::FlowValue,
    half_open::HalfOpen,
    home::HomeKey,
    id::Address,
    image::{AddressEntry, Line, Start},
    quota::Quota,
    schema,
    work::Work,
};

/// Lines of an image; the size here is a placeholder, each image has its own.
pub(crate) type ImageLines = Array<Line, 3, { schema::IMAGE_LINES.flag_bits() }>;
/// Exact addresses of an image; the size here is a placeholder.
pub(crate) type Addresses =
    HashMap<Address, AddressEntry, { schema::IMAGE_ADDRESSES.declared() }, { schema::IMAGE_ADDRESSES.flag_bits() }>;

/// User space writes, programs read: the policy word, the denial seed.
#[btf_map]
pub(crate) static GLOBALS: Array<u64, { schema::GLOBALS.declared() }, { schema::GLOBALS.flag_bits() }> = Array::new();
/// User space writes: slot -> image.
#[btf_map]
pub(crate) static IMAGES: ArrayOfMaps<ImageLines, { schema::IMAGES.declared() }> = ArrayOfMaps::new();
/// User space writes: slot -> the first of these lines once more, where no look-up is needed.
#[btf_map]
pub(crate) static IMAGE_STARTS: Array<
    Start,
    { schema::IMAGE_STARTS.declared() },
    { schema::IMAGE_STARTS.flag_bits() },
> = Array::new();
/// User space writes: slot -> exact addresses.
#[btf_map]
pub(crate) static ADDRESSES: ArrayOfMaps<Addresses, { schema::ADDRESSES.declared() }> = ArrayOfMaps::new();
/// User space writes: ifindex & mask -> endpoint.
#[btf_map]
pub(crate) static ENDPOINTS: Array<Endpoint, { schema::ENDPOINTS.declared() }, { schema::ENDPOINTS.flag_bits() }> =
    Array::new();
/// User space writes: ifindex -> endpoint. It waits for a grace period between freeing an element and adding one: the kernel
/// may reuse the memory at once. Not preallocated: most nodes need none of it.
#[btf_map]
pub(crate) static ENDPOINTS_MORE: HashMap<
    u32,
    Endpoint,
    { schema::ENDPOINTS_MORE.declared() },
    { schema::ENDPOINTS_MORE.flag_bits() },
> = HashMap::new();
/// User space writes: an address of a local workload and a device by which its packets may come in -> 1.
#[btf_map]
pub(crate) static HOMES: HashMap<HomeKey, u32, { schema::HOMES.declared() }, { schema::HOMES.flag_bits() }> =
    HashMap::new();
/// User space writes: an address of a local workload -> a veth of it.
#[btf_map]
pub(crate) static VETHS: HashMap<Address, u32, { schema::VETHS.declared() }, { schema::VETHS.flag_bits() }> =
    HashMap::new();
/// Programs write: flow key -> flow value. When full a new flow is denied.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue, { schema::FLOWS.declared() }, { schema::FLOWS.flag_bits() }> =
    HashMap::new();
/// Programs write: place -> key of a half-open flow. The oldest of a direction gives way.
#[btf_map]
pub(crate) static HALF_OPEN: Array<HalfOpen, { schema::HALF_OPEN.declared() }, { schema::HALF_OPEN.flag_bits() }> =
    Array::new();
/// Both write: place of a workload -> its established flows; the pool behind them.
#[btf_map]
pub(crate) static QUOTAS: Array<Quota, { schema::QUOTAS.declared() }, { schema::QUOTAS.flag_bits() }> = Array::new();
/// Programs write: cpu * sets + set -> four denied flows. Sized for the machine's CPUs when it is created.
#[btf_map]
pub(crate) static DENIALS: Array<WaySet, { schema::DENIALS.declared() }, { schema::DENIALS.flag_bits() }> =
    Array::new();
/// Programs write: direction * reasons + reason -> counts, which only rise.
#[btf_map]
pub(crate) static DENIED: PerCpuArray<Counts, { schema::DENIED.declared() }> = PerCpuArray::new();
/// Programs write: workload, direction and reason -> packets that were denied while all four ways were busy. When it
/// is full, the packet counts as lost.
#[btf_map]
pub(crate) static BUSY: PerCpuHashMap<BusyKey, u64, { schema::BUSY.declared() }> = PerCpuHashMap::new();
/// Programs write [`DenialEvent`](enforcer_common::event::DenialEvent)s, user space drains on a timer. When full the packet counts as lost.
#[btf_map]
pub(crate) static EVENTS: RingBuf<(), { schema::EVENTS.declared() }> = RingBuf::new();
/// The packet under judgement, which a run hands to its out-of-line parts; nothing of it outlives the run. Not on the stack, of which the kernel gives
/// 512 bytes to a whole chain of calls. No other run comes between: programs of this kind run with softirqs off.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Work, 1> = PerCpuArray::new();

/// Keys and values as the rows have them.
const _: () = {
    assert!(schema::IMAGE_LINES.holds::<u32, Line>());
    assert!(schema::IMAGE_ADDRESSES.holds::<Address, AddressEntry>());
    assert!(schema::GLOBALS.holds::<u32, u64>());
    assert!(schema::IMAGE_STARTS.holds::<u32, Start>());
    assert!(schema::ENDPOINTS.holds::<u32, Endpoint>());
    assert!(schema::ENDPOINTS_MORE.holds::<u32, Endpoint>());
    assert!(schema::HOMES.holds::<HomeKey, u32>());
    assert!(schema::VETHS.holds::<Address, u32>());
    assert!(schema::FLOWS.holds::<FlowKey, FlowValue>());
    assert!(schema::HALF_OPEN.holds::<u32, HalfOpen>());
    assert!(schema::QUOTAS.holds::<u32, Quota>());
    assert!(schema::DENIALS.holds::<u32, WaySet>());
    assert!(schema::DENIED.holds::<u32, Counts>());
    assert!(schema::BUSY.holds::<BusyKey, u64>());
};
