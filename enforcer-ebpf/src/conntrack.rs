//! Reads what the kernel's connection tracking knows of a packet. This file has the only reads of the kernel's own structures.
//!
//! Input: the context of a netfilter hook. Output: a [`Connection`], if the packet may have to be judged there. User space reads
//! from the kernel's BTF where the fields lie, and refuses a kernel whose tuples have another layout (`kernel/hooks/netfilter`).

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use enforcer_common::{
    id::Address,
    packet::protocol::{ICMP, ICMPV6},
    tables::PolicyTables,
    translated::{Connection, Way},
};

use crate::lookup::Maps;

/// Offset of `_nfct` in `struct sk_buff`.
#[unsafe(no_mangle)]
static SKB_NFCT: Global<u32> = Global::new(0);
/// Offset of `head` in `struct sk_buff`.
#[unsafe(no_mangle)]
static SKB_HEAD: Global<u32> = Global::new(0);
/// Offset of `network_header` in `struct sk_buff`.
#[unsafe(no_mangle)]
static SKB_NETWORK_HEADER: Global<u32> = Global::new(0);
/// Offset of `tuplehash` in `struct nf_conn`.
#[unsafe(no_mangle)]
static CONN_TUPLES: Global<u32> = Global::new(0);

/// `struct bpf_nf_ctx`.
#[repr(C)]
pub(crate) struct Context {
    state: *const u8,
    skb: *const u8,
}

/// `struct nf_conntrack_tuple_hash`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tuple {
    node: [u64; 2],
    source: [u32; 4],
    source_port: u16,
    family: u16,
    destination: [u32; 4],
    destination_port: u16,
    protocol: u8,
    direction: u8,
}

/// Bits of `_nfct` that hold `enum ip_conntrack_info`.
const INFO: u64 = 7;
/// The first of its numbers for packets against the direction in which the connection was opened.
const IS_REPLY: u64 = 3;
/// `IPS_DST_NAT`.
const DST_NAT: u64 = 1 << 5;
/// `AF_INET`.
const V4: u16 = 2;

/// A packet that may have to be judged: one whose destination was translated, and each other one while packets to Services count
/// on this. `None`: the packet has been judged by its addresses.
///
/// Its addresses are those in its header. The connection would give others where an ICMP error only quotes it, and where the NAT
/// that began it is gone: the kernel goes on to call it translated, and leaves the packet as it is.
#[inline(always)]
pub(crate) fn tracked(context: *const Context) -> Option<Connection> {
    // SAFETY: the kernel gives a valid context, and a valid skb in it.
    let skb = unsafe { (&raw const (*context).skb).read_volatile() };
    let tracked: u64 = field(skb, SKB_NFCT.load());
    let connection = tracked & !INFO;
    if connection == 0 {
        return Maps::TABLES.judges_backends().then(|| on_the_wire(skb));
    }
    let at = connection + u64::from(CONN_TUPLES.load());
    let way = if tracked & INFO >= IS_REPLY {
        Way::Answer
    } else {
        let status: u64 = read(at + 2 * size_of::<Tuple>() as u64);
        if status & DST_NAT != 0 { Way::Translated } else { Way::Plain }
    };
    if !matches!(way, Way::Translated) && !Maps::TABLES.judges_backends() {
        return None;
    }
    let mut packet = on_the_wire(skb);
    let [original, reply]: [Tuple; 2] = read(at);
    packet.protocol = original.protocol;
    packet.way = way;
    // Translation changes the source of the reply, and an ICMP type stands in the original only.
    let has_ports = !matches!(original.protocol, ICMP | ICMPV6);
    // The type lies first, whatever the order of bytes.
    let kind = u16::from(original.destination_port.to_ne_bytes()[0]);
    packet.called_port = if has_ports { u16::from_be(reply.source_port) } else { kind };
    let (opener, called) = (u16::from_be(original.source_port), packet.called_port);
    if matches!(way, Way::Answer) {
        packet.destination = address(&reply.destination, reply.family);
        (packet.source_port, packet.destination_port) = (called, opener);
    } else {
        (packet.source_port, packet.destination_port) = (opener, called);
    }
    Some(packet)
}

/// A packet by its IP header alone.
#[inline(always)]
fn on_the_wire(skb: *const u8) -> Connection {
    let head: u64 = field(skb, SKB_HEAD.load());
    let network: u16 = field(skb, SKB_NETWORK_HEADER.load());
    let words: [u32; 10] = read(head + u64::from(network));
    let (source, destination, protocol) = if words[0].to_ne_bytes()[0] >> 4 == 4 {
        (Address::v4(words[3]), Address::v4(words[4]), words[2].to_ne_bytes()[1])
    } else {
        let source = Address([words[2], words[3], words[4], words[5]]);
        (source, Address([words[6], words[7], words[8], words[9]]), words[1].to_ne_bytes()[2])
    };
    Connection { source, destination, protocol, source_port: 0, destination_port: 0, called_port: 0, way: Way::Plain }
}

#[inline(always)]
fn address(words: &[u32; 4], family: u16) -> Address {
    if family == V4 { Address::v4(words[0]) } else { Address(*words) }
}

/// A field of an skb.
#[inline(always)]
fn field<T>(skb: *const u8, offset: u32) -> T {
    // SAFETY: the verifier knows the offset as a constant and the skb by its type, and refuses a place where no such field is.
    unsafe { skb.add(offset as usize).cast::<T>().read_volatile() }
}

/// A part of the kernel's memory; zeros where there is none.
#[inline(always)]
fn read<T>(at: u64) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the whole value, with zeros if the memory cannot be read.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, at as *const core::ffi::c_void);
        value.assume_init()
    }
}
