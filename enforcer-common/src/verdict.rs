//! Verdicts, and the reasons of denials. The numbers of the reasons are an API: new ones are appended, and no number is
//! reused. A test pins the table.

/// What happens to a packet.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It goes on to whoever comes next in the chain.
    Allow,
    /// It is dropped, counted and logged.
    Deny(Reason),
}

impl Verdict {
    /// For `?`.
    #[inline(always)]
    pub fn into_result(self) -> Result<(), Reason> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny(reason) => Err(reason),
        }
    }
}

/// Why a packet was denied.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Reason {
    /// The workload is isolated in this direction and no rule allows the flow.
    NoRule = 1,
    /// A rule denies the flow. Kept for the kinds that can say so.
    RuleDeny = 2,
    /// No source has named the workload and unknown workloads are closed.
    UnknownWorkload = 3,
    /// The source address is not the workload's own (A29), or it is a local workload's and came in by a device that is
    /// neither that workload's nor the bridge above it (A8).
    SpoofedSource = 4,
    /// Older builds gave it for a local workload's address that came in by an uplink. [`Reason::SpoofedSource`] says that
    /// now of every device; the number stays theirs.
    SpoofedFromUplink = 5,
    /// The destination is not the workload's own: a bridge flooded it.
    NotAddressed = 6,
    /// IPv4 or IPv6 header that contradicts itself or the frame (A17, A38).
    IpMalformed = 7,
    /// IPv4 options (A15, A16), apart from the router alert of IGMP (D16).
    IpOptions = 8,
    /// A fragment (A18 to A25).
    Fragment = 9,
    /// IPv6 extension headers: a routing header, more than six, or one that is cut (A23).
    ExtensionHeader = 10,
    /// The transport header is cut or contradicts itself (A27).
    L4Short = 11,
    /// An 802.1Q or 802.1ad tag, inline or accelerated (A36).
    Vlan = 12,
    /// Neither IPv4, IPv6 nor ARP (A37), nor STP or LLDP of the node (D16).
    Ethertype = 13,
    /// Router advertisement, redirect, or query for members of a group from a workload (A34).
    RouterAdvertisement = 14,
    /// The workload has as many flows as it may have; a new one is denied.
    FlowQuota = 15,
    /// The flow table is full; a new flow is denied.
    FlowTableFull = 16,
    /// Headers could not be pulled into the linear part of the packet.
    PullFailed = 17,
    /// The tables contradict themselves. Never expected; closed.
    Internal = 18,
    /// No image is in force yet.
    NoPolicy = 19,
}

/// Number of reasons, one more than the highest code.
pub const REASON_COUNT: usize = 20;

/// Every reason with its name in logs, metrics and cases files, and the Cilium drop reason that stands for it in the
/// Hubble envelope (a reason outside that enum fails its strict parse).
pub const REASONS: [(Reason, &str, &str, u16); 19] = [
    (Reason::NoRule, "no-rule", "POLICY_DENIED", 133),
    (Reason::RuleDeny, "rule-deny", "POLICY_DENY", 181),
    (Reason::UnknownWorkload, "unknown-workload", "DROP_EP_NOT_READY", 203),
    (Reason::SpoofedSource, "spoofed-source", "INVALID_SOURCE_IP", 132),
    (Reason::SpoofedFromUplink, "spoofed-from-uplink", "INVALID_SOURCE_IP", 132),
    (Reason::NotAddressed, "not-addressed", "UNSUPPORTED_L2_PROTOCOL", 166),
    (Reason::IpMalformed, "ip-malformed", "CT_TRUNCATED_OR_INVALID_HEADER", 135),
    (Reason::IpOptions, "ip-options", "UNSUPPORTED_L3_PROTOCOL", 139),
    (Reason::Fragment, "fragment", "IP_FRAGMENTATION_NOT_SUPPORTED", 157),
    (Reason::ExtensionHeader, "extension-header", "INVALID_IPV6_EXTENSION_HEADER", 156),
    (Reason::L4Short, "l4-short", "CT_TRUNCATED_OR_INVALID_HEADER", 135),
    (Reason::Vlan, "vlan", "VLAN_FILTERED", 182),
    (Reason::Ethertype, "ethertype", "UNSUPPORTED_L2_PROTOCOL", 166),
    (Reason::RouterAdvertisement, "router-advertisement", "UNSUPPORTED_L3_PROTOCOL", 139),
    (Reason::FlowQuota, "flow-quota", "DROP_RATE_LIMITED", 198),
    (Reason::FlowTableFull, "flow-table-full", "CT_MAP_INSERTION_FAILED", 155),
    (Reason::PullFailed, "pull-failed", "INVALID_PACKET_DROPPED", 134),
    (Reason::Internal, "internal", "INVALID_PACKET_DROPPED", 134),
    (Reason::NoPolicy, "no-policy", "DROP_EP_NOT_READY", 203),
];

impl Reason {
    /// The reason with this code.
    pub fn from_u8(code: u8) -> Option<Self> {
        REASONS.iter().find(|row| row.0 as u8 == code).map(|row| row.0)
    }

    /// The name in logs, metrics and cases files.
    pub fn name(self) -> &'static str {
        REASONS[self as usize - 1].1
    }

    /// The drop reason of the Hubble envelope: name and number.
    pub fn hubble(self) -> (&'static str, u16) {
        let (_, _, name, number) = REASONS[self as usize - 1];
        (name, number)
    }

    /// Policy decided, and not the shape or the sender of the packet.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::NoRule | Self::RuleDeny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_pinned() {
        for (index, (reason, name, ..)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, index + 1, "{name}: codes are append-only and without holes");
            assert_eq!(Reason::from_u8(*reason as u8), Some(*reason));
            assert_eq!(reason.name(), *name);
        }
        assert_eq!(REASONS.len() + 1, REASON_COUNT);
        assert_eq!(Reason::from_u8(0), None);
        assert_eq!(Reason::from_u8(REASON_COUNT as u8), None);
    }
}
