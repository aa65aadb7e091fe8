//! Counts denied packets by flow, and sends the first packet of each denied flow as an event.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_smp_processor_id,
};
use enforcer_common::{
    denial::{self, BusyKey, Class, Events, Way},
    event::DenialEvent,
    limits::{DENIAL_SETS, Global},
    verdict::REASON_COUNT,
    work::Work,
};

use crate::lookup::tick;
use crate::maps::{BUSY, DENIALS, DENIED, EVENTS, GLOBALS};

/// Counts a denied packet. Exactly one of the three counts rises.
///
/// A function of its own, and global, so that the verifier follows it once and not from every way to be denied; it knows
/// the pointer as null or as that of a whole value.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn count_denied(work: *const Work, reason: u32) -> u64 {
    // SAFETY: as above.
    if let Some(work) = unsafe { work.as_ref() } {
        count(reason, work, tick());
    }
    0
}

#[inline(always)]
fn count(reason: u32, work: &Work, tick: u32) {
    let index = work.direction as u32 * REASON_COUNT as u32 + reason;
    let Some(counts) = DENIED.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: a per-CPU value, and programs of this kind do not interrupt each other on a CPU.
    let counts = unsafe { &mut *counts };
    match class(reason, work, tick) {
        Class::Logged => counts.logged += 1,
        Class::Suppressed => counts.suppressed += 1,
        Class::Lost => counts.lost += 1,
        Class::Busy => {
            if count_busy(reason, work) {
                counts.suppressed += 1;
            } else {
                counts.lost += 1;
            }
        }
    }
}

#[inline(always)]
fn class(reason: u32, work: &Work, tick: u32) -> Class {
    let first = denial::way_of(work, reason as u8, tick);
    let seed = GLOBALS.get(Global::Seed as u32).copied().unwrap_or_default();
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let set = first.key.set(seed, DENIAL_SETS);
    match DENIALS.get_ptr_mut(cpu * DENIAL_SETS + set) {
        // SAFETY: this CPU's slice, and programs of this kind do not interrupt each other on a CPU. User space only reads.
        Some(ways) => denial::count(unsafe { &mut *ways }, &first, &Ring { cpu, set }),
        None => Class::Busy,
    }
}

/// False: there is no room to count it.
#[inline(always)]
fn count_busy(reason: u32, work: &Work) -> bool {
    let key = BusyKey { workload: work.workload, direction: work.direction as u8, reason: reason as u8, pad: 0 };
    match BUSY.get_ptr_mut(&key) {
        Some(count) => {
            // SAFETY: a per-CPU value, as above.
            unsafe { *count += 1 };
            true
        }
        // If another CPU has added the key meanwhile this sets only the own value, which is still zero.
        None => BUSY.insert(&key, &1, u64::from(BPF_ANY)).is_ok(),
    }
}

/// The ring buffer, for ways of one set.
struct Ring {
    cpu: u32,
    set: u32,
}

impl Ring {
    #[inline(always)]
    fn send(&self, kind: u16, place: u32, way: &Way) -> bool {
        let Some(mut entry) = EVENTS.reserve_untyped::<DenialEvent>(0) else {
            return false;
        };
        entry.write(DenialEvent {
            version: DenialEvent::VERSION,
            kind,
            cpu: self.cpu,
            set: self.set,
            place,
            way: *way,
        });
        // A wake-up costs fifty times the event; the reader comes on a timer.
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        true
    }
}

impl Events for Ring {
    #[inline(always)]
    fn opened(&self, place: u32, way: &Way) -> bool {
        self.send(DenialEvent::OPENED, place, way)
    }

    #[inline(always)]
    fn closed(&self, place: u32, way: &Way) -> bool {
        self.send(DenialEvent::CLOSED, place, way)
    }
}
