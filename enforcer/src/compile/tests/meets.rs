//! Tests of two images beside each other: what opens, and what both allow.

use super::*;

/// Peers and ports on both sides of every bound that the policies below draw.
const PEERS: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.9.255.255",
    "10.10.0.0",
    "10.10.0.9",
    "192.0.2.1",
    "fd00::1",
    "2001:db8::1",
];
const KEYS: [PortKey; 7] = [
    PortKey::tcp(79),
    PortKey::tcp(80),
    PortKey::tcp(81),
    PortKey::tcp(443),
    PortKey::udp(80),
    PortKey::icmp(8),
    PortKey::other(47),
];

fn neighbours() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.local.insert(WorkloadKey(2), local(Some(identity("shop", "api")), &["10.0.0.2"]));
    snapshot.local.insert(WorkloadKey(3), local(Some(identity("pay", "db")), &["10.0.0.3"]));
    snapshot
}

fn sets() -> Vec<(&'static str, Vec<Policy>)> {
    let block = |text, except: &[&str]| Peers::Only(vec![cidr(text, except)]);
    let of = |ingress, egress| vec![policy("p", ingress, egress)];
    vec![
        ("none", Vec::new()),
        ("closed", of(Vec::new(), Vec::new())),
        ("80 from all", of(vec![rule(Peers::Any, tcp(80, 80))], Vec::new())),
        ("80 and 81 from all", of(vec![rule(Peers::Any, tcp(80, 81))], Vec::new())),
        ("443 from all", of(vec![rule(Peers::Any, tcp(443, 443))], Vec::new())),
        ("80 from a block", of(vec![rule(block("10.0.0.0/8", &[]), tcp(80, 80))], Vec::new())),
        ("80 from most of it", of(vec![rule(block("10.0.0.0/8", &["10.10.0.0/16"]), tcp(80, 80))], Vec::new())),
        ("80 from workloads", of(vec![rule(Peers::Only(vec![everyone()]), tcp(80, 80))], Vec::new())),
        (
            "all, and out to a block",
            of(vec![rule(Peers::Any, Ports::Any)], vec![rule(block("10.0.0.0/8", &[]), Ports::Any)]),
        ),
        ("six", of(vec![rule(block("2001:db8::/32", &[]), Ports::Any)], Vec::new())),
    ]
}

/// Every pair of sets, flow by flow.
#[test]
fn what_both_allow_and_whether_the_second_opens() {
    let images: Vec<(&str, Image)> =
        sets().into_iter().map(|(name, policies)| (name, image_of(policies, neighbours()))).collect();
    let mut kinds = BTreeSet::new();
    for (old, before) in &images {
        for (new, after) in &images {
            let flows = || {
                let directions = [Direction::Ingress, Direction::Egress].into_iter();
                directions
                    .flat_map(|direction| PEERS.iter().flat_map(move |peer| KEYS.map(|key| (direction, *peer, key))))
            };
            let says = |image: &Image, (direction, peer, key)| allows(image, direction, peer, key);
            let opens = flows().any(|flow| !says(before, flow) && says(after, flow));
            match change(before, after) {
                Change::OpensNothing => assert!(!opens, "{old} -> {new}"),
                Change::Opens(both) => {
                    assert!(opens, "{old} -> {new}");
                    let both = both.expect("it is small");
                    for flow in flows() {
                        let expected = says(before, flow) && says(after, flow);
                        assert_eq!(says(&both, flow), expected, "{old} -> {new}: {flow:?}");
                    }
                    let entries = |image: &Image| -> Vec<_> {
                        let kind = |entry: &AddressEntry| (entry.is_local(), entry.is_node(), entry.is_shown());
                        image.addresses.iter().map(|(address, entry)| (*address, kind(entry))).collect()
                    };
                    assert_eq!(entries(&both), entries(after));
                }
            }
            kinds.insert(opens);
        }
    }
    assert_eq!(kinds.len(), 2, "some open and some do not");
}

#[test]
fn a_pair_that_is_too_large_to_be_compared_counts_as_opening() {
    let each = |from: u16| {
        (0..2_100_u16).map(move |n| {
            let block = IpNetwork::new(Ipv4Addr::from(0x1400_0000 + u32::from(from + n) * 256).into(), 24).unwrap();
            rule(Peers::Only(vec![Peer::Cidr { cidr: block, except: Vec::new() }]), tcp(from + n, from + n))
        })
    };
    let image = |from| image_of(vec![policy("p", each(from).collect(), Vec::new())], snapshot());
    assert!(matches!(change(&image(1), &image(9_000)), Change::Opens(None)));
    assert!(matches!(
        change(&image(1), &image_of(vec![policy("p", Vec::new(), Vec::new())], snapshot())),
        Change::OpensNothing
    ));
}
