//! The guard on devices that lead to no workload: it drops a local workload's source before the node or a neighbour sees it
//! (D12).
//!
//! Input: a frame from its network header on, and the device by which it came in. Output: the packet, if its source is a
//! local workload's that is not at home there. The guard judges nothing else. A frame whose source it cannot read passes on:
//! if a device of the node takes another header off later, the frame comes in by that device, which has a guard of its own.

use crate::id::{Address, Direction, Ifindex, IncarnationId, PolicyWord};
use crate::limits::VLAN_TAGS;
use crate::packet::{self, byte, half};
use crate::tables::Homes;
use crate::work::{Meta, Work};

/// A frame from its network header on, whatever the header before it is: a tunnel has none.
pub trait NetworkBytes {
    /// Ethertype of the network header, as the kernel found it: a tag that it took off does not count.
    fn ethertype(&self) -> u16;
    /// `N` words at an offset from the network header, as they lie in memory.
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

/// A packet from a local workload's address that came in where it has no home.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spoofed {
    /// Ethertype behind all tags.
    pub ethertype: u16,
    /// Offset of the IP header.
    pub at: u32,
    /// The source.
    pub source: Address,
}

/// The packet, if its source is spoofed.
#[inline(always)]
pub fn look<T: Homes, B: NetworkBytes>(tables: &T, device: Ifindex, bytes: &B) -> Option<Spoofed> {
    let (ethertype, at) = behind_tags(bytes)?;
    let source = match ethertype {
        0x0800 => {
            let [source] = bytes.at(at + 12)?;
            Address::v4(source)
        }
        0x86dd => Address(bytes.at(at + 8)?),
        _ => return None,
    };
    tables.is_spoofed(&source, device).then_some(Spoofed { ethertype, at, source })
}

/// The ethertype behind all tags, and where its header begins. `None`: there are more tags than are read.
#[inline(always)]
fn behind_tags<B: NetworkBytes>(bytes: &B) -> Option<(u16, u32)> {
    let (mut ethertype, mut at) = (bytes.ethertype(), 0);
    for _ in 0..VLAN_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let [tag] = bytes.at(at)?;
        ethertype = half::<1>(tag);
        at += 4;
    }
    (!is_tag(ethertype)).then_some((ethertype, at))
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// Notes in `work` what the record of the denial shows: the device in the place of a workload, and both addresses.
#[inline(always)]
pub fn note<B: NetworkBytes>(spoofed: &Spoofed, word: PolicyWord, meta: &Meta, bytes: &B, work: &mut Work) {
    work.word = word;
    work.meta = *meta;
    work.direction = Direction::Ingress;
    work.workload = IncarnationId::of_device(meta.ifindex);
    packet::clear(&mut work.packet);
    work.packet.ethertype = spoofed.ethertype;
    work.packet.source = spoofed.source;
    if spoofed.ethertype == 0x0800 {
        if let Some([third, _, destination]) = bytes.at(spoofed.at + 8) {
            work.packet.protocol = byte::<1>(third);
            work.packet.destination = Address::v4(destination);
        }
    } else if let Some([second]) = bytes.at(spoofed.at + 4)
        && let Some(destination) = bytes.at(spoofed.at + 24)
    {
        work.packet.protocol = byte::<2>(second);
        work.packet.destination = Address(destination);
    }
}

#[cfg(test)]
mod tests;
