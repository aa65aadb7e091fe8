//! Makes and removes everything that tests need of the machine's network: namespaces, links, directories, pins and taps.
//!
//! Input: what a test wants. Output: a [`Node`] of bare namespaces, a [`Site`] of files, and the frames that [`wire`] sees.
//! [`enforcer::lab::Lab`] makes the network of a whole host with its bridge or routes, because the demo needs it too. It
//! makes its namespaces in the same way. All names begin with `enf-PID-NUMBER`. A value removes what it has made when it is
//! dropped, also while a test fails. The next test removes what a killed process has left.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot prepare its network has to stop")]

mod node;
pub mod ring;
mod site;
pub mod tun;
pub mod wire;

use std::fs;
use std::net::Ipv6Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::lab::{Lab, Layout, Name, Namespace};

use crate::daemon::BOUND;

pub use node::{Node, own_bpf_file_system};
pub use site::Site;

/// Whether this process may make namespaces. Without root it fails, or says no where `ENFORCER_SKIP_PRIV=1` allows that.
pub fn is_privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let skips = std::env::var_os("ENFORCER_SKIP_PRIV").is_some_and(|value| value == "1");
    assert!(skips, "this test makes network namespaces: it needs root; ENFORCER_SKIP_PRIV=1 skips it");
    println!("SKIPPED: needs root for network namespaces, and ENFORCER_SKIP_PRIV=1 is set");
    false
}

/// The network of a whole host: a node with an uplink, an outside, and no workload yet.
pub fn lab(layout: Layout) -> Lab {
    share_names();
    Lab::new(layout).unwrap()
}

/// Makes the directory of the namespaces' names a mount of its own, as `ip netns` does before it first adds one. podman
/// does so too, and what had been mounted there before would be hidden and could not be removed.
fn share_names() {
    static SHARED: Once = Once::new();
    SHARED.call_once(|| {
        let name = Name::unique().of("share");
        sh(&format!("ip netns add {name}"));
        sh(&format!("ip netns del {name}"));
    });
}

/// Runs `work` on a thread inside a namespace, and passes its panic on. A socket that it opens stays in the namespace, and
/// so does a process that it starts.
pub fn inside<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let result = namespace.enter(|| catch_unwind(AssertUnwindSafe(work))).unwrap();
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a command line without quoting in the namespace of the calling thread.
pub fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip` with these arguments in a namespace. An address that it adds can be bound to and reached when this returns.
pub fn ip(namespace: &Namespace, arguments: &str) {
    sh(&format!("ip -n {} {arguments}", namespace.path().file_name().unwrap().to_string_lossy()));
    if let ["addr" | "address", "add", address, ..] = arguments.split_whitespace().collect::<Vec<_>>()[..]
        && let Ok(address) = address.split('/').next().unwrap_or_default().parse::<Ipv6Addr>()
    {
        let digits = format!("{:032x}", u128::from(address));
        until(&format!("{address} is usable"), || namespace.enter(|| is_usable(&digits)).unwrap());
    }
}

/// Whether the kernel has made an IPv6 address of the calling thread's namespace usable. It does so in a work queue, also without
/// detection of duplicates: nobody can bind to an address that is tentative, and nothing comes in to one without its route.
fn is_usable(digits: &str) -> bool {
    const TENTATIVE: u32 = 0x40;
    /// `RTF_LOCAL` of the kernel's uapi.
    const LOCAL: u32 = 0x8000_0000;
    let has = |table: &str, field: usize, wanted: &dyn Fn(u32) -> bool| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        text.lines().filter(|line| line.starts_with(digits)).any(|line| {
            let flags = line.split_whitespace().nth(field).unwrap();
            wanted(u32::from_str_radix(flags, 16).unwrap())
        })
    };
    has("if_inet6", 4, &|flags| flags & TENTATIVE == 0) && has("ipv6_route", 8, &|flags| flags & LOCAL != 0)
}

/// Waits until the kernel has brought a device up to which another one leads: until then it drops what is sent by it.
fn until_up(namespace: &Namespace, device: &str) {
    let name = namespace.path().file_name().unwrap().to_string_lossy();
    until(&format!("{device} of {name} is up"), || {
        let shown = Command::new("ip").args(["-n", &name, "-o", "link", "show", "dev", device]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains(" state UP ")
    });
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "it does not come to: {what}");
        sleep(Duration::from_millis(2));
    }
}
