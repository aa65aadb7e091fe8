//! Frees flow state that nobody uses: one walk over the flow table.
//!
//! Input: the flow table, the clock. Output: how many flows were deleted; at the cap the caller runs it again.

use core::{ffi::c_void, sync::atomic::Ordering::Relaxed};

use aya_ebpf::{Global, helpers::generated::bpf_for_each_map_elem};
use enforcer_common::flow_state::{FlowKey, FlowValue, FlowWord, idle_limit};

use crate::{lookup, maps::FLOWS};

/// Milliseconds of a tick; user space sets it by the kernel's HZ.
#[unsafe(no_mangle)]
static TICK_MS: Global<u32> = Global::new(1024);
/// Flows that one run deletes at most: each takes a bucket's lock, which the hot path may wait for.
#[unsafe(no_mangle)]
static SWEEP_CAP: Global<u32> = Global::new(16_384);

struct Progress {
    deleted: u32,
    cap: u32,
    tick_ms: u32,
}

#[inline(always)]
pub(crate) fn run() -> i32 {
    let mut progress = Progress { deleted: 0, cap: SWEEP_CAP.load(), tick_ms: TICK_MS.load() };
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
    if progress.deleted >= progress.cap {
        return 1;
    }
    let workload = flow.workload;
    let gone = lookup::is_gone(workload);
    if !gone && !is_idle(key, flow, progress.tick_ms) {
        return 0;
    }
    // A packet may have come since.
    if (gone || is_idle(key, flow, progress.tick_ms)) && FLOWS.remove(key).is_ok() {
        lookup::release(workload);
        progress.deleted += 1;
    }
    0
}

#[inline(always)]
fn is_idle(key: &FlowKey, flow: &FlowValue, tick_ms: u32) -> bool {
    // The clock is read last, so it is not behind the packet.
    let seen = flow.last_seen.load(Relaxed);
    let idle = lookup::tick().wrapping_sub(seen);
    let limit = idle_limit(key.class(), FlowWord(flow.word.load(Relaxed)).state());
    u64::from(idle) * u64::from(tick_ms) > u64::from(limit) * 1000
}
