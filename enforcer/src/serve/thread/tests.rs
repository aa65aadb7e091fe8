use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use enforcer_common::id::Direction;
use enforcer_common::verdict::Reason;

use super::*;
use crate::serve::{Facts, KernelNumbers, Waits, Who};

#[derive(Default)]
struct Plain;

impl Numbers for Plain {
    fn read(&self) -> Result<KernelNumbers, String> {
        Ok(KernelNumbers::default())
    }
}

/// Panics once.
#[derive(Default)]
struct Panics(AtomicBool);

impl Numbers for Panics {
    fn read(&self) -> Result<KernelNumbers, String> {
        assert!(self.0.swap(true, Ordering::Relaxed), "asked for the first time");
        Ok(KernelNumbers::default())
    }
}

/// Never answers.
struct Hangs(mpsc::SyncSender<()>);

impl Numbers for Hangs {
    fn read(&self) -> Result<KernelNumbers, String> {
        self.0.send(()).unwrap();
        loop {
            thread::park();
        }
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn started(numbers: impl Numbers) -> (Server, SocketAddr, Arc<Board>) {
    let (listen, board) = (free_port(), Arc::new(Board::default()));
    let server = start(listen, Arc::clone(&board), Arc::new(numbers)).unwrap();
    connect(listen);
    (server, listen, board)
}

/// Connects, as soon as somebody listens.
fn connect(to: SocketAddr) -> TcpStream {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(to) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What comes back for these bytes; a connection that is cut gives what came before.
fn ask(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to);
    let mut answer = Vec::new();
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn get(to: SocketAddr, path: &str) -> String {
    ask(to, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn the_paths_answer_and_nothing_else_does() {
    let (_server, to, board) = started(Plain);
    assert_eq!(status(&get(to, "/livez")), "200");
    let waits = get(to, "/readyz");
    assert!(status(&waits) == "503" && waits.ends_with("\r\n\r\nwaits for the daemon to start\n"), "{waits}");
    board.waits(None);
    assert_eq!(status(&get(to, "/readyz?verbose")), "200");
    let metrics = get(to, "/metrics");
    assert!(status(&metrics) == "200" && metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /metrics/../livez HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\nbody", "405"),
        ("HEAD /livez HTTP/1.0\r\n\r\n", "200"),
        ("BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        ("GET /livez HTTP/9.9\r\n\r\n", "400"),
    ] {
        assert_eq!(status(&ask(to, request.as_bytes())), expected, "{request}");
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let (_server, to, _board) = started(Plain);
    let request = |more: String| ask(to, format!("GET /livez HTTP/1.1\r\nHost: x\r\n{more}\r\n").as_bytes());
    assert_eq!(status(&request("a: b\r\n".repeat(50))), "200");
    assert_eq!(status(&request("a: b\r\n".repeat(80))), "431");
    assert_eq!(status(&request(format!("a: {}\r\n", "b".repeat(10_000)))), "431");
    // Larger than what is read at all: the connection may be cut while the client still writes.
    assert_ne!(status(&request(format!("a: {}\r\n", "b".repeat(1 << 20)))), "200");
}

#[test]
fn slow_clients_keep_nobody_out_and_are_cut() {
    let (_server, to, _board) = started(Plain);
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(to)).collect();
    for stream in &mut slow {
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n");
    }
    let begin = Instant::now();
    assert_eq!(status(&get(to, "/livez")), "200");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let mut first = Vec::new();
    let _ = slow[0].read_to_end(&mut first);
    assert!(begin.elapsed() < Duration::from_secs(2), "the oldest gives way: {:?}", begin.elapsed());
    // The last of them has not given way to another.
    let mut rest = Vec::new();
    let _ = slow.last_mut().unwrap().read_to_end(&mut rest);
    let waited = begin.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
}

#[test]
fn a_port_that_is_taken_is_tried_again() {
    let listen = free_port();
    let holder = TcpListener::bind(listen).unwrap();
    let _server = start(listen, Arc::default(), Arc::new(Plain)).unwrap();
    thread::sleep(Duration::from_millis(300));
    drop(holder);
    assert_eq!(status(&get(listen, "/livez")), "200");
}

#[test]
fn a_panic_costs_its_client_the_answer_and_nobody_else_anything() {
    let (_server, to, _board) = started(Panics::default());
    let begin = Instant::now();
    assert_eq!(get(to, "/metrics"), "");
    assert_eq!(status(&get(to, "/livez")), "200");
    assert!(begin.elapsed() < Duration::from_secs(2), "the server goes on: {:?}", begin.elapsed());
    assert_eq!(status(&get(to, "/metrics")), "200");
}

#[test]
fn a_server_that_hangs_holds_up_nobody_who_writes() {
    let (asked, waits) = mpsc::sync_channel(0);
    let (_server, to, board) = started(Hangs(asked));
    let mut stream = connect(to);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    waits.recv_timeout(Duration::from_secs(20)).unwrap();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        board.beat();
        board.waits(Some(Waits::Kernel));
        board.facts(Facts::default());
        board.applied(Duration::ZERO);
        board.denied(Who::World, Who::Host, Direction::Ingress, Reason::NoRule);
        board.living(std::iter::empty());
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_server_that_is_dropped_closes_its_port() {
    let (server, to, _board) = started(Plain);
    drop(server);
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(to).is_ok() {
        assert!(Instant::now() < end, "it still listens");
        thread::sleep(Duration::from_millis(20));
    }
}
