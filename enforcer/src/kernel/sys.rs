//! bpf(2) as far as aya does not offer it: maps with exact attributes, pins with information about them, tcx links by
//! ifindex, the chain of a device. Input and output: plain data and file descriptors. One of two files with unsafe code.
#![allow(
    unsafe_code,
    reason = "bpf(2) takes structs of pointers; each call is checked against the sizes of the map that it touches"
)]

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// Commands of bpf(2), from the kernel's `enum bpf_cmd`.
mod command {
    pub(super) const MAP_CREATE: i32 = 0;
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const MAP_UPDATE_ELEM: i32 = 2;
    pub(super) const MAP_DELETE_ELEM: i32 = 3;
    pub(super) const MAP_GET_NEXT_KEY: i32 = 4;
    pub(super) const OBJ_PIN: i32 = 6;
    pub(super) const OBJ_GET: i32 = 7;
    pub(super) const PROG_TEST_RUN: i32 = 10;
    pub(super) const OBJ_GET_INFO_BY_FD: i32 = 15;
    pub(super) const PROG_QUERY: i32 = 16;
    pub(super) const MAP_UPDATE_BATCH: i32 = 26;
    pub(super) const LINK_CREATE: i32 = 28;
    pub(super) const LINK_UPDATE: i32 = 29;
    pub(super) const LINK_DETACH: i32 = 34;
}

/// Put before every other program of the chain.
const BPF_F_BEFORE: u32 = 1 << 3;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// Programs of one hook that a query can tell of: the kernel's own limit for a chain (`BPF_MPROG_MAX`).
const CHAIN: usize = 64;

/// How often a call is made that the kernel asks to repeat.
const ATTEMPTS: u32 = 8;

/// The two hooks of tcx, from the kernel's `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub(crate) enum Hook {
    /// What the device receives: what the workload sends.
    Ingress = 46,
    /// What the device transmits: what the workload gets.
    Egress = 47,
}

/// What makes a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MapAttributes {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// A tcx link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    pub(crate) program: u32,
    /// 0: its device is gone.
    pub(crate) ifindex: u32,
    pub(crate) hook: u32,
}

/// One place of a device's chain, first to last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attached {
    pub(crate) program: u32,
    /// 0: attached without a link.
    pub(crate) link: u32,
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
        let MapAttributes {
            kind,
            key_size,
            value_size,
            entries,
            flags,
        } = *attributes;
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

    /// The map that is pinned at a path.
    pub(crate) fn pinned(path: &Path) -> io::Result<Self> {
        Self::from_fd(object_get(path)?)
    }

    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // Type, id, key size, value size, entries, flags of `struct bpf_map_info`.
        let [kind, id, key_size, value_size, entries, flags] = info(fd.as_fd())?;
        Ok(Self {
            fd,
            id,
            attributes: MapAttributes {
                kind,
                key_size,
                value_size,
                entries,
                flags,
            },
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn attributes(&self) -> &MapAttributes {
        &self.attributes
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
            in_batch: u64,
            out_batch: u64,
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
            in_batch: 0,
            out_batch: 0,
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
        let mut element = Element {
            map_fd: self.fd.as_raw_fd(),
            pad: 0,
            key: address(key),
            value: address(value),
            flags,
        };
        // SAFETY: the layout is this command's; the callers have checked that key and value are as long as the kernel takes
        // them for this map, and both outlive the call.
        unsafe { bpf(command, &mut element) }.map(|_| ())
    }

    fn check_key(&self, key: &[u8]) -> io::Result<()> {
        if key.len() == self.attributes.key_size as usize {
            Ok(())
        } else {
            Err(wrong_size())
        }
    }

    fn is_per_cpu(&self) -> bool {
        matches!(self.attributes.kind, kind::PERCPU_HASH | kind::PERCPU_ARRAY)
    }

    fn lookup_size(&self) -> io::Result<usize> {
        let size = self.attributes.value_size as usize;
        Ok(if self.is_per_cpu() {
            size.next_multiple_of(8) * possible_cpus()?
        } else {
            size
        })
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

/// Number of CPUs that may ever be there: per-CPU values and slices have one part for each.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

/// Pins an object; EEXIST if the path is taken.
pub(crate) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    object(command::OBJ_PIN, fd.as_raw_fd(), path).map(|_| ())
}

/// The object that is pinned at a path.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    Ok(owned(object(command::OBJ_GET, 0, path)?))
}

fn object(command: i32, fd: i32, path: &Path) -> io::Result<c_long> {
    #[repr(C)]
    struct Object {
        pathname: u64,
        bpf_fd: i32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object {
        pathname: address(path.as_ptr().cast()),
        bpf_fd: fd,
        file_flags: 0,
    };
    // SAFETY: the layout is this command's; the path ends with a zero byte and outlives the call.
    unsafe { bpf(command, &mut object) }
}

/// What a link is attached to.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // Type, id, program and padding of `struct bpf_link_info`, then the part for tcx: ifindex and hook.
    let [kind, id, program, _, ifindex, hook] = info(fd)?;
    if kind != LINK_TYPE_TCX {
        return Err(Errno::EMEDIUMTYPE.into());
    }
    Ok(LinkInfo {
        id,
        program,
        ifindex,
        hook,
    })
}

/// Id of a program and of the maps that it uses.
pub(crate) fn program_info(fd: BorrowedFd<'_>) -> io::Result<(u32, Vec<u32>)> {
    // Of `struct bpf_prog_info`: id is word 1, nr_map_ids word 13 and the pointer to the ids words 14 and 15.
    let mut maps = [0_u32; 64];
    let mut words = [0_u32; 16];
    words[13] = maps.len() as u32;
    let ids = address(maps.as_mut_ptr().cast());
    words[14] = ids as u32;
    words[15] = (ids >> 32) as u32;
    if cfg!(target_endian = "big") {
        words.swap(14, 15);
    }
    // SAFETY: the words give the kernel one pointer, to as many ids as they say, and these outlive the call.
    unsafe { info_into(fd, &mut words) }?;
    let count = (words[13] as usize).min(maps.len());
    Ok((words[1], maps[..count].to_vec()))
}

/// Attaches a program as the first of a device's chain.
pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        prog_fd: i32,
        ifindex: u32,
        hook: u32,
        flags: u32,
        relative_fd: u32,
        pad: u32,
        expected_revision: u64,
    }
    let mut create = Create {
        prog_fd: program.as_raw_fd(),
        ifindex,
        hook: hook as u32,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: the layout is this command's; no pointers in it.
    Ok(owned(unsafe { bpf(command::LINK_CREATE, &mut create) }?))
}

