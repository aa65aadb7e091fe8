//! Datagrams at a steady pace, and who hears them. Input: places of a cluster. Output: the moment from which none arrives any more,
//! or from which all arrive.
//!
//! The moment is that at which the first of these datagrams was sent. So it is exact to the pace, however late its arrival is read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cluster::BOUND;
use crate::cluster::places::Place;

/// From one datagram to the next.
const PACE: Duration = Duration::from_millis(1);
/// How many in a row have to share one fate before it counts. A busy machine may read an arrival late.
const IN_A_ROW: u32 = 200;
/// How often somebody who waits looks.
const LOOK: Duration = Duration::from_millis(10);

/// The numbers that were heard of each stream.
type Heard = BTreeMap<u32, BTreeSet<u32>>;

/// Datagrams that one place sends to some others. It ends on drop.
pub(super) struct Stream {
    tag: u32,
    /// When each was sent, by its number.
    sent: Arc<Mutex<Vec<Instant>>>,
    thread: Thread,
}

/// A place that notes which datagrams come to a port of it. It ends on drop.
pub(super) struct Ear {
    heard: Arc<Mutex<Heard>>,
    _thread: Thread,
}

impl Stream {
    /// Sends to each of these, and marks all datagrams with the tag.
    pub(super) fn start(from: &Place, to: Vec<SocketAddr>, tag: u32) -> Result<Self> {
        let socket = from.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let sent: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let noted = Arc::clone(&sent);
        let mut number = 0_u32;
        let thread = Thread::start(move || {
            let message = [tag.to_be_bytes(), number.to_be_bytes()].concat();
            held(&noted).push(Instant::now());
            for to in &to {
                // A network that is not finished yet refuses, and then nothing arrives.
                let _ = socket.send_to(&message, to);
            }
            number += 1;
            sleep(PACE);
        });
        Ok(Self { tag, sent, thread })
    }

    /// When the first of the datagrams was sent that have not come to `ear`; since then none has. Only what was sent after `begin`
    /// counts.
    pub(super) fn until_cut(&self, ear: &Ear, begin: Instant) -> Result<Instant> {
        self.until("the datagrams go on to arrive", ear, begin, cut)
    }

    /// When the first of the datagrams was sent that have come to `ear` one behind the other.
    pub(super) fn until_open(&self, ear: &Ear, begin: Instant) -> Result<Instant> {
        self.until("no datagrams arrive", ear, begin, |_, heard, first| open(heard, first))
    }

    /// Whether `ear` has heard one that was sent after `begin`.
    pub(super) fn is_heard(&self, ear: &Ear, begin: Instant) -> bool {
        let first = self.first(begin);
        held(&ear.heard).get(&self.tag).is_some_and(|heard| heard.range(first..).next().is_some())
    }

    /// Number of the first one that was or will be sent after `begin`.
    fn first(&self, begin: Instant) -> u32 {
        u32::try_from(held(&self.sent).partition_point(|at| *at < begin)).unwrap_or(u32::MAX)
    }

    fn until(
        &self,
        otherwise: &str,
        ear: &Ear,
        begin: Instant,
        which: impl Fn(u32, &BTreeSet<u32>, u32) -> Option<u32>,
    ) -> Result<Instant> {
        let (end, none) = (Instant::now() + BOUND, BTreeSet::new());
        while Instant::now() < end {
            let first = self.first(begin);
            let sent = u32::try_from(held(&self.sent).len())?;
            let found = which(sent, held(&ear.heard).get(&self.tag).unwrap_or(&none), first);
            if let Some(number) = found {
                return Ok(held(&self.sent)[number as usize]);
            }
            if self.thread.is_over() {
                bail!("the sender has ended");
            }
            sleep(LOOK);
        }
        bail!("{otherwise}")
    }
}

impl Ear {
    /// Listens at the port.
    pub(super) fn start(place: &Place, port: u16) -> Result<Self> {
        let socket = place.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let noted = Arc::clone(&heard);
        let thread = Thread::start(move || {
            let mut message = [0; 8];
            if matches!(socket.recv(&mut message), Ok(8)) {
                let [a, b, c, d, number @ ..] = message;
                held(&noted).entry(u32::from_be_bytes([a, b, c, d])).or_default().insert(u32::from_be_bytes(number));
            }
        });
        Ok(Self { heard, _thread: thread })
    }
}

/// Work that is repeated until the drop.
struct Thread {
    is_over: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(mut work: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&is_over);
        let handle = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                work();
            }
        });
        Self { is_over, handle: Some(handle) }
    }

    fn is_over(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            // A panic there was printed.
            let _ = handle.join();
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first number from `first` on behind which nothing was heard, if enough was sent since.
fn cut(sent: u32, heard: &BTreeSet<u32>, first: u32) -> Option<u32> {
    let next = heard.last().map_or(first, |last| first.max(last + 1));
    (sent.saturating_sub(next) >= IN_A_ROW).then_some(next)
}

/// The first number from `first` on with which enough of them begin that were heard without a gap.
fn open(heard: &BTreeSet<u32>, first: u32) -> Option<u32> {
    let (mut begin, mut length) = (first, 0);
    for number in heard.range(first..) {
        if *number != begin + length {
            (begin, length) = (*number, 0);
        }
        length += 1;
        if length == IN_A_ROW {
            return Some(begin);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_behind_the_last_arrival_and_not_at_a_gap() {
        let heard: BTreeSet<u32> = (0..300).filter(|number| *number != 100).collect();
        assert_eq!(cut(499, &heard, 0), None, "not enough were sent since");
        assert_eq!(cut(500, &heard, 0), Some(300));
        assert_eq!(cut(600, &heard, 400), Some(400), "what was sent before the change does not count");
        assert_eq!(cut(599, &heard, 400), None);
    }

    #[test]
    fn what_arrives_before_a_gap_is_not_open_yet() {
        let mut heard: BTreeSet<u32> = (0..199).collect();
        assert_eq!(open(&heard, 0), None, "too few");
        heard.extend(250..449);
        assert_eq!(open(&heard, 0), None, "too few behind the gap");
        heard.insert(449);
        assert_eq!(open(&heard, 0), Some(250));
        heard.insert(450);
        assert_eq!(open(&heard, 251), Some(251), "what was sent before the change does not count");
    }
}
