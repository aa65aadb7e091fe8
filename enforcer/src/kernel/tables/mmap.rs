//! Arrays that the programs and user space share by mmap. Input: a map with `BPF_F_MMAPABLE`. Output: its words, each of
//! which is read and written in one piece. In `kernel`, only this file and `sys` have unsafe code.
#![allow(unsafe_code, reason = "memory that the kernel shares is a raw pointer")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::kernel::sys::Map;

/// A mapped array. The kernel keeps an element at a multiple of eight bytes.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    length: usize,
    stride: usize,
    entries: u32,
    writable: bool,
}

// SAFETY: the mapping belongs to the process and lives until drop; it is read and written by atomic words only.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps an array. A mapping for reading only cannot be written to, whoever tries.
    pub(crate) fn new(map: &Map, writable: bool) -> io::Result<Self> {
        let attributes = map.attributes();
        let stride = (attributes.value_size as usize).next_multiple_of(8);
        let length = stride * attributes.entries as usize;
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address that the kernel chooses; it disturbs no other.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.fd().as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length, stride, entries: attributes.entries, writable })
    }

    /// Number of elements.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// A word of an element, to read.
    pub(crate) fn read32(&self, index: u32, offset: usize) -> u32 {
        // SAFETY: `at` checks place and alignment; the kernel keeps the memory as long as it is mapped.
        let word = unsafe { AtomicU32::from_ptr(self.at(index, offset, 4).cast()) };
        word.load(std::sync::atomic::Ordering::Acquire)
    }

    /// A double word of an element, to read.
    pub(crate) fn read64(&self, index: u32, offset: usize) -> u64 {
        // SAFETY: as above.
        let word = unsafe { AtomicU64::from_ptr(self.at(index, offset, 8).cast()) };
        word.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Stores a word; everything stored before is seen before it.
    pub(crate) fn write32(&self, index: u32, offset: usize, value: u32) {
        assert!(self.writable, "mapped for reading only");
        // SAFETY: as above, and the mapping may be written.
        let word = unsafe { AtomicU32::from_ptr(self.at(index, offset, 4).cast()) };
        word.store(value, std::sync::atomic::Ordering::Release);
    }

    /// Stores a double word; everything stored before is seen before it.
    pub(crate) fn write64(&self, index: u32, offset: usize, value: u64) {
        assert!(self.writable, "mapped for reading only");
        // SAFETY: as above, and the mapping may be written.
        let word = unsafe { AtomicU64::from_ptr(self.at(index, offset, 8).cast()) };
        word.store(value, std::sync::atomic::Ordering::SeqCst);
    }

    fn at(&self, index: u32, offset: usize, size: usize) -> *mut u8 {
        assert!(
            index < self.entries && offset + size <= self.stride && offset.is_multiple_of(size),
            "outside of the mapped array"
        );
        // SAFETY: within the mapping, by the check above.
        unsafe { self.base.as_ptr().add(index as usize * self.stride + offset) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: base and length of our own mapping, which nobody can reach any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
