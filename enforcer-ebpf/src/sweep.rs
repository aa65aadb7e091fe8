//! Frees flow state that nobody uses: one walk over the flow table.
//!
//! Input: the flow table, the clock, [`SweepArguments`]. Output: how many flows were deleted; at the cap the caller runs it
//! again.
//!
//! Packets go on beside it, on the same CPU too: of this program only a deletion, which holds its bucket's lock with
//! interrupts off, is not interrupted. So every access here is an atomic one, and this is what may happen:
//! - A visited element stays that of its key: nothing but a sweep deletes flows, and user space runs one at a time.
//! - A packet renews the flow, or takes it over, between the last look and the deletion. It passed, and its state is gone:
//!   the next one is judged as new, as it would be had the sweep come a moment before the packet. Accepted: the flow was
//!   idle for longer than it may, and nothing is wider open without its state.
//! - The kernel refuses the deletion: the bucket's lock is held beneath a program that interrupted its holder (EBUSY,
//!   EDEADLK) or was not free in time (ETIMEDOUT). The flow stays for the next sweep.
//! - A packet that looks between the deletion and the count finds the quota one flow fuller than the table. The count
//!   itself stays exact: a deletion that succeeds is the only one of its element, and takes off what that element's one
//!   insertion had added.

use core::{ffi::c_void, sync::atomic::Ordering::Relaxed};

use aya_ebpf::helpers::generated::{bpf_for_each_map_elem, bpf_jiffies64};
use enforcer_common::{
    flow_key::FlowKey,
    flow_state::{FlowValue, FlowWord, idle_limit},
    sweep::SweepArguments,
};

use crate::{lookup, maps::FLOWS};

struct Progress {
    deleted: u32,
    arguments: SweepArguments,
}

#[inline(always)]
pub(crate) fn run(arguments: SweepArguments) -> i32 {
    let mut progress = Progress { deleted: 0, arguments };
    // SAFETY: the callback has the signature that the helper calls, and `progress` outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const FLOWS).cast_mut().cast(),
            visit as *const () as *mut c_void,
            (&raw mut progress).cast(),
            0,
        );
    }
    progress.deleted.cast_signed()
}

/// Called by the kernel for each flow. Not 0: stop.
extern "C" fn visit(_map: *mut c_void, key: &FlowKey, flow: &FlowValue, progress: &mut Progress) -> i64 {
    if progress.deleted >= progress.arguments.cap {
        return 1;
    }
    let workload = flow.workload;
    let gone = lookup::is_gone(workload);
    if !gone && !is_idle(key, flow, &progress.arguments) {
        return 0;
    }
    // A packet may have come since.
    if (gone || is_idle(key, flow, &progress.arguments)) && FLOWS.remove(key).is_ok() {
        lookup::release(workload);
        progress.deleted += 1;
    }
    0
}

#[inline(always)]
fn is_idle(key: &FlowKey, flow: &FlowValue, arguments: &SweepArguments) -> bool {
    // The clock is read last, so it is not behind the packet.
    let seen = flow.last_seen.load(Relaxed);
    let idle = tick(arguments.tick_shift).wrapping_sub(seen);
    let limit = idle_limit(key.class(), FlowWord(flow.word.load(Relaxed)).state());
    u64::from(idle) * u64::from(arguments.tick_ms) > u64::from(limit) * 1000
}

/// Not that of `lookup`: its shift lies in a map that the loader of the other programs makes.
#[inline(always)]
fn tick(shift: u32) -> u32 {
    // SAFETY: no arguments; the verifier turns it into a load.
    (unsafe { bpf_jiffies64() } >> (shift & 63)) as u32
}
