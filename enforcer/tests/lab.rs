//! The lab carries traffic where nothing enforces: the positive control of every test that uses it. Needs root.

#![allow(clippy::unwrap_used, reason = "part of tests, though the lint cannot tell")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use enforcer::lab::{Lab, Layout, Namespace};

fn addresses(host: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 88, 0, host]), format!("fd00:88::{host:x}").parse().unwrap()]
}

fn reaches(from: &Namespace, to: &Namespace, address: IpAddr) -> bool {
    let listener = to.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connected =
        from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2))).unwrap();
    let Ok(mut client) = connected else { return false };
    drop(listener.accept().unwrap());
    client.read(&mut [0]).is_ok()
}

#[test]
fn every_pair_of_both_layouts_and_families_is_connected() {
    for layout in [Layout::Bridged, Layout::Routed] {
        let mut lab = Lab::new(layout).unwrap();
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
    let lab = Lab::new(Layout::Bridged).unwrap();
    let path = lab.node().path().to_owned();
    assert!(path.exists());
    drop(lab);
    assert!(!path.exists(), "{} is still there", path.display());
}
