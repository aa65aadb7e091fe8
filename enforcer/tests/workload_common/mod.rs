//! Namespaces of a test of its own: made under unique names, entered by one thread, removed on drop.

#![allow(clippy::print_stdout, reason = "a skipped test has to say so")]
#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare its namespaces has to stop")]

use std::fs::File;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use enforcer::workload::model::{LocalWorkload, Snapshot};
use enforcer::workload::{Config, Discovery, start};

/// Longest wait for anything.
pub(crate) const BOUND: Duration = Duration::from_secs(5);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Namespaces of one test.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) prefix: String,
    spaces: std::sync::Mutex<Vec<String>>,
}

/// Runs a test in a fresh node namespace, on a thread of its own that has entered it.
pub(crate) fn in_node<F>(test: F)
where
    F: AsyncFnOnce(&Lab) + Send + 'static,
{
    if !nix::unistd::geteuid().is_root() {
        if std::env::var("ENFORCER_SKIP_PRIV").is_ok_and(|value| value == "1") {
            println!("SKIPPED: needs root for network namespaces, and ENFORCER_SKIP_PRIV=1 is set");
            return;
        }
        panic!("this test needs root for network namespaces; ENFORCER_SKIP_PRIV=1 skips it");
    }
    let result = std::thread::spawn(move || {
        let lab = Lab::new();
        let node = File::open(lab.path("node")).unwrap();
        nix::sched::setns(node, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(&lab).await });
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Lab {
    fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let lab = Self { prefix: format!("enf-{}-{number}", std::process::id()), spaces: std::sync::Mutex::default() };
        lab.add_space("node");
        sh(&format!("ip -n {}-node link set lo up", lab.prefix));
        lab
    }

    /// Full name of a namespace.
    pub(crate) fn name(&self, space: &str) -> String {
        format!("{}-{space}", self.prefix)
    }

    pub(crate) fn path(&self, space: &str) -> String {
        format!("/var/run/netns/{}", self.name(space))
    }

    pub(crate) fn add_space(&self, space: &str) {
        sh(&format!("ip netns add {}", self.name(space)));
        self.spaces.lock().unwrap().push(self.name(space));
    }

    pub(crate) fn delete_space(&self, space: &str) {
        sh(&format!("ip netns del {}", self.name(space)));
        self.spaces.lock().unwrap().retain(|name| *name != self.name(space));
    }

    /// A namespace with a veth to the node; the host side is called `host`.
    pub(crate) fn add_container(&self, space: &str, host: &str) {
        self.add_space(space);
        self.add_veth(space, host, "eth0");
        self.inside(space, "link set lo up");
    }

    pub(crate) fn add_veth(&self, space: &str, host: &str, inner: &str) {
        sh(&format!("ip link add {host} type veth peer name {inner} netns {}", self.name(space)));
        sh(&format!("ip link set dev {host} up"));
        self.inside(space, &format!("link set dev {inner} up"));
    }

    /// `ip ...` in that namespace.
    pub(crate) fn inside(&self, space: &str, arguments: &str) {
        sh(&format!("ip -n {} {arguments}", self.name(space)));
    }

    /// A container on `br0`.
    pub(crate) fn add_bridged(&self, space: &str, host: &str, addresses: &[&str]) {
        self.add_container(space, host);
        sh(&format!("ip link set dev {host} master br0"));
        for address in addresses {
            self.inside(space, &format!("addr add {address} dev eth0{}", nodad(address)));
        }
    }
}

/// Bridge `br0` of the node with `10.88.0.1/16` and `fd88::1/64`.
pub(crate) fn add_bridge() {
    sh("ip link add br0 type bridge");
    sh("ip link set br0 up");
    sh("ip addr add 10.88.0.1/16 dev br0");
    sh("ip addr add fd88::1/64 dev br0 nodad");
}

/// Duplicate address detection would make the tests wait.
pub(crate) fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in self.spaces.lock().unwrap().drain(..) {
            _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Runs a command line without quoting in the namespace of the calling thread.
pub(crate) fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn addresses(texts: &[&str]) -> std::collections::BTreeSet<std::net::IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The workload behind the host side with this name.
pub(crate) fn behind<'a>(snapshot: &'a Snapshot, host: &str) -> Option<&'a LocalWorkload> {
    snapshot.local.values().find(|workload| workload.endpoints.values().any(|veth| veth.name == host))
}

pub(crate) fn name_of(workload: &LocalWorkload) -> String {
    workload.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default()
}

/// Own addresses without the link-local ones that the kernel makes by itself.
pub(crate) fn own(workload: &LocalWorkload) -> std::collections::BTreeSet<std::net::IpAddr> {
    let local = |address: &std::net::IpAddr| matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    workload.addresses.iter().filter(|address| !local(address)).copied().collect()
}

/// Discovery with its last snapshot.
pub(crate) struct Watch {
    pub(crate) discovery: Discovery,
    pub(crate) last: Arc<Snapshot>,
}

impl Watch {
    pub(crate) async fn start(config: Config) -> Self {
        let mut discovery = start(config).unwrap();
        let last = discovery.changed().await.unwrap();
        Self { discovery, last }
    }

    /// Waits until a snapshot shows what is expected.
    pub(crate) async fn until(&mut self, what: &str, expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let deadline = tokio::time::Instant::now() + BOUND;
        while !expected(&self.last) {
            let next = tokio::time::timeout_at(deadline, self.discovery.changed()).await;
            let Ok(next) = next else {
                panic!("not seen in time: {what}\nlast: {:#?}\n{:#?}", self.last, self.discovery.findings());
            };
            self.last = next.unwrap();
        }
        Arc::clone(&self.last)
    }
}
