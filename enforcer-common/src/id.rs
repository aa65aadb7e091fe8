//! Newtypes for every number that more than one module uses, and one form of address for IPv4 and IPv6.

/// An IP address of either family; IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
///
/// Four words that lie in memory as the address lies in a packet: loaded, compared and hashed without a byte swap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq)]
pub struct Address(pub [u32; 4]);

// By words: equality of arrays becomes a call of `memcmp` on the bpf target.
impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl core::hash::Hash for Address {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// `::`, which no mapped IPv4 address equals.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// The mapped form of an IPv4 address, given as it lies in a packet.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// Whether this is a mapped IPv4 address. One on the wire in an IPv6 header is refused by the parser, so the families
    /// cannot be mistaken for each other.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The bytes, as in a packet.
    pub const fn octets(&self) -> [u8; 16] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes()];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The two halves as numbers: the order of addresses is the order of this pair.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [
            (u32::from_be(a) as u64) << 32 | u32::from_be(b) as u64,
            (u32::from_be(c) as u64) << 32 | u32::from_be(d) as u64,
        ]
    }

    /// Multicast of either family, or the IPv4 limited broadcast: nobody's own address.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        if self.is_v4() {
            let host = u32::from_be(self.0[3]);
            host >> 28 == 0xe || host == u32::MAX
        } else {
            u32::from_be(self.0[0]) >> 24 == 0xff
        }
    }

    /// `ff02::/16`.
    #[inline(always)]
    pub const fn is_v6_link_scope_group(&self) -> bool {
        u32::from_be(self.0[0]) >> 16 == 0xff02
    }

    /// `fe80::/10`.
    #[inline(always)]
    pub const fn is_v6_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.halves().cmp(&other.halves())
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => {
                let mut words = [0; 4];
                for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
                    *word = u32::from_ne_bytes(*bytes);
                }
                Self(words)
            }
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(core::net::Ipv4Addr::from(address.0[3].to_ne_bytes()))
        } else {
            Self::V6(core::net::Ipv6Addr::from(address.octets()))
        }
    }
}

/// Which way a packet goes, seen from the workload.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Direction {
    /// To the workload: judged by `to_workload`.
    Ingress = 0,
    /// From the workload: judged by `from_workload`.
    Egress = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// The direction that a record's byte stands for.
    pub fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Ingress),
            1 => Some(Self::Egress),
            _ => None,
        }
    }
}

/// Equivalence class of peer addresses: all rules on this node treat its members alike.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct PeerClass(pub u32);

/// Equivalence class of (protocol, port or type) values.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct PortClass(pub u16);

/// Row of the verdict tables: local workloads with the same policies in one direction share one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Row(pub u32);

impl Row {
    /// No policy isolates the workload in this direction (N1): everything is allowed, without a table.
    pub const NOT_ISOLATED: Self = Self(0xffff_fffe);
    /// There is no row. What is judged by it is denied.
    pub const NONE: Self = Self(0xffff_ffff);
}

/// Who owns a flow: one address of one incarnation of a workload, or the incarnation itself. From a persistent counter that
/// incarnations and addresses share, never reused. 29 bits; 0 is nobody.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct OwnerId(pub u32);

impl OwnerId {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// The highest id that fits a flow key.
    pub const MAX: Self = Self((1 << 29) - 1);
}

/// One incarnation of a workload: its veths, its denials and its quota. Its number is of the counter of [`OwnerId`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct IncarnationId(pub u32);

impl IncarnationId {
    /// Nobody.
    pub const NONE: Self = Self(0);

    const DEVICE: u32 = 1 << 31;

    /// Stands for a device in records of packets that are of no workload. An id has 29 bits and an ifindex 31, so it is
    /// nobody's.
    #[inline(always)]
    pub const fn of_device(ifindex: Ifindex) -> Self {
        Self(Self::DEVICE | ifindex.0)
    }

    /// The device, if this is one.
    pub const fn device(self) -> Option<Ifindex> {
        if self.0 & Self::DEVICE == 0 { None } else { Some(Ifindex(self.0 & !Self::DEVICE)) }
    }

    /// The owner of flows whose local address has no id.
    #[inline(always)]
    pub const fn owner(self) -> OwnerId {
        OwnerId(self.0)
    }
}

/// A place in `QUOTAS`: where the flows of one incarnation of a workload are counted.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct QuotaPlace(pub u32);

/// A device of this node's namespace.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize), serde(transparent))]
#[repr(transparent)]
pub struct Ifindex(pub u32);

impl Ifindex {
    /// No device: the node itself, or a place that is free.
    pub const NONE: Self = Self(0);
    /// The loopback device of every network namespace (the kernel's `LOOPBACK_IFINDEX`).
    pub const LOOPBACK: Self = Self(1);
}

// As the number alone, in logs of sets of devices too.
impl core::fmt::Debug for Ifindex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::fmt::Display for Ifindex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the images that were put in force.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "user", derive(serde::Deserialize, serde::Serialize), serde(transparent))]
#[repr(transparent)]
pub struct Revision(pub u32);

impl Revision {
    /// No image yet.
    pub const NONE: Self = Self(0);

    /// Where the image lies.
    #[inline(always)]
    pub const fn slot(self) -> Slot {
        Slot::of(self.0)
    }
}

