//! Shared parts of these tests: a stage of workloads in one namespace, requests between them, and long-lived connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use enforcer::lab::{Layout, Namespace};
use enforcer_tests::cases::Port;
use enforcer_tests::net::wire::PATIENCE;
use enforcer_tests::stage::Stage;
use enforcer_tests::traffic::{Attempt, Ground, Outcome, Tap, bound, nonce};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Protocol, Type};

/// Addresses of the outside.
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
/// Addresses of the node towards the outside: the same in every layout.
pub(crate) const NODE: [&str; 2] = ["100.64.0.1", "fd00:64::1"];

/// The addresses of a workload with a name of one letter.
pub(crate) fn addresses(name: &str) -> [String; 2] {
    let number = name.as_bytes()[0] - b'a' + 10;
    [format!("10.88.0.{number}"), format!("fd00:88::{number}")]
}

/// A stage with these workloads of namespace `t`, each named by its network namespace and labelled `app: NAME`.
pub(crate) fn stage(layout: Layout, names: &[&str]) -> Stage {
    let mut stage = Stage::new(layout);
    stage.outside(&OUTSIDE);
    for name in names {
        add(&mut stage, name);
    }
    let entries: Vec<String> = names.iter().map(|name| entry(&stage, name, "")).collect();
    stage.inventory(&inventory(&entries));
    stage
}

/// What a bridge switches passes no hook of netfilter, whatever the machine does with bridges.
pub(crate) fn switch_past_netfilter(stage: &Stage) {
    for family in ["iptables", "ip6tables", "arptables"] {
        let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        // It is there only where the kernel has that part.
        let _ = stage.lab.node().enter(|| std::fs::write(setting, "0")).unwrap();
    }
}

/// Starts a workload.
pub(crate) fn add(stage: &mut Stage, name: &str) {
    stage.add(name, &addresses(name).each_ref().map(String::as_str));
}

/// The inventory entry of a workload, with its addresses. `more`: further fields, with a comma before each.
pub(crate) fn entry(stage: &Stage, name: &str, more: &str) -> String {
    let [v4, v6] = [true, false].map(|v4| stage.address(name, v4));
    bare_entry(stage, name, &format!(", addresses: [{v4}, \"{v6}\"]{more}"))
}

/// The same without addresses: nobody vouches for what the workload shows.
pub(crate) fn bare_entry(stage: &Stage, name: &str, more: &str) -> String {
    let netns = stage.at(name).path().display();
    format!("  - {{name: {name}, namespace: t, labels: {{app: {name}}}, match: {{netns: {netns}}}{more}}}\n")
}

/// An inventory of such entries.
pub(crate) fn inventory(entries: &[String]) -> String {
    format!("namespaces: {{t: {{}}}}\nworkloads:\n{}", entries.concat())
}

/// A policy that opens these ports of a workload to everybody, and nothing else of it. Its name stands in line 4.
pub(crate) fn open(app: &str, ports: &str) -> String {
    let allow = if ports.is_empty() { String::new() } else { rule("from: anywhere", ports) };
    policy(app, "[ingress]", &allow)
}

/// A policy of a workload.
pub(crate) fn policy(app: &str, isolate: &str, allow: &str) -> String {
    let allow = if allow.is_empty() { String::new() } else { format!("  allow:\n{allow}") };
    format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: FlowPolicy\nmetadata:\n  name: {app}\n  namespace: t\nspec:\n  \
         workloads: {{app: {app}}}\n  isolate: {isolate}\n{allow}"
    )
}

/// A rule of a policy.
pub(crate) fn rule(peers: &str, ports: &str) -> String {
    format!("    - {peers}\n      ports: [{ports}]\n")
}

/// Changes the policies, and waits until they are in force.
pub(crate) fn change(stage: &mut Stage, write: impl FnOnce(&Stage)) {
    let revision = stage.view().word.revision;
    write(stage);
    stage.wait("the next revision", |view| view.word.revision > revision);
}

/// A flow and whether it should pass. `node` and `outside` are places too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) port: Port,
    pub(crate) passes: bool,
}

/// A flow that should pass.
pub(crate) fn passes(from: &'static str, to: &'static str, port: Port) -> Flow {
    Flow { from, to, port, passes: true }
}

/// A flow that should not.
pub(crate) fn dropped(from: &'static str, to: &'static str, port: Port) -> Flow {
    Flow { from, to, port, passes: false }
}

/// The namespace of a place.
pub(crate) fn place<'a>(stage: &'a Stage, name: &str) -> &'a Namespace {
    match name {
        "node" => stage.lab.node(),
        "outside" => stage.lab.outside(),
        workload => stage.at(workload),
    }
}

/// The address of a place.
pub(crate) fn address(stage: &Stage, name: &str, v4: bool) -> IpAddr {
    let own = match name {
        "node" => NODE,
        "outside" => OUTSIDE,
        workload => return stage.address(workload, v4),
    };
    own[usize::from(!v4)].parse().unwrap()
}

/// Tries flows in both families, by what arrives at the victim.
pub(crate) fn check(stage: &Stage, when: &str, flows: &[Flow]) {
    let wrong = differences(stage, flows);
    assert!(wrong.is_empty(), "{when}:\n  {}", wrong.join("\n  "));
}

