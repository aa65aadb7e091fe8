//! Makes maps that aya 0.14 cannot make by itself.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData};

const BPF_MAP_CREATE: libc::c_long = 0;
/// Array.
pub const ARRAY: u32 = 2;
/// Hash.
pub const HASH: u32 = 1;

/// A map of a kind that the outer maps take.
pub fn create_map(kind: u32, key: u32, value: u32, entries: u32, flags: u32) -> Result<Map> {
    // The first fields of `union bpf_attr` for this command; the rest is zero.
    let attributes: [u32; 20] = {
        let mut words = [0; 20];
        words[..5].copy_from_slice(&[kind, key, value, entries, flags]);
        words
    };
    // SAFETY: the kernel reads `attributes` and returns a descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("BPF_MAP_CREATE");
    }
    // SAFETY: a descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    Ok(Map::from_map_data(MapData::from_fd(fd)?)?)
}
