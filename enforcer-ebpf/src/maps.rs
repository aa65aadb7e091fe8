//! Every map. Layouts and sizes are those of `enforcer_common`; user space creates the maps before the programs are
//! loaded, so the attributes here only have to agree in type, key and value.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use enforcer_common::{
    denial::{BusyKey, Counts, WaySet},
    endpoint::{Endpoint, Quota},
    flow_key::FlowKey,
    flow_state::FlowValue,
    id::Address,
    image::{AddressEntry, Line, Start},
    limits,
    verdict::REASON_COUNT,
    work::Work,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const INNER: usize = BPF_F_INNER_MAP as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Lines of an image; the size here is a placeholder, each image has its own.
pub(crate) type ImageLines = Array<Line, 3, INNER>;
/// Exact addresses of an image; the size here is a placeholder.
pub(crate) type Addresses = HashMap<Address, AddressEntry, 1>;

/// User space writes, programs read: the policy word, the denial seed.
#[btf_map]
pub(crate) static GLOBALS: Array<u64, { limits::GLOBALS as usize }, MMAPABLE> = Array::new();
/// User space writes: slot -> image.
#[btf_map]
pub(crate) static IMAGES: ArrayOfMaps<ImageLines, 2> = ArrayOfMaps::new();
/// User space writes: slot -> the first of these lines once more, where no look-up is needed.
#[btf_map]
pub(crate) static IMAGE_STARTS: Array<Start, 2> = Array::new();
/// User space writes: slot -> exact addresses.
#[btf_map]
pub(crate) static ADDRESSES: ArrayOfMaps<Addresses, 2> = ArrayOfMaps::new();
/// User space writes: ifindex & mask -> endpoint.
#[btf_map]
pub(crate) static ENDPOINTS: Array<Endpoint, { limits::ENDPOINTS as usize }, MMAPABLE> = Array::new();
/// User space writes: ifindex -> endpoint. It waits for a grace period between freeing an element and adding one: the kernel
/// may reuse the memory at once. Not preallocated: most nodes need none of it.
#[btf_map]
pub(crate) static ENDPOINTS_MORE: HashMap<u32, Endpoint, { limits::ENDPOINTS_MORE as usize }, NO_PREALLOC> =
    HashMap::new();
/// User space writes: ifindex -> 1.
#[btf_map]
pub(crate) static UPLINKS: HashMap<u32, u32, { limits::UPLINKS as usize }> = HashMap::new();
/// Programs write: flow key -> flow value. When full a new flow is denied.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue, { limits::FLOWS as usize }> = HashMap::new();
/// Both write: place of a workload -> its flows.
#[btf_map]
pub(crate) static QUOTAS: Array<Quota, { limits::WORKLOADS as usize }, MMAPABLE> = Array::new();
/// Programs write: cpu * sets + set -> four denied flows. Sized for the machine's CPUs when it is created.
#[btf_map]
pub(crate) static DENIALS: Array<WaySet, { limits::DENIAL_SETS as usize }, MMAPABLE> = Array::new();
/// Programs write: direction * reasons + reason -> counts, for ever rising.
#[btf_map]
pub(crate) static DENIED: PerCpuArray<Counts, { 2 * REASON_COUNT }> = PerCpuArray::new();
/// Programs write: who had a packet denied while all four ways were busy. When full the packet counts as lost.
#[btf_map]
pub(crate) static BUSY: PerCpuHashMap<BusyKey, u64, { limits::BUSY as usize }> = PerCpuHashMap::new();
/// Programs write [`DenialEvent`](enforcer_common::event::DenialEvent)s, user space drains on a timer. When full the packet counts as lost.
#[btf_map]
pub(crate) static EVENTS: RingBuf<(), { limits::EVENTS as usize }> = RingBuf::new();
/// The packet under judgement, which a run hands to its out-of-line parts; nothing of it outlives the run. Not on the stack, of which the kernel gives
/// 512 bytes to a whole chain of calls. No other run comes between: programs of this kind run with softirqs off.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Work, 1> = PerCpuArray::new();
