//! Frees the state of idle flows, in one walk over the flow table.
//!
//! Input: the flow table, the clock, [`SweepArguments`]. Output: how many flows were deleted, and when the next one may be
//! over. If the number reached the cap, the caller runs it again.
//!
//! Packets are handled at the same time, even on the same CPU. Only a deletion is not interrupted, because it holds the lock
//! of its bucket with interrupts off. So every access here is atomic, and these cases can happen:
//! - The visited element is deleted by a program, which lets a half-open flow give way, and used again for another key. The
//!   key is copied before anything else, and the word must have its tag. The claim fails if the word is another one by then.
//! - A packet renews the flow, or takes it over, between the last look and the claim. Its word has changed if its state has,
//!   and the flow stays. If only the time has changed, that packet passed but the state is gone, so the next packet is judged
//!   as new. The same would happen if the sweep had come just before the packet. This is accepted: the flow was idle for too
//!   long, and a missing state opens nothing.
//! - A program claims the flow first: it deletes the flow, and nobody counts it twice.
//! - The kernel refuses the deletion, because a program below this one holds the bucket's lock (EBUSY, EDEADLK), or because
//!   the lock was not free in time (ETIMEDOUT). The element stays until the next sweep, which finds it claimed.
//! - A packet that looks between the claim and the deletion finds an element of nobody: it passes if policy lets it, without
//!   state.

use core::{ffi::c_void, sync::atomic::Ordering::Relaxed};

use aya_ebpf::helpers::generated::{bpf_for_each_map_elem, bpf_jiffies64};
use enforcer_common::{
    flow_key::FlowKey,
    flow_state::{FlowValue, FlowWord, idle_limit, least_limit},
    half_open::claim,
    sweep::SweepArguments,
};

use crate::{half_open, lookup, maps::FLOWS};

struct Progress {
    deleted: u32,
    arguments: SweepArguments,
}

#[inline(always)]
pub(crate) fn run(arguments: &mut SweepArguments) -> i32 {
    let mut progress = Progress { deleted: 0, arguments: *arguments };
    // SAFETY: the callback has the signature that the helper calls, and `progress` outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const FLOWS).cast_mut().cast(),
            visit as *const () as *mut c_void,
            (&raw mut progress).cast(),
            0,
        );
    }
    arguments.left_ms = progress.arguments.left_ms;
    progress.deleted.cast_signed()
}

/// Called by the kernel for each flow. Not 0: stop.
extern "C" fn visit(_map: *mut c_void, key: &FlowKey, flow: &FlowValue, progress: &mut Progress) -> i64 {
    if progress.deleted >= progress.arguments.cap {
        return 1;
    }
    let key = *key;
    let word = FlowWord(flow.word.load(Relaxed));
    if word == FlowWord::FREED {
        // Claimed, and counted by whoever did that.
        remove(&key, progress);
        return 0;
    }
    let quota = flow.home.quota();
    // The clock is read last, so it is not behind the packet.
    let seen = flow.last_seen.load(Relaxed);
    let idle = tick(progress.arguments.tick_shift).wrapping_sub(seen);
    let idle_ms = u64::from(idle) * u64::from(progress.arguments.tick_ms);
    let ends = lookup::is_gone(quota) || idle_ms > u64::from(idle_limit(key.class(), word.state())) * 1000;
    if ends && word.has_tag(key.tag()) && claim(flow, word) {
        match word.share() {
            Some(share) => lookup::give(quota, share),
            None => half_open::settle(&key, flow.home),
        }
        remove(&key, progress);
        return 0;
    }
    let left_ms = (u64::from(least_limit(key.class(), word.state())) * 1000).saturating_sub(idle_ms);
    progress.arguments.left_ms = progress.arguments.left_ms.min(left_ms as u32);
    0
}

/// Deletes a flow that was claimed. One that the kernel keeps is for the next sweep, at once.
#[inline(always)]
fn remove(key: &FlowKey, progress: &mut Progress) {
    if FLOWS.remove(key).is_ok() {
        progress.deleted += 1;
    } else {
        progress.arguments.left_ms = 0;
    }
}

/// Not that of `lookup`: its shift lies in a map that the loader of the other programs makes.
#[inline(always)]
fn tick(shift: u32) -> u32 {
    // SAFETY: no arguments; the verifier turns it into a load.
    (unsafe { bpf_jiffies64() } >> (shift & 63)) as u32
}
