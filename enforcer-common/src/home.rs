//! Home ABI: by which devices the packets of a local workload may come in (D12).
//!
//! Input: an address of a local workload and a device. Output: whether a packet from that address is believed there. User
//! space writes a pair for each device of the workload: its veths, the bridge above them, and what lies above that on the way
//! to the stack. It writes one pair more for each address that is guarded, whatever its devices.
//! Three more kinds of pairs say what else is on the links of workloads: uplinks beside their veths, the broadcast addresses
//! of their subnets, and the node's own station (D16, N1, D5).

use crate::id::{Address, Ifindex};

/// Key of `HOMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HomeKey {
    /// Address of a local workload.
    pub address: Address,
    /// Device by which its packets may come in; [`HomeKey::ANYWHERE`]: the address is guarded.
    pub device: Ifindex,
}
const _: () = assert!(size_of::<HomeKey>() == 20 && align_of::<HomeKey>() == 4);

/// A station of a link: its hardware address, as it lies in a frame.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Station(pub [u16; 3]);

impl Station {
    /// The station with a hardware address.
    #[inline(always)]
    pub const fn of([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
    }
}

impl HomeKey {
    /// No device has this number: the kernel's are positive and have 31 bits.
    pub const ANYWHERE: Ifindex = Ifindex(u32::MAX);

    /// The pair of an address and a device by which its packets may come in.
    #[inline(always)]
    pub const fn new(address: Address, device: Ifindex) -> Self {
        Self { address, device }
    }

    /// The pair that says that a device is a port of a workload's bridge and leads out of the node. The address is that of all
    /// routers, which nobody sends from.
    #[inline(always)]
    pub const fn out(device: Ifindex) -> Self {
        Self { address: Self::ROUTERS, device }
    }

    /// The pair that says that everybody on the link of a veth receives at this address.
    #[inline(always)]
    pub const fn for_all(address: Address, veth: Ifindex) -> Self {
        Self { address, device: Ifindex(veth.0 | Self::TO) }
    }

    /// The pair that says that frames for a station on the link of a veth come to the node's own stack. The address is that of a
    /// link-local group, which nobody sends from.
    #[inline(always)]
    pub const fn station(Station([first, second, third]): Station, veth: Ifindex) -> Self {
        let words = [Self::STATION, 0, (first as u32) << 16 | second as u32, third as u32];
        Self { address: Address(words), device: veth }
    }

    /// The first word of a station's pair.
    const STATION: u32 = 0xff02_ffff_u32.to_be();

    /// `ff02::2`.
    const ROUTERS: Address = Address([0xff02_0000_u32.to_be(), 0, 0, 2_u32.to_be()]);

    /// Marks a pair of a destination: an ifindex has 31 bits.
    const TO: u32 = 1 << 31;

    /// The pair that says that an address is guarded.
    #[inline(always)]
    pub const fn guarded(address: Address) -> Self {
        Self { address, device: Self::ANYWHERE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_no_pair_of_a_device() {
        let address = Address([0, 0, 1, 7]);
        for device in [0, 1, 7, i32::MAX.cast_unsigned()] {
            assert_ne!(HomeKey::guarded(address), HomeKey::new(address, Ifindex(device)));
            assert_ne!(HomeKey::for_all(address, Ifindex(device)), HomeKey::new(address, Ifindex(device)));
        }
        let station = |mac, veth| HomeKey::station(Station::of(mac), Ifindex(veth));
        let own = station([1, 2, 3, 4, 5, 6], 7);
        assert!(own.address.is_group(), "nobody is believed to send from it");
        assert_ne!(own.address, HomeKey::out(Ifindex(7)).address);
        for place in 0..6 {
            let mut other = [1, 2, 3, 4, 5, 6];
            other[place] ^= 0x80;
            assert_ne!(station(other, 7), own, "byte {place}");
        }
        assert_ne!(station([3, 4, 1, 2, 5, 6], 7), own);
        assert_ne!(station([1, 2, 3, 4, 5, 6], 8), own);
    }
}