/// Puts another program in a link's place, in one step.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: link, program, flags, old program: this command's layout; no pointers in it.
    unsafe { bpf(command::LINK_UPDATE, &mut update) }.map(|_| ())
}

/// Detaches a link from its device, at once: a link that only loses its last pin goes some time later. ENOLINK: the device
/// is gone already.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut detach = [link.as_raw_fd()];
    // SAFETY: the link alone is this command's layout; no pointers in it.
    unsafe { bpf(command::LINK_DETACH, &mut detach) }.map(|_| ())
}

/// The chain of a device in this network namespace. ENODEV: no such device here.
pub(crate) fn chain(ifindex: u32, hook: Hook) -> io::Result<Vec<Attached>> {
    #[repr(C)]
    struct Query {
        ifindex: u32,
        hook: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; CHAIN], [0_u32; CHAIN]);
    let mut query = Query {
        ifindex,
        hook: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: address(programs.as_mut_ptr().cast()),
        count: CHAIN as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: address(links.as_mut_ptr().cast()),
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the layout is this command's; both arrays hold `count` ids and outlive the call.
    match unsafe { bpf(command::PROG_QUERY, &mut query) } {
        Ok(_) => {}
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let places = programs.into_iter().zip(links).take(query.count as usize);
    Ok(places.map(|(program, link)| Attached { program, link }).collect())
}

/// Runs a classifier once on a frame and gives its return value.
pub(crate) fn run_classifier(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct TestRun {
        prog_fd: i32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_sizes: [u32; 2],
        ctx: [u64; 2],
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    let mut run = TestRun {
        prog_fd: program.as_raw_fd(),
        retval: 0,
        data_size_in: frame.len() as u32,
        data_size_out: 0,
        data_in: address(frame.as_ptr()),
        data_out: 0,
        repeat: 1,
        duration: 0,
        ctx_sizes: [0; 2],
        ctx: [0; 2],
        flags: 0,
        cpu: 0,
        batch_size: 0,
        pad: 0,
    };
    // SAFETY: the layout is this command's; the frame is as long as said, is only read, and outlives the call.
    unsafe { bpf(command::PROG_TEST_RUN, &mut run) }?;
    Ok(run.retval)
}

/// Waits until every program run that has begun is over. False: this kernel refuses to.
pub(crate) fn membarrier() -> bool {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: takes three numbers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    done == 0
}

/// The first words of an object's information.
fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    let mut words = [0; N];
    // SAFETY: all words are zero, so the kernel is given no pointer to write through.
    unsafe { info_into(fd, &mut words) }?;
    Ok(words)
}

/// # Safety
/// Pointers in `words` must be valid for what the kernel writes through them.
unsafe fn info_into<const N: usize>(fd: BorrowedFd<'_>, words: &mut [u32; N]) -> io::Result<()> {
    // The kernel writes u64s.
    #[repr(C, align(8))]
    struct Aligned<const N: usize>([u32; N]);
    #[repr(C)]
    struct Info {
        bpf_fd: i32,
        info_len: u32,
        info: u64,
    }
    let mut aligned = Aligned(*words);
    let mut info = Info {
        bpf_fd: fd.as_raw_fd(),
        info_len: size_of::<[u32; N]>() as u32,
        info: address((&raw mut aligned).cast()),
    };
    // SAFETY: the layout is this command's; the kernel writes at most `info_len` bytes, and the caller vouches for the rest.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut info) }?;
    *words = aligned.0;
    Ok(())
}

/// # Safety
/// `attributes` must have the layout of the command's part of `union bpf_attr`, padding zeroed, with valid pointers.
unsafe fn bpf<A>(command: i32, attributes: &mut A) -> io::Result<c_long> {
    let mut attempts = 1;
    loop {
        // SAFETY: pointer and size are those of `attributes`; the caller vouches for what it holds.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
        match Errno::result(result) {
            Ok(result) => return Ok(result),
            // A signal came between.
            Err(Errno::EINTR | Errno::EAGAIN) if attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this call, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn address(pointer: *const u8) -> u64 {
    pointer.expose_provenance() as u64
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

/// The cookie of the network namespace that a socket is in.
pub(crate) fn namespace_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes the eight bytes of `cookie` and the size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    Errno::result(result)?;
    Ok(cookie)
}
