//! The lab carries traffic where nothing enforces: the positive control of every test that uses it. Nothing is left of
//! it, and of what tests make beside it. Needs root.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::lab::{Layout, Namespace};
use enforcer_tests::net::wire::PATIENCE;
use enforcer_tests::net::{Node, Site, lab};

/// Tells the child where to write what it has made.
const MADE: &str = "ENFORCER_TEST_MADE";

fn addresses(host: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 88, 0, host]), format!("fd00:88::{host:x}").parse().unwrap()]
}

fn reaches(from: &Namespace, to: &Namespace, address: IpAddr) -> bool {
    let listener = to.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connected = from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)).unwrap();
    let Ok(mut client) = connected else { return false };
    drop(listener.accept().unwrap());
    client.read(&mut [0]).is_ok()
}

#[test]
fn every_pair_of_both_layouts_and_families_is_connected() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut lab = lab(layout);
        for (name, host) in [("a", 10), ("b", 20)] {
            lab.add_workload(name, &format!("veth-{name}"), &addresses(host)).unwrap();
        }
        let world: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        for address in world {
            lab.add_outside(address).unwrap();
        }
        let places = BTreeMap::from([
            ("a", (lab.workload("a").unwrap(), addresses(10))),
            ("b", (lab.workload("b").unwrap(), addresses(20))),
            ("outside", (lab.outside(), world)),
        ]);
        for (from, (source, _)) in &places {
            for (to, (target, addresses)) in &places {
                for address in addresses {
                    assert!(from == to || reaches(source, target, *address), "{layout:?}: {from} to {to} at {address}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    let lab = lab(Layout::Bridged);
    let path = lab.node().path().to_owned();
    assert!(path.exists());
    drop(lab);
    assert!(!path.exists(), "{} is still there", path.display());
}

/// Not a test of its own: a process that is killed in the middle of a test.
#[test]
fn child() {
    let Some(made) = std::env::var_os(MADE) else { return };
    let (lab, node, site) = (lab(Layout::Routed), Node::new(), Site::new());
    fs::create_dir_all(site.pin_dir().join("flows-3/maps")).unwrap();
    fs::write(site.file("log"), "").unwrap();
    let mut command = Command::new("tail");
    command.arg("-f").arg(site.file("log")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    fs::write(site.file("tail.pid"), process.id().to_string()).unwrap();
    let paths = [lab.node().path(), node.namespace().path(), site.directory(), site.pin_dir()];
    let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let beside = Path::new(&made).with_extension("new");
    fs::write(&beside, format!("{}\n{}", lines.join("\n"), process.id())).unwrap();
    fs::rename(beside, made).unwrap();
    // Ends by itself if its parent is gone.
    sleep(Duration::from_secs(30));
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child"]).env(MADE, &made).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !made.exists() {
        assert!(Instant::now() < end, "the child makes nothing");
        sleep(Duration::from_millis(10));
    }
    let text = fs::read_to_string(made).unwrap();
    let mut paths: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    let process = Path::new("/proc").join(paths.pop().unwrap()).join("cmdline");
    let command_line = || fs::read_to_string(&process).unwrap_or_default();
    let there = |paths: &[PathBuf]| paths.iter().filter(|path| path.exists()).count();
    drop(Site::new());
    assert_eq!(there(&paths), 4, "the child lives: {paths:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(there(&paths), 4, "it was killed: {paths:?}");
    assert!(command_line().starts_with("tail"));
    drop((Site::new(), Node::new()));
    assert_eq!(there(&paths), 0, "the next test begins: {paths:?}");
    assert_eq!(command_line(), "", "what it started has ended");
}