/// Tries flows of which all should pass: the positive control.
pub(crate) fn control(stage: &Stage, flows: &[Flow]) {
    let all: Vec<Flow> = flows.iter().map(|flow| Flow { passes: true, ..*flow }).collect();
    check(stage, "positive control", &all);
}

fn differences(stage: &Stage, flows: &[Flow]) -> Vec<String> {
    let tries: Vec<(&Flow, bool)> = flows.iter().flat_map(|flow| [(flow, true), (flow, false)]).collect();
    let attempts: Vec<Attempt<'_>> = tries
        .iter()
        .map(|(flow, v4)| Attempt {
            from: place(stage, flow.from),
            source: address(stage, flow.from, *v4),
            to: place(stage, flow.to),
            destination: address(stage, flow.to, *v4),
            port: flow.port,
            hoped: flow.passes,
            evidence: if flow.to == "node" { Tap::Stack } else { Tap::Wire },
        })
        .collect();
    let outcomes = Ground::prepare(&attempts).run(&attempts);
    let wrong = tries.iter().zip(outcomes).filter(|((flow, _), outcome)| {
        if flow.passes {
            outcome.arrived == 0 || !outcome.answered
        } else {
            *outcome != Outcome { arrived: 0, answered: false }
        }
    });
    wrong.map(|((flow, v4), outcome)| format!("{flow:?}, IPv4 {v4}: {outcome:?}")).collect()
}

/// A TCP connection that keeps exchanging data.
pub(crate) struct Live {
    stream: TcpStream,
    state: Arc<State>,
    client: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    done: AtomicBool,
    exchanges: AtomicU64,
    longest: Mutex<Duration>,
    error: Mutex<Option<String>>,
}

impl Live {
    /// Connects to a service and begins.
    pub(crate) fn open(stage: &Stage, from: &str, to: &str, port: u16, v4: bool, pause: Duration) -> Self {
        Self::to(stage, from, SocketAddr::new(address(stage, to, v4), port), pause)
    }

    /// The same, to a service at any address.
    pub(crate) fn to(stage: &Stage, from: &str, target: SocketAddr, pause: Duration) -> Self {
        let mut stream = connect(stage, from, target, target.is_ipv4());
        let state = Arc::<State>::default();
        let (kept, shared) = (stream.try_clone().unwrap(), Arc::clone(&state));
        let client = thread::spawn(move || {
            while !shared.done.load(Ordering::Relaxed) {
                let begin = Instant::now();
                if let Err(error) = exchange(&mut stream, &shared) {
                    *shared.error.lock().unwrap() = Some(error.to_string());
                    return;
                }
                let mut longest = shared.longest.lock().unwrap();
                *longest = (*longest).max(begin.elapsed());
                drop(longest);
                thread::sleep(pause);
            }
        });
        Self { stream: kept, state, client: Some(client) }
    }

    /// Exchanges so far.
    pub(crate) fn exchanges(&self) -> u64 {
        self.state.exchanges.load(Ordering::Relaxed)
    }

    /// The longest exchange that came to its end.
    pub(crate) fn longest(&self) -> Duration {
        *self.state.longest.lock().unwrap()
    }

    /// Why it ended, if it did.
    pub(crate) fn error(&self) -> Option<String> {
        self.state.error.lock().unwrap().clone()
    }

    /// It goes on: several exchanges from now.
    pub(crate) fn goes_on(&self, bound: Duration) -> bool {
        let (before, end) = (self.exchanges(), Instant::now() + bound);
        while self.exchanges() < before + 3 {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.state.done.store(true, Ordering::Relaxed);
        // Wakes the client.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(client) = self.client.take() {
            // Its panic has been printed.
            let _ = client.join();
        }
    }
}

/// One exchange; it may take as long as it takes.
fn exchange(stream: &mut TcpStream, state: &State) -> std::io::Result<()> {
    let bytes = nonce();
    stream.write_all(&bytes)?;
    let mut back = [0; 24];
    let mut read = 0;
    while read < back.len() && !state.done.load(Ordering::Relaxed) {
        match stream.read(&mut back[read..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => read += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if read == back.len() {
        state.exchanges.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A connection from a place.
pub(crate) fn connect(stage: &Stage, from: &str, target: SocketAddr, v4: bool) -> TcpStream {
    let source = address(stage, from, v4);
    let connect = || {
        let socket = bound(source, Type::STREAM, Protocol::TCP).unwrap();
        socket.connect_timeout(&target.into(), PATIENCE).unwrap();
        TcpStream::from(socket)
    };
    let stream = place(stage, from).enter(connect).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A small generator of numbers whose seed is printed: a failure can be seen again.
pub(crate) struct Numbers(u64);

impl Numbers {
    /// Begins somewhere new each time.
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.as_nanos() as u64 | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// A number below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Ends a sender, also when the test fails before.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two processors of this machine; the same one twice if there are no more.
pub(crate) fn processors() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut found = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = found.next().unwrap();
    [first, found.next().unwrap_or(first)]
}

/// Keeps this thread on a processor: what it sends is handled there, in order.
pub(crate) fn stay_on(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}
