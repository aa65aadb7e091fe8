//! Reads a packet's bytes in the kernel. This file has the only packet-pointer arithmetic.
//!
//! Input: an skb. Output: its [`Bytes`], whose headers lie in directly readable memory, its [`Network`] header, and its
//! [`Meta`].

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data},
};
use enforcer_common::{
    guard::NetworkBytes,
    home::Station,
    id::Ifindex,
    limits::VLAN_TAGS,
    packet::{HEAD, PacketBytes},
    work::Meta,
};

/// The devices of the frame.
#[inline(always)]
pub(crate) fn meta(skb: *mut __sk_buff) -> Meta {
    // SAFETY: the kernel gives a valid context; the verifier rewrites these loads. Volatile: see the callers.
    unsafe {
        Meta {
            ifindex: Ifindex((&raw const (*skb).ifindex).read_volatile()),
            ingress_ifindex: Ifindex((&raw const (*skb).ingress_ifindex).read_volatile()),
            vlan: (&raw const (*skb).vlan_present).read_volatile() != 0,
        }
    }
}

/// The frame. `data..end` is the linear part.
pub(crate) struct Bytes {
    skb: *mut __sk_buff,
    data: usize,
    end: usize,
    length: u32,
}

impl Bytes {
    /// The frame with its headers in the linear part; `None` if the kernel could not bring them there.
    #[inline(always)]
    pub(crate) fn pulled(skb: *mut __sk_buff) -> Option<Self> {
        let bytes = Self::linear(skb);
        let wanted = if bytes.length < HEAD { bytes.length } else { HEAD };
        if bytes.end - bytes.data >= wanted as usize {
            return Some(bytes);
        }
        // SAFETY: the helper takes any length; all packet pointers are read anew behind it.
        if unsafe { bpf_skb_pull_data(skb, wanted) } != 0 {
            return None;
        }
        Some(Self::linear(skb))
    }

    /// The frame as it is.
    #[inline(always)]
    pub(crate) fn linear(skb: *mut __sk_buff) -> Self {
        // SAFETY: the kernel gives a valid context. Volatile, so that no pointer outlives a pull.
        unsafe {
            Self {
                skb,
                data: (&raw const (*skb).data).read_volatile() as usize,
                end: (&raw const (*skb).data_end).read_volatile() as usize,
                length: (&raw const (*skb).len).read_volatile(),
            }
        }
    }
}

impl PacketBytes for Bytes {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn ethertype(&self) -> Option<u16> {
        if self.data + 14 > self.end {
            return None;
        }
        // SAFETY: checked above; half words lie on even addresses.
        Some(u16::from_be(unsafe { *((self.data + 12) as *const u16) }))
    }

    #[inline(always)]
    fn station(&self) -> Station {
        if self.data + 14 > self.end {
            return Station::default();
        }
        let from = self.data as *const u16;
        // SAFETY: as above.
        Station(unsafe { [*from, *from.add(1), *from.add(2)] })
    }

    #[inline(always)]
    fn fixed<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        if self.data + offset + 4 * N > self.end {
            return None;
        }
        let from = (self.data + offset) as *const u32;
        let mut words = [0; N];
        for (place, word) in words.iter_mut().enumerate() {
            // SAFETY: checked above. The kernel aligns the IP header to four bytes, or runs on a machine that need not;
            // loads declared as unaligned would become one load a byte.
            *word = unsafe { *from.add(place) };
        }
        Some(words)
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        load(self.skb, offset)
    }
}

/// The frame, for reads that do not depend on its linear part.
pub(crate) struct Anywhere(pub(crate) *mut __sk_buff);

impl PacketBytes for Anywhere {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the kernel gives a valid context.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn ethertype(&self) -> Option<u16> {
        let [word] = self.at(12)?;
        Some((u32::from_be(word) >> 16) as u16)
    }

    #[inline(always)]
    fn fixed<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        load(self.0, offset as u32)
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        load(self.0, offset)
    }
}

/// The frame from its network header on, whatever lies before: the devices of tunnels have no Ethernet header.
pub(crate) struct Network(pub(crate) *mut __sk_buff);

impl NetworkBytes for Network {
    #[inline(always)]
    fn ethertype(&self) -> u16 {
        // SAFETY: the kernel gives a valid context; the field holds two bytes in network order.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.linear(offset).or_else(|| {
            // SAFETY: the helper takes any length up to that of the frame, and nothing points into the packet.
            unsafe { bpf_skb_pull_data(self.0, (*self.0).len.min(REACH)) };
            self.linear(offset)
        })
    }
}

/// Ethernet header, tags and IPv6 header: what the guard reads at most.
const REACH: u32 = 14 + 4 * VLAN_TAGS as u32 + 40;

impl Network {
    /// The words, if they are in the linear part.
    #[inline(always)]
    fn linear<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the helper writes all of `words`, also where it returns an error.
        unsafe {
            let (to, length) = (words.as_mut_ptr().cast(), 4 * N as u32);
            (bpf_skb_load_bytes_relative(self.0.cast(), offset, to, length, BPF_HDR_START_NET) == 0)
                .then(|| words.assume_init())
        }
    }
}

#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u32; N]> {
    let mut words = MaybeUninit::<[u32; N]>::uninit();
    // SAFETY: the helper writes all of `words` or returns an error.
    unsafe {
        (bpf_skb_load_bytes(skb.cast(), offset, words.as_mut_ptr().cast(), 4 * N as u32) == 0)
            .then(|| words.assume_init())
    }
}
