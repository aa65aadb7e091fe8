//! Keeps the memory of the daemon small.

#![allow(unsafe_code, reason = "the C library's allocator has its settings in C alone")]

/// Lets all threads share two heaps. By itself the C library gives each thread a heap of its own, and each heap keeps the most
/// that its thread has ever needed at once. To be called before other threads exist.
pub(super) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; no other thread uses the allocator meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
