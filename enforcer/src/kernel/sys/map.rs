//! Maps that are made with exact attributes, or opened from a pin. Every key and value is checked against the map's sizes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::{address, bpf, command, info, object_get, owned, possible_cpus};

/// What makes a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MapAttributes {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// A map and the sizes that the kernel reads and writes when it is asked for an element.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    id: u32,
    attributes: MapAttributes,
}

impl Map {
    /// Makes a map. `inner`: the pattern of an outer map's inner maps.
    pub(crate) fn create(name: &str, attributes: &MapAttributes, inner: Option<&Self>) -> io::Result<Self> {
        #[repr(C)]
        struct Create {
            attributes: [u32; 5],
            inner_map_fd: i32,
            numa_node: u32,
            name: [u8; 16],
        }
        let MapAttributes { kind, key_size, value_size, entries, flags } = *attributes;
        let mut create = Create {
            attributes: [kind, key_size, value_size, entries, flags],
            inner_map_fd: inner.map_or(0, |map| map.fd.as_raw_fd()),
            numa_node: 0,
            name: [0; 16],
        };
        // One byte stays for the end of the string.
        for (place, byte) in create.name.iter_mut().take(15).zip(name.bytes()) {
            *place = byte;
        }
        // SAFETY: `Create` has the layout of this command's part of `union bpf_attr`; no pointers in it.
        let fd = owned(unsafe { bpf(command::MAP_CREATE, &mut create) }?);
        Self::from_fd(fd)
    }

    /// Keeps user space from changing the map from now on, so that the verifier takes what it holds for constants.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let mut freeze = [self.fd.as_raw_fd()];
        // SAFETY: the map: this command's layout; no pointers in it.
        unsafe { bpf(command::MAP_FREEZE, &mut freeze) }.map(|_| ())
    }

    /// The map that is pinned at a path.
    pub(crate) fn pinned(path: &Path) -> io::Result<Self> {
        Self::from_fd(object_get(path)?)
    }

    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // Type, id, key size, value size, entries, flags of `struct bpf_map_info`.
        let [kind, id, key_size, value_size, entries, flags] = info(fd.as_fd())?;
        Ok(Self { fd, id, attributes: MapAttributes { kind, key_size, value_size, entries, flags } })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn attributes(&self) -> &MapAttributes {
        &self.attributes
    }

    /// Bytes that the kernel says the map takes. For a hash without preallocated elements they grow with each element.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        let memory = told.lines().find_map(|line| line.strip_prefix("memlock:"));
        memory.and_then(|memory| memory.trim().parse().ok()).ok_or_else(|| Errno::ENODATA.into())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The value of a key; for a per-CPU map one for each possible CPU, each rounded up to 8 bytes. `None`: no such key.
    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<Option<()>> {
        self.check_key(key)?;
        if value.len() < self.lookup_size()? {
            return Err(wrong_size());
        }
        found(self.element(command::MAP_LOOKUP_ELEM, key.as_ptr(), value.as_mut_ptr(), 0))
    }

    /// Adds or replaces an element.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check_key(key)?;
        if self.is_per_cpu() || value.len() != self.attributes.value_size as usize {
            return Err(wrong_size());
        }
        self.element(command::MAP_UPDATE_ELEM, key.as_ptr(), value.as_ptr().cast_mut(), 0)
    }

    /// Removes an element. `None`: no such key.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<Option<()>> {
        self.check_key(key)?;
        found(self.element(command::MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut(), 0))
    }

    /// The key after `key`, or the first one. `None`: that was the last.
    pub(crate) fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        if let Some(key) = key {
            self.check_key(key)?;
        }
        let mut next = vec![0; self.attributes.key_size as usize];
        let from = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
        let end = found(self.element(command::MAP_GET_NEXT_KEY, from, next.as_mut_ptr(), 0))?;
        Ok(end.map(|()| next))
    }

    /// Adds many elements in one call; keys and values lie one behind the other.
    pub(crate) fn update_batch(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        #[repr(C)]
        struct Batch {
            from: u64,
            to: u64,
            keys: u64,
            values: u64,
            count: u32,
            map_fd: i32,
            elem_flags: u64,
            flags: u64,
        }
        let (key_size, value_size) = (self.attributes.key_size as usize, self.attributes.value_size as usize);
        let count = keys.len() / key_size.max(1);
        if self.is_per_cpu() || keys.len() != count * key_size || values.len() != count * value_size {
            return Err(wrong_size());
        }
        let mut batch = Batch {
            from: 0,
            to: 0,
            keys: address(keys.as_ptr()),
            values: address(values.as_ptr()),
            count: u32::try_from(count).map_err(|_| wrong_size())?,
            map_fd: self.fd.as_raw_fd(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout is this command's; both slices hold `count` elements and outlive the call, which reads them.
        unsafe { bpf(command::MAP_UPDATE_BATCH, &mut batch) }.map(|_| ())
    }

    fn element(&self, command: i32, key: *const u8, value: *mut u8, flags: u64) -> io::Result<()> {
        #[repr(C)]
        struct Element {
            map_fd: i32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut element =
            Element { map_fd: self.fd.as_raw_fd(), pad: 0, key: address(key), value: address(value), flags };
        // SAFETY: the layout is this command's; the callers have checked that key and value are as long as the kernel takes
        // them for this map, and both outlive the call.
        unsafe { bpf(command, &mut element) }.map(|_| ())
    }

    fn check_key(&self, key: &[u8]) -> io::Result<()> {
        if key.len() == self.attributes.key_size as usize { Ok(()) } else { Err(wrong_size()) }
    }

    fn is_per_cpu(&self) -> bool {
        matches!(self.attributes.kind, kind::PERCPU_HASH | kind::PERCPU_ARRAY)
    }

    fn lookup_size(&self) -> io::Result<usize> {
        let size = self.attributes.value_size as usize;
        Ok(if self.is_per_cpu() { size.next_multiple_of(8) * possible_cpus()? } else { size })
    }
}

/// Map types, from the kernel's `enum bpf_map_type`.
pub(crate) mod kind {
    pub(crate) const HASH: u32 = 1;
    pub(crate) const ARRAY: u32 = 2;
    pub(crate) const PERCPU_HASH: u32 = 5;
    pub(crate) const PERCPU_ARRAY: u32 = 6;
    pub(crate) const ARRAY_OF_MAPS: u32 = 12;
    pub(crate) const RINGBUF: u32 = 27;
}

fn found(result: io::Result<()>) -> io::Result<Option<()>> {
    match result {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn wrong_size() -> io::Error {
    Errno::EINVAL.into()
}
