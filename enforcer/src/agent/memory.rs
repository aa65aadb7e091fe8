//! Keeps the memory of the daemon small. Input: the revision in force. Output: memory that the kernel has again.

#![allow(unsafe_code, reason = "the C library's allocator has its settings in C alone")]

use std::time::{Duration, Instant};

use enforcer_common::id::Revision;

/// Between two times that memory is given back: each takes some milliseconds.
const PERIOD: Duration = Duration::from_secs(5);

/// Lets all threads share two heaps. By itself the C library gives each thread a heap of its own, and each heap keeps the most
/// that its thread has ever needed at once. To be called before other threads exist.
pub(super) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; no other thread uses the allocator meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// What a change has needed and no longer needs. The C library keeps most of it, since it gives back by itself only what lies at
/// the end of a heap.
#[derive(Debug)]
pub(super) struct Spare {
    revision: Revision,
    last: Instant,
}

impl Spare {
    /// Nothing is given back before a first revision.
    pub(super) fn new(now: Instant) -> Self {
        Self { revision: Revision::NONE, last: now }
    }

    /// Gives memory back if another revision is in force than the last time and that was some seconds ago.
    pub(super) fn give_back(&mut self, revision: Revision, now: Instant) {
        if self.is_due(revision, now) {
            #[cfg(target_env = "gnu")]
            // SAFETY: takes a number, and locks each heap while it looks through it.
            unsafe {
                libc::malloc_trim(0);
            }
        }
    }

    fn is_due(&mut self, revision: Revision, now: Instant) -> bool {
        let due = revision != self.revision && now >= self.last + PERIOD;
        if due {
            (self.revision, self.last) = (revision, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_a_revision_and_not_more_often_than_every_few_seconds() {
        let start = Instant::now();
        let mut spare = Spare::new(start);
        let seconds = Duration::from_secs;
        let due = [
            (0, 1, false),
            (4, 1, false),
            (5, 1, true),
            (11, 1, false),
            (12, 2, true),
            (13, 3, false),
            (16, 4, false),
            (17, 4, true),
            (60, 4, false),
        ];
        for (after, revision, is_due) in due {
            assert_eq!(spare.is_due(Revision(revision), start + seconds(after)), is_due, "after {after} s");
        }
        assert!(!Spare::new(start).is_due(Revision::NONE, start + seconds(9)), "nothing was made yet");
    }
}
