//! Adds half-open flows, of which the oldest give way.
//!
//! Input: a key and a value. Output: an element of the flow table, and its key in a place of `HALF_OPEN`, whose last owner is
//! deleted if it is half open still.
//!
//! Other CPUs add flows at the same time. Each gets a place of its own by the counter; only one that comes when all others
//! have come round would share it. A key that is torn by that belongs to no flow, and its flow goes by its age.

use core::sync::atomic::Ordering::Relaxed;

use aya_ebpf::{Global, bindings::BPF_NOEXIST};
use enforcer_common::{
    flow_key::FlowKey,
    flow_state::{FlowValue, FlowWord, Home},
    half_open::{HalfOpen, claim, first_place, to_give_way},
    limits,
    quota::Quota,
    verdict::Reason,
};

use crate::maps::{FLOWS, HALF_OPEN, QUOTAS};
use crate::outcome::done;

/// One less than the places of a ring; user space sets it by the size of the map.
#[unsafe(no_mangle)]
static HALF_OPEN_MASK: Global<u32> = Global::new(limits::half_open(limits::FLOWS) / 2 - 1);

const EEXIST: i32 = -17;

/// The reason, 0 if the flow is new, 255 if it is there already. Out of line, like those of `lookup.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn insert_flow(key: *const FlowKey, flow: *mut FlowValue) -> u64 {
    // SAFETY: the verifier knows a pointer as null or as that of a whole value.
    let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_mut()) }) else {
        return Reason::Internal as u64;
    };
    done(insert(key, flow))
}

#[inline(always)]
fn insert(key: &FlowKey, flow: &mut FlowValue) -> Result<bool, Reason> {
    let quota = flow.home.quota();
    let role = FlowWord(flow.word.load(Relaxed)).role().ok_or(Reason::Internal)?;
    QUOTAS.get(quota.0).ok_or(Reason::Internal)?.has_room(role.direction(), QUOTAS.get(Quota::POOL.0))?;
    let mask = HALF_OPEN_MASK.load();
    let first = first_place(role.direction(), mask);
    let number = HALF_OPEN.get(first).ok_or(Reason::Internal)?.next.fetch_add(1, Relaxed);
    let place = first + (number & mask);
    flow.home = Home::new(quota, place);
    match FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            move_in(key, place);
            Ok(true)
        }
        Err(EEXIST) => Ok(false),
        Err(_) => Err(Reason::FlowTableFull),
    }
}

/// Puts a key into a place, and deletes the flow that stood there if it is still half open.
#[inline(always)]
fn move_in(key: &FlowKey, place: u32) {
    let Some(owner) = at(place) else {
        return;
    };
    let last = owner.key;
    owner.key = *key;
    if last == FlowKey::NONE {
        return;
    }
    // SAFETY: as for `Flows::flow` in `lookup.rs`.
    if let Some(flow) = unsafe { FLOWS.get(&last) }
        && let Some(word) = to_give_way(flow, &last, place)
        && claim(flow, word)
    {
        // The kernel refuses it if a program below this one holds the lock of the bucket: the sweep comes.
        let _ = FLOWS.remove(&last);
    }
}

/// Frees the place that a flow had while it was half open.
#[inline(always)]
pub(crate) fn settle(key: &FlowKey, home: Home) {
    if let Some(owner) = at(home.half_open())
        && owner.key == *key
    {
        owner.key.clear();
    }
}

#[inline(always)]
fn at(place: u32) -> Option<&'static mut HalfOpen> {
    // SAFETY: a place of the array. Whoever else writes it at the same time does so by the same words (see above).
    HALF_OPEN.get_ptr_mut(place).map(|owner| unsafe { &mut *owner })
}
