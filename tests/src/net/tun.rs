//! Devices whose far side is this process: a tap, as that of a virtual machine, and a tun, as that of a tunnel.
//!
//! Input: a namespace and a name. Output: a device there, which goes when the value is dropped. What is written comes in by the
//! device, and what the device transmits can be read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use enforcer::lab::Namespace;

use super::wire::{Inject, PATIENCE};

/// `TUNSETIFF` of the kernel's uapi.
const SET_DEVICE: libc::c_ulong = 0x4004_54ca;
/// No header before each frame.
const NO_HEADER: u16 = 0x1000;

/// What a frame of the device begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// An IP header.
    Tun = 1,
    /// An Ethernet header.
    Tap = 2,
}

/// See the module.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes the device. It is not up yet.
    pub fn open(namespace: &Namespace, name: &str, layer: Layer) -> io::Result<Self> {
        let open = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
            // `struct ifreq`: a name of 16 bytes, then the flags.
            let mut request = [0_u8; 40];
            request[..name.len()].copy_from_slice(name.as_bytes());
            request[16..18].copy_from_slice(&(layer as u16 | NO_HEADER).to_ne_bytes());
            // SAFETY: the request is as long as the kernel reads and writes.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), SET_DEVICE, request.as_mut_ptr()) };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(file)) }
        };
        namespace.enter(open).map_err(io::Error::other)?
    }

    /// How many frames with this nonce the device transmits until time is up. So many that should arrive are waited for before.
    pub fn arrived(&self, nonce: &[u8], hoped: usize, patience: Duration) -> usize {
        let (mut found, mut buffer, begin) = (0, vec![0; 1 << 16], Instant::now());
        while begin.elapsed() < patience || found < hoped && begin.elapsed() < PATIENCE {
            match (&self.0).read(&mut buffer) {
                Ok(length) => found += usize::from(buffer[..length].windows(nonce.len()).any(|window| window == nonce)),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        found
    }
}

impl Inject for Tun {
    fn inject(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(|_| ())
    }
}
