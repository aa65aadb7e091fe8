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

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::Once;

use enforcer::lab::{Lab, Layout, Name, Namespace};

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

/// Runs `ip` with these arguments in a namespace.
pub fn ip(namespace: &Namespace, arguments: &str) {
    sh(&format!("ip -n {} {arguments}", namespace.path().file_name().unwrap().to_string_lossy()));
}