impl core::fmt::Display for Revision {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the two places for an image and for the endpoints' rows under it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Slot(u32);

impl Slot {
    /// Each once.
    pub const BOTH: [Self; 2] = [Self(0), Self(1)];

    /// The slot of a revision with this number, or of a number that is a slot's.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        Self(number & 1)
    }

    /// Its key in the outer maps.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its place in a pair. Masked once more: where a slot has been in memory nothing else tells the verifier its bound.
    #[inline(always)]
    pub const fn index(self) -> usize {
        (self.0 & 1) as usize
    }
}

impl core::fmt::Display for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// The policy in force: which image, and since when flow state must have been judged.
///
/// One u64, stored atomically by user space and read once a program run
/// (docs/architecture.md, "How an image is swapped").
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PolicyWord {
    /// Which image. [`Revision::NONE`]: no image yet, everything judged is denied.
    pub revision: Revision,
    /// Flow state of another epoch is judged again. At most [`PolicyWord::EPOCHS`].
    pub epoch: u32,
}

impl PolicyWord {
    /// The last epoch: a flow's word has as many bits for it.
    pub const EPOCHS: u32 = u32::MAX >> 1;

    /// From the stored form.
    #[inline(always)]
    pub const fn from_u64(word: u64) -> Self {
        Self { revision: Revision((word >> 32) as u32), epoch: word as u32 }
    }

    /// The stored form.
    #[inline(always)]
    pub const fn to_u64(self) -> u64 {
        ((self.revision.0 as u64) << 32) | self.epoch as u64
    }

    /// The slot of the outer maps and of the endpoints' rows.
    #[inline(always)]
    pub const fn slot(self) -> Slot {
        self.revision.slot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// As 128 bits, IPv4 mapped.
    fn number(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }

    fn addresses() -> Vec<IpAddr> {
        let texts = [
            "0.0.0.0",
            "0.0.0.1",
            "10.0.0.1",
            "10.0.1.0",
            "127.0.0.1",
            "198.51.100.7",
            "223.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::fffe:a00:1",
            "::1:0:0",
            "1::",
            "fd00::1",
            "fd00::1:0:0:0",
            "fe7f:ffff::",
            "fe80::",
            "febf:ffff::1",
            "fec0::",
            "feff::1",
            "ff00::",
            "ff01::1",
            "ff02::1",
            "ff02:ffff::",
            "ff03::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_keep_their_value_their_bytes_and_their_order() {
        for one in addresses() {
            let address = Address::from(one);
            assert_eq!(IpAddr::from(address), one);
            assert_eq!(address.octets(), number(one).to_be_bytes(), "{one}");
            assert_eq!(address.is_v4(), one.is_ipv4(), "{one}");
            for other in addresses() {
                assert_eq!(address.cmp(&other.into()), number(one).cmp(&number(other)), "{one} and {other}");
                assert_eq!(address == other.into(), one == other, "{one} and {other}");
            }
        }
        let mapped: Ipv6Addr = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert_eq!(Address::from(IpAddr::from(mapped)), Address::from(IpAddr::from([10, 0, 0, 1])));
        assert_ne!(Address::from(IpAddr::from([0; 4])), Address::UNSPECIFIED, "0.0.0.0 is not ::");
    }

    #[test]
    fn kinds_of_addresses_end_where_the_standard_says() {
        for address in addresses() {
            let (group, link_group, link_local) = match address {
                IpAddr::V4(v4) => (v4.is_multicast() || v4.is_broadcast(), false, false),
                IpAddr::V6(v6) => (v6.is_multicast(), v6.segments()[0] == 0xff02, v6.is_unicast_link_local()),
            };
            let judged = Address::from(address);
            assert_eq!(judged.is_group(), group, "{address}");
            assert_eq!(judged.is_v6_link_scope_group(), link_group, "{address}");
            assert_eq!(judged.is_v6_link_local(), link_local, "{address}");
        }
    }

    #[test]
    fn the_policy_word_is_one_number() {
        for (revision, epoch) in [(0, 0), (1, 2), (2, 1), (u32::MAX, 0), (0, u32::MAX), (0x8000_0001, 0x7fff_fffe)] {
            let word = PolicyWord { revision: Revision(revision), epoch };
            assert_eq!(PolicyWord::from_u64(word.to_u64()), word);
            assert_eq!(word.to_u64(), u64::from(revision) << 32 | u64::from(epoch));
            assert_eq!((word.slot().number(), word.slot().index()), (revision % 2, revision as usize % 2));
        }
    }

    #[test]
    fn a_device_in_a_record_is_nobodys_incarnation() {
        for ifindex in [1, 7, i32::MAX.cast_unsigned()] {
            let id = IncarnationId::of_device(Ifindex(ifindex));
            assert_eq!(id.device(), Some(Ifindex(ifindex)));
            assert!(id.0 > OwnerId::MAX.0);
        }
        for id in [0, 1, OwnerId::MAX.0] {
            assert_eq!(IncarnationId(id).device(), None);
        }
    }

    #[test]
    fn directions_are_their_numbers() {
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(Direction::from_u8(direction as u8), Some(direction));
            assert_ne!(direction.opposite(), direction);
            assert_eq!(direction.opposite().opposite(), direction);
        }
        assert_eq!(Direction::from_u8(2), None);
    }
}
