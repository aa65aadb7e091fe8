//! Sends a frame by `PACKET_TX_RING`. The kernel then builds a packet of which only the Ethernet header lies in the linear
//! part.

use std::io;
use std::os::fd::AsRawFd;

use super::wire::{Sender, set_option};

const FRAME: usize = 4096;
/// `TPACKET2_HDRLEN - sizeof(struct sockaddr_ll)`: where the kernel looks for the frame.
const DATA_AT: usize = 32;

/// The ring's geometry, as in `linux/if_packet.h`.
#[repr(C)]
struct Request {
    block_size: u32,
    block_count: u32,
    frame_size: u32,
    frame_count: u32,
}

/// Sends one frame by a ring of one place. The sender can then send by the ring only.
pub fn send(sender: &Sender, frame: &[u8]) -> io::Result<()> {
    assert!(frame.len() <= FRAME - DATA_AT, "the frame does not fit");
    let socket = sender.socket();
    set_option(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)?;
    let request = Request { block_size: FRAME as u32, block_count: 1, frame_size: FRAME as u32, frame_count: 1 };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
    // SAFETY: a new mapping of the ring that was just made.
    let place = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            FRAME,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    if place == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is one page, aligned for a header, and nobody else uses it; the frame fits behind the header. The
    // status is written last, since it hands the place over.
    unsafe {
        place.cast::<u8>().add(DATA_AT).copy_from_nonoverlapping(frame.as_ptr(), frame.len());
        let header = place.cast::<libc::tpacket2_hdr>();
        (&raw mut (*header).tp_len).write(frame.len() as u32);
        (&raw mut (*header).tp_status).write_volatile(libc::TP_STATUS_SEND_REQUEST);
    }
    let sent = socket.send(&[]);
    // SAFETY: unmaps what was mapped above; nothing refers to it any more.
    unsafe { libc::munmap(place, FRAME) };
    sent.map(|_| ())
}
