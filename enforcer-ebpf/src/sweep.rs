//! Frees the state of idle flows, in one walk over the flow table.
//!
//! Input: the flow table, the clock, [`SweepArguments`]. Output: how many flows were deleted. If it reached the cap, the
//! caller runs it again.
//!
//! Packets are handled at the same time, even on the same CPU. Only a deletion is not interrupted, because it holds the lock
//! of its bucket with interrupts off. So every access here is atomic, and these cases can happen:
//! - A visited element keeps its key, because only a sweep deletes flows, and user space runs one sweep at a time.
//! - A packet renews the flow, or takes it over, between the last look and the deletion. That packet passed, but the state is
//!   gone, so the next packet is judged as new. The same would happen if the sweep had come just before the packet. This is
//!   accepted: the flow was idle for too long, and a missing state opens nothing.
//! - The kernel refuses the deletion, because a program below this one holds the bucket's lock (EBUSY, EDEADLK), or because
//!   the lock was not free in time (ETIMEDOUT). The flow stays until the next sweep.
//! - A packet that looks between the deletion and the count finds one flow more in the quota than in the table. The count
//!   itself stays exact: an element is deleted once, and the deletion takes off what its insertion had added.

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
    let quota = flow.quota;
    let gone = lookup::is_gone(quota);
    if !gone && !is_idle(key, flow, &progress.arguments) {
        return 0;
    }
    // A packet may have come since.
    if (gone || is_idle(key, flow, &progress.arguments)) && FLOWS.remove(key).is_ok() {
        lookup::release(quota);
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
