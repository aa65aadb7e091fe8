//! The tcx programs on the host side of a container's veth, the guard on all other devices, the program behind the node's
//! translation, and the sweep. This file has the entry points only.
//!
//! Input: an skb and the maps of `maps.rs`. Output: the kernel's verdict code. The two halves of
//! `enforcer_common::datapath::run` decide; the modules here give that function access to the kernel. The steps to
//! `icmp_error`, `judge` and `decide` go through a function of `lookup.rs`, which calls the same code out of line.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        unsafe_code,
        clippy::needless_borrows_for_generic_args,
        reason = "maps, packet memory and helpers are raw pointers to the kernel; a key given by value is copied again"
    )
)]
#![deny(clippy::wildcard_enum_match_arm)]

#[cfg(target_arch = "bpf")]
mod conntrack;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod half_open;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod outcome;
#[cfg(target_arch = "bpf")]
mod sweep;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::__sk_buff;
    use enforcer_common::{
        datapath, guard,
        id::Direction,
        live,
        opaque::Flag,
        packet,
        side::Side,
        sweep::SweepArguments,
        tables::PolicyTables,
        verdict::{Reason, Verdict},
    };

    use crate::{
        conntrack, context, emit,
        lookup::{self, Maps},
        maps::SCRATCH,
        sweep,
    };

    /// Let the next program of the chain, or the stack, have the packet: an OK would end the chain.
    const TCX_NEXT: i32 = -1;
    /// Drop.
    const TC_ACT_SHOT: i32 = 2;
    /// Netfilter's drop.
    const NF_DROP: i32 = 0;
    /// Let the next program of the hook, or the stack, have the packet.
    const NF_ACCEPT: i32 = 1;

    // Not by aya's macro: it wraps the body in a function of its own, and a call costs as much as a quarter of the verdict.

    /// tcx ingress on the host side: what the workload sends.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn from_workload(skb: *mut __sk_buff) -> i32 {
        run(skb, Side::FromWorkload.direction())
    }

    /// tcx egress on the host side: what the workload gets.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn to_workload(skb: *mut __sk_buff) -> i32 {
        run(skb, Side::ToWorkload.direction())
    }

    /// tcx ingress of a device that leads to no workload: what comes in with a local workload's source is dropped, unless it
    /// comes from there.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn guard(skb: *mut __sk_buff) -> i32 {
        let maps = Maps { skb };
        let meta = context::meta(skb);
        let bytes = context::Network(skb);
        let Some(spoofed) = guard::look(&maps, meta.ifindex, &bytes) else {
            return TCX_NEXT;
        };
        if let Some(work) = SCRATCH.get_ptr_mut(0) {
            // SAFETY: as in `run`.
            let work = unsafe { &mut *work };
            guard::note(&spoofed, maps.word(), &meta, &bytes, work);
            emit::count_denied(work, Reason::SpoofedSource as u32);
        }
        TC_ACT_SHOT
    }

    /// Both sides of a veth for which the tables have no room: only ARP passes. It uses no map, so nothing that is full, damaged
    /// or gone can open it.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn closed(skb: *mut __sk_buff) -> i32 {
        // SAFETY: the kernel gives a valid context.
        let (protocol, length, vlan) = unsafe { ((*skb).protocol, (*skb).len, (*skb).vlan_present) };
        if packet::is_arp(u16::from_be(protocol as u16), length) && vlan == 0 { TCX_NEXT } else { TC_ACT_SHOT }
    }

    /// Netfilter, behind the translation of destinations: what a workload sends to a Service is judged by its backend.
    ///
    /// The section is a stand-in, as that of the sweep below.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn translated(context: *const conntrack::Context) -> i32 {
        let Some(connection) = conntrack::tracked(context) else {
            return NF_ACCEPT;
        };
        let Some(work) = SCRATCH.get_ptr_mut(0) else {
            return NF_DROP;
        };
        match lookup::judge_backend(&raw const connection, work) {
            0 => NF_ACCEPT,
            reason => {
                emit::count_denied(work, reason as u32);
                NF_DROP
            }
        }
    }

    /// Frees idle flows and those of workloads that are gone; run by the daemon's timer, never attached. Returns how many.
    ///
    /// Of type syscall and sleepable. The section says otherwise, as the library that reads the object knows none for that
    /// type; user space loads this program by itself.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier")]
    extern "C" fn sweep(arguments: *mut SweepArguments) -> i32 {
        // SAFETY: user space hands over as many bytes, or the kernel refuses the run.
        sweep::run(unsafe { &mut *arguments })
    }

    #[inline(always)]
    fn run(skb: *mut __sk_buff, direction: Direction) -> i32 {
        let maps = Maps { skb };
        let mut absent = Flag::lowered();
        if live::look(&maps, direction, &context::meta(skb), &context::Bytes::linear(skb), &mut absent) {
            return TCX_NEXT;
        }
        // The devices are read a second time here. If the values from above were kept, every packet would need stack
        // space for them.
        let meta = context::meta(skb);
        let Some(work) = SCRATCH.get_ptr_mut(0) else {
            return TC_ACT_SHOT;
        };
        // SAFETY: this CPU's place, and programs of this kind do not interrupt each other on a CPU.
        let work = unsafe { &mut *work };
        let verdict = match context::Bytes::pulled(skb) {
            Some(bytes) => datapath::judge_frame(&maps, direction, &meta, &bytes, absent.is_raised(), work),
            None => datapath::unreadable(&maps, direction, &meta, work),
        };
        match verdict {
            Verdict::Allow => TCX_NEXT,
            Verdict::Deny(reason) => {
                emit::count_denied(work, reason as u32);
                TC_ACT_SHOT
            }
        }
    }

    /// No helper that is called here is reserved to GPL programs.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 11] = *b"Apache-2.0\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        // The verifier refuses a program that could get here.
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
