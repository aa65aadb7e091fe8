//! Who hears what in a cluster. Input: places and their ports. Output: which message has come to whom, and from which address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::BOUND;
use super::places::{Attempt, LONG, PATIENCE, Place};

/// How often a listener looks whether the test is over.
const TICK: Duration = Duration::from_millis(200);

static NONCES: AtomicU64 = AtomicU64::new(1);

/// A message that has come to somebody.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Arrival {
    /// Name of the place that was reached.
    pub at: String,
    /// Whom that place takes for the sender.
    pub from: IpAddr,
}

/// Those who listen. They stop on drop.
#[derive(Debug)]
pub struct Listeners {
    heard: Arc<Mutex<BTreeMap<String, Arrival>>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Listeners {
    /// Each of these places listens at its ports in both protocols, and answers with its name.
    pub fn start<'a>(places: impl IntoIterator<Item = (&'a Place, &'a [u16])>) -> Self {
        let (heard, is_over) = (Arc::default(), Arc::default());
        let mut listeners = Self { heard, is_over, threads: Vec::new() };
        for (place, ports) in places {
            for port in ports {
                listeners.listen(place, *port);
            }
        }
        listeners
    }

    fn listen(&mut self, place: &Place, port: u16) {
        // IPv4 comes to such a socket too.
        let any = SocketAddr::new("::".parse().unwrap(), port);
        let (stream, datagrams) = place.inside(|| (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap()));
        SockRef::from(&stream).set_read_timeout(Some(TICK)).unwrap();
        datagrams.set_read_timeout(Some(TICK)).unwrap();
        let keep = |heard: &Arc<Mutex<BTreeMap<String, Arrival>>>, at: &str, message: &[u8], from: SocketAddr| {
            let arrival = Arrival { at: at.to_owned(), from: from.ip().to_canonical() };
            heard.lock().unwrap().insert(String::from_utf8_lossy(message).into_owned(), arrival);
        };

        let (name, heard, is_over) = (place.name.clone(), Arc::clone(&self.heard), Arc::clone(&self.is_over));
        self.threads.push(thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let Ok((mut connection, from)) = stream.accept() else { continue };
                let (name, heard) = (name.clone(), Arc::clone(&heard));
                // One that stays silent keeps nobody waiting.
                thread::spawn(move || {
                    connection.set_read_timeout(Some(PATIENCE)).ok();
                    let mut message = [0; LONG];
                    if let Ok(length) = connection.read(&mut message) {
                        keep(&heard, &name, &message[..length], from);
                        connection.write_all(name.as_bytes()).ok();
                    }
                });
            }
        }));
        let (name, heard, is_over) = (place.name.clone(), Arc::clone(&self.heard), Arc::clone(&self.is_over));
        self.threads.push(thread::spawn(move || {
            let mut message = [0; LONG];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = datagrams.recv_from(&mut message) {
                    keep(&heard, &name, &message[..length], from);
                    datagrams.send_to(name.as_bytes(), from).ok();
                }
            }
        }));
    }

    /// Whom the message has reached.
    fn heard(&self, nonce: &str) -> Option<Arrival> {
        self.heard.lock().unwrap().get(nonce).cloned()
    }

    /// Sends all of these at once. Each has to come to somebody and back if that is expected, and is tried again until it does; it
    /// may come to nobody else. The others may not arrive at anybody.
    ///
    /// Returns who was reached, in the order of the attempts.
    pub fn check(&self, what: &str, attempts: &[Attempt<'_>]) -> Vec<Option<Arrival>> {
        let end = Instant::now() + BOUND;
        let mut found: Vec<Option<Arrival>> = vec![None; attempts.len()];
        let mut sent: Vec<Sent> = Vec::new();
        let mut left: Vec<usize> = (0..attempts.len()).collect();
        while !left.is_empty() {
            let these = send(attempts, &left);
            left.clear();
            for one in &these {
                found[one.number] = self.heard(&one.nonce);
                if attempts[one.number].arrives && (found[one.number].is_none() || !one.is_answered) {
                    left.push(one.number);
                }
            }
            sent.extend(these);
            assert!(left.is_empty() || Instant::now() < end, "{what}: nothing comes back of {}", list(attempts, &left));
            if !left.is_empty() {
                sleep(TICK);
            }
        }
        // What was on its way for longer counts as well.
        let leaked = |one: &Sent| {
            let (arrival, attempt) = (self.heard(&one.nonce)?, &attempts[one.number]);
            let fits = attempt.arrives && attempt.at.is_none_or(|at| arrival.at.starts_with(at));
            (!fits).then(|| format!("{attempt} has come to {} from {}", arrival.at, arrival.from))
        };
        let leaks: Vec<String> = sent.iter().filter_map(leaked).collect();
        assert!(leaks.is_empty(), "{what}: {}", leaks.join("\n"));
        found
    }

    /// Sends all of these once, and tells which have arrived.
    pub fn round(&self, attempts: &[Attempt<'_>]) -> Vec<bool> {
        let all: Vec<usize> = (0..attempts.len()).collect();
        send(attempts, &all).iter().map(|one| self.heard(&one.nonce).is_some()).collect()
    }
}

/// A message that was sent.
struct Sent {
    /// Which of the attempts it was.
    number: usize,
    nonce: String,
    is_answered: bool,
}

/// Sends these of the attempts at once.
fn send(attempts: &[Attempt<'_>], numbers: &[usize]) -> Vec<Sent> {
    thread::scope(|scope| {
        let start = |number: &usize| {
            let (attempt, nonce) = (&attempts[*number], nonce());
            let sent = nonce.clone();
            (*number, sent, scope.spawn(move || attempt.is_answered(&nonce)))
        };
        let threads: Vec<_> = numbers.iter().map(start).collect();
        let end = |(number, nonce, thread): (usize, String, ScopedJoinHandle<'_, bool>)| Sent {
            number,
            nonce,
            is_answered: thread.join().unwrap(),
        };
        threads.into_iter().map(end).collect()
    })
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there was printed, and the test's own result counts.
            let _ = thread.join();
        }
    }
}

fn list(attempts: &[Attempt<'_>], numbers: &[usize]) -> String {
    let lines: Vec<String> = numbers.iter().map(|number| attempts[*number].to_string()).collect();
    lines.join("\n  ")
}

fn nonce() -> String {
    format!("{}-{}", std::process::id(), NONCES.fetch_add(1, Ordering::Relaxed))
}
