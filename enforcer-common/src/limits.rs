//! Map names, capacities and bounds. No other file holds such numbers. [`crate::schema`] says what a map looks like.

/// Names of the maps, as the object and the pin directory spell them.
pub mod map {
    /// u64 array, mmapable: see [`super::Global`].
    pub const GLOBALS: &str = "GLOBALS";
    /// Outer array: slot -> image.
    pub const IMAGES: &str = "IMAGES";
    /// Array: slot -> the first lines of the image.
    pub const IMAGE_STARTS: &str = "IMAGE_STARTS";
    /// Outer array: slot -> hash of exact addresses.
    pub const ADDRESSES: &str = "ADDRESSES";
    /// Array, mmapable: ifindex & mask -> endpoint.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Hash: ifindex -> endpoint, for those whose place in `ENDPOINTS` is taken.
    pub const ENDPOINTS_MORE: &str = "ENDPOINTS_MORE";
    /// Hash: ifindex -> 1, devices towards the outside. No program reads it.
    pub const UPLINKS: &str = "UPLINKS";
    /// Hash: (address of a local workload, device by which its packets may come in) -> 1.
    pub const HOMES: &str = "HOMES";
    /// See [`crate::schema::VETHS`].
    pub const VETHS: &str = "VETHS";
    /// Hash: flow key -> flow value.
    pub const FLOWS: &str = "FLOWS";
    /// Array, mmapable: place -> key of a half-open flow.
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// Array, mmapable: workload slot -> quota.
    pub const QUOTAS: &str = "QUOTAS";
    /// Array, mmapable: cpu * sets + set -> four ways.
    pub const DENIALS: &str = "DENIALS";
    /// Per-CPU array: direction * reasons + reason -> counts.
    pub const DENIED: &str = "DENIED";
    /// Per-CPU hash: (workload, direction, reason) -> packets that found all four ways busy.
    pub const BUSY: &str = "BUSY";
    /// Ring buffer of denial events.
    pub const EVENTS: &str = "EVENTS";
    /// Array, mmapable: way -> what was last reported of it. No program reads it.
    pub const REPORTED: &str = "REPORTED";
    /// Hash: the same for `BUSY`. No program reads it.
    pub const REPORTED_BUSY: &str = "REPORTED_BUSY";
}

/// Places of the `GLOBALS` array.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Global {
    /// The policy word.
    Word = 0,
    /// Next owner id.
    NextOwner = 1,
    /// Seed of the denial hash; written once, before the first attach.
    Seed = 2,
    /// 1 once the first plan is through: everything that it names was attached to, or failed to be. No program reads it.
    Begun = 3,
    /// Lost packets that the flow log was told of. No program reads it.
    ToldLost = 4,
    /// Bytes that an ICMP error may have which passes with the flow that it quotes; 0: as many as its family permits.
    ErrorBytes = 5,
    /// 1 while what a workload sends to a Service is judged again behind the node's translation.
    JudgesBackends = 6,
}

/// Entries of `GLOBALS`.
pub const GLOBALS: u32 = 8;
/// Entries of `ENDPOINTS`; a power of two.
pub const ENDPOINTS: u32 = 4096;
/// Entries of `ENDPOINTS_MORE`.
pub const ENDPOINTS_MORE: u32 = 4096;
/// Entries of `UPLINKS`.
pub const UPLINKS: u32 = 256;
/// Entries of `VETHS`: as many addresses as all workloads may have.
pub const VETHS: u32 = WORKLOADS * OWN_ADDRESSES as u32;
/// Entries of `HOMES`: 32 for each of the [`WORKLOADS`], of which most need six.
pub const HOMES: u32 = 262_144;
/// 802.1Q and 802.1ad tags that the guard reads past, beside the one that the kernel has taken off.
pub const VLAN_TAGS: usize = 4;
/// Workloads at once, those that wait for their last flows included. `QUOTAS` has one entry more, the pool.
pub const WORKLOADS: u32 = 8192;
/// Own addresses of a workload that have an id. More are refused as claims.
pub const OWN_ADDRESSES: usize = 16;
/// Flows of the node unless set otherwise.
pub const FLOWS: u32 = 524_288;
/// Established flows of one workload in each direction unless set otherwise.
pub const FLOW_QUOTA: u32 = 65_536;
/// Entries of `HALF_OPEN` at most.
pub const HALF_OPEN_MOST: u32 = 1 << 19;

/// Entries of `HALF_OPEN` beside a table of `flows`: an eighth of them, in two halves whose length is a power of two. One
/// half is of the flows that were opened to workloads, the other of those that workloads opened.
pub const fn half_open(flows: u32) -> u32 {
    let half = if flows < 32 { 1 } else { 1 << (flows / 16).ilog2() };
    let both = 2 * half;
    if both < HALF_OPEN_MOST { both } else { HALF_OPEN_MOST }
}

/// Flows of each direction that a workload has reserved in a table of `flows`.
pub const fn flow_reserve(flows: u32) -> u32 {
    flows / 2048
}
/// Bytes that an ICMPv6 error has at most (RFC 4443 section 2.4 c).
pub const ERROR_BYTES: u32 = 1280;
/// The same over IPv4 (RFC 1812 section 4.3.2.3).
pub const ERROR_BYTES_V4: u32 = 576;
/// Bytes of a message of MLD or IGMP that stays on the link, behind the IP header: 25 groups of IPv6, or 63 of IPv4.
pub const MEMBERSHIP_BYTES: u32 = 512;
/// Bytes of an STP or LLDP frame: as many as a frame has on a usual link.
pub const NEIGHBOUR_BYTES: u32 = 1514;
/// Bytes of a message of a DHCP client, behind the IP header: with that of IPv4, as many as every server has to accept (RFC
/// 2131 section 2).
pub const DHCP_REQUEST_BYTES: u32 = 556;
/// Bytes of what a router or a DHCP server says to the link, behind the IP header: as many as fit a usual link.
pub const ROUTER_BYTES: u32 = 1480;
/// Sets of four ways a CPU in `DENIALS`; a power of two.
pub const DENIAL_SETS: u32 = 1024;
/// Ways of a set.
pub const DENIAL_WAYS: usize = 4;
/// Entries of `BUSY`.
pub const BUSY: u32 = 8192;
/// Bytes of `EVENTS`; a power of two and a multiple of the page size.
pub const EVENTS: u32 = 4 << 20;
/// An image that needs more is refused with exact numbers.
pub const IMAGE_BUDGET: u64 = 64 << 20;
/// Lines of an image that also lie in `IMAGE_STARTS`: all of most images. 2 MiB.
pub const START_LINES: u32 = 32_768;
/// Address ranges of one family in an image.
pub const RANGES: u32 = 1 << 20;
/// Steps of the binary search over one bucket of ranges: log2 of [`RANGES`], plus one.
pub const SEARCH_STEPS: u32 = 21;
/// IPv6 extension headers that are walked.
pub const EXTENSION_HEADERS: usize = 6;
