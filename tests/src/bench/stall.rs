//! Measures how long packets wait on a processor that is busy with something else.
//!
//! Input: the work that keeps the processor busy. Output: the longest time that one packet of a stream took. The softirq of
//! the stream runs on that processor; the sender and the receiver run on another one.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use enforcer::lab::{Lab, Layout};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Between two uses of the stream.
const REST: Duration = Duration::from_millis(100);

/// A node and a workload that sends to it.
pub(super) struct Stream {
    sender: UdpSocket,
    receiver: UdpSocket,
    packets: usize,
    work: usize,
    // What the sockets go through; removed on drop.
    _lab: Lab,
}

impl Stream {
    /// `None`: there is one processor only.
    pub(super) fn open() -> Result<Option<Self>> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut processors = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let (Some(work), Some(packets)) = (processors.next(), processors.next()) else {
            return Ok(None);
        };
        let mut lab = Lab::new(Layout::Routed)?;
        // For the devices that come: what they receive is handled on this processor.
        let mask = format!("{:x}", 1_u32 << work);
        lab.node().enter(|| fs::write("/proc/sys/net/core/rps_default_mask", mask))??;
        let [own, node] = [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(100, 64, 0, 1)];
        let sender = lab.add_workload("stall", "stall0", &[own.into()])?.enter(|| UdpSocket::bind((own, 0)))??;
        let receiver = lab.node().enter(|| UdpSocket::bind((node, 0)))??;
        receiver.set_nonblocking(true)?;
        sender.connect(SocketAddr::new(node.into(), receiver.local_addr()?.port()))?;
        Ok(Some(Self { sender, receiver, packets, work, _lab: lab }))
    }

    /// The longest time of a packet while `work` ran.
    pub(super) fn longest_beside(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let (flows, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let (result, longest) = thread::scope(|scope| {
            let stream = scope.spawn(|| self.longest_until(&flows, &done));
            // A thread starts where its parent is; the work would keep it from leaving.
            while !flows.load(Ordering::Relaxed) && !stream.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            let result = stay_on(self.work).and_then(|()| work());
            done.store(true, Ordering::Relaxed);
            (result, stream.join())
        });
        sched_setaffinity(Pid::from_raw(0), &before)?;
        // A thread that goes first may not do so for more than 950 ms of a second.
        thread::sleep(REST);
        result?;
        longest.ok().context("the stream of packets panicked")?
    }

    fn longest_until(&self, flows: &AtomicBool, done: &AtomicBool) -> Result<Duration> {
        stay_on(self.packets)?;
        go_first()?;
        let (mut longest, mut count) = (Duration::ZERO, 0_u64);
        while !done.load(Ordering::Relaxed) {
            self.sender.send(&count.to_ne_bytes())?;
            let (start, mut bytes) = (Instant::now(), [0; 8]);
            while self.receiver.recv(&mut bytes).is_err() {
                ensure!(start.elapsed() < Duration::from_secs(2), "packet {count} has not arrived");
            }
            ensure!(u64::from_ne_bytes(bytes) == count, "another packet than {count}");
            longest = longest.max(start.elapsed());
            count += 1;
            flows.store(true, Ordering::Relaxed);
        }
        Ok(longest)
    }
}

fn stay_on(processor: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// Before every ordinary task: what keeps this thread from looking says nothing about the other processor.
fn go_first() -> Result<()> {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are read during the call, which concerns this thread alone.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) };
    Ok(Errno::result(result).map(|_| ())?)
}
