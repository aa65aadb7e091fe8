//! A router on the path says how large a packet may be. Without its ICMP errors a connection would hang.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer::lab::{Lab, Layout};
use enforcer_tests::stage::Stage;

use super::bulk::{Transfer, random};
use super::common::{policy, rule, stage};
use super::errors::{is_error, unlimited};

/// A path of 1300 bytes behind the outside, to a host whose own device takes 1500: nobody but the outside can tell.
fn narrow_path(stage: &Stage, lender: &Lab) {
    let (near, far) = (stage.lab.outside(), lender.outside());
    let name = far.path().file_name().unwrap().to_str().unwrap();
    stage.ip(near, &format!("link add far0 mtu 1300 type veth peer name far1 mtu 1500 netns {name}"));
    stage.ip(near, "address add 203.0.113.1/24 dev far0");
    stage.ip(near, "address add 2001:db8:113::1/64 dev far0 nodad");
    stage.ip(near, "link set far0 up");
    for own in FAR.iter().flatten() {
        let length = if own.contains(':') { "64 dev far1 nodad" } else { "24 dev far1" };
        stage.ip(far, &format!("address add {own}/{length}"));
    }
    stage.ip(far, "link set far1 up");
    stage.ip(far, "route add 10.88.0.0/16 via 203.0.113.1");
    stage.ip(far, "-6 route add fd00:88::/64 via 2001:db8:113::1");
}

/// Addresses of the far host: for the control, and for a path of which nothing has been learnt.
const FAR: [[&str; 2]; 2] = [["203.0.113.8", "2001:db8:113::8"], ["203.0.113.9", "2001:db8:113::9"]];

fn path_mtu(layout: Layout) {
    let mut stage = stage(layout, &["a"]);
    let lender = enforcer_tests::net::lab(Layout::Routed);
    narrow_path(&stage, &lender);
    unlimited(&stage, "outside");
    let to = "to: [{cidr: 203.0.113.0/24}, {cidr: \"2001:db8:113::/64\"}]";
    stage.policy("a.yaml", &policy("a", "[ingress, egress]", &rule(to, "7000/tcp")));
    let tap = stage.tap("a");
    let content = random(256 << 10);
    let transfer = |stage: &Stage, when: &str, host: [&str; 2]| {
        for (v4, target) in [true, false].into_iter().zip(host) {
            let when = format!("{layout:?}, {when}, IPv4 {v4}");
            tap.frames().clear();
            let target = SocketAddr::new(target.parse().unwrap(), 7000);
            let transfer = Transfer::begin(stage, "a", lender.outside(), target, &content, Duration::ZERO);
            let end = Instant::now() + Duration::from_mins(1);
            while transfer.received() < content.len() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            let received = transfer.received();
            assert_eq!(received, content.len(), "{when}: what is larger than the path does not get through");
            assert!(transfer.finish() == content, "{when}: the content");
            let errors = tap.count(|frame| !frame.outgoing && is_error(frame));
            assert!(errors > 0, "{when}: nobody said how large a packet may be");
        }
    };
    transfer(&stage, "positive control", FAR[0]);
    stage.start();
    transfer(&stage, "enforced", FAR[1]);
}

#[test]
fn a_connection_learns_how_large_its_packets_may_be() {
    path_mtu(Layout::Bridged);
    path_mtu(Layout::Routed);
}
