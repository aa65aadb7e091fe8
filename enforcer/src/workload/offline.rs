//! The workloads of an inventory as they would be on one node that runs them all, without any node.
//!
//! Input: an inventory. Output: the snapshot that the store makes of it, by the same code as in the daemon. Only the network
//! around it is made up: a veth for each entry, and addresses for entries that have none before they run.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use enforcer_common::id::Ifindex;
use ipnetwork::IpNetwork;

use super::inventory::{self, Inventory};
use super::model::Snapshot;
use super::source::SourceState;
use super::statement::FoundBy;
use super::store::{Inputs, Store};
use super::view::{Kind, Link, NetworkView, Route, VethPeer};

/// The first veth; devices below it are left to whoever adds some.
const FIRST_VETH: u32 = 2;

/// The snapshot of an inventory. An entry that is found by namespace or device has no address before it runs; it gets two from
/// ranges that nobody routes (RFC 1112, RFC 6666).
pub fn snapshot(inventory: &Inventory) -> Snapshot {
    let source = inventory::state_of(inventory);
    let (view, netns) = network(&source);
    let inputs = Inputs {
        view: &view,
        gone: &BTreeSet::new(),
        sources: &[source],
        netns: &netns,
        uplinks: &[],
        // What it shows is pinned at once.
        settling: Duration::from_secs(1),
        judges_backends: true,
        chained: &BTreeSet::new(),
        now: Instant::now(),
    };
    let mut snapshot = Store::new().update(&inputs).snapshot;
    // None of them is older than this node.
    for interface in snapshot.local.values_mut().flat_map(|workload| workload.endpoints.values_mut()) {
        interface.existed_at_start = false;
    }
    snapshot
}

/// A veth for each statement, and what its namespace path stands for.
fn network(source: &SourceState) -> (NetworkView, BTreeMap<PathBuf, i32>) {
    let (mut view, mut netns) = (NetworkView::default(), BTreeMap::new());
    for (number, statement) in (0_i32..).zip(source.statements.iter()) {
        let veth = Ifindex(FIRST_VETH + number.unsigned_abs());
        let mut name = format!("veth{veth}");
        match &statement.found_by {
            FoundBy::Netns(paths) => netns.extend(paths.iter().map(|path| (path.clone(), number))),
            FoundBy::Interface(interface) => name.clone_from(interface),
            // On a node a runtime or a host route would give it the address.
            FoundBy::Address | FoundBy::Pod { .. } => view.routes.extend(statement.addresses.iter().map(|own| Route {
                to: IpNetwork::from(*own),
                device: veth,
                via: false,
            })),
            FoundBy::Elsewhere => continue,
        }
        let shown = if statement.addresses.is_empty() { made_up(number.unsigned_abs()) } else { Vec::new() };
        view.routes.extend(shown.iter().map(|(_, link)| Route { to: *link, device: veth, via: false }));
        view.inside.insert(number, shown.into_iter().map(|(address, _)| address).collect());
        let peer = Some(VethPeer { nsid: Some(number), index: 2, mac: None });
        view.links
            .insert(veth, Link { name, kind: Kind::Plain, master: None, below: None, peer, mac: None, xdp: false });
    }
    (view, netns)
}

/// An address of each family with the link that it is alone on.
fn made_up(number: u32) -> Vec<(IpAddr, IpNetwork)> {
    let number = number * 2;
    let v4 = IpAddr::from(Ipv4Addr::from(0xf000_0000 + number));
    let [high, low] = [(number >> 16) as u16, number as u16];
    let v6 = IpAddr::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, high, low));
    [(v4, 31), (v6, 127)]
        .into_iter()
        .filter_map(|(own, prefix)| Some((own, IpNetwork::new(own, prefix).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::workload::model::Voucher;

    fn of(yaml: &str) -> Snapshot {
        snapshot(&Inventory::parse(Path::new("test.inventory.yaml"), yaml).unwrap())
    }

    /// N13, b01.
    #[test]
    fn every_namespace_has_the_label_of_its_name() {
        let made = of("namespaces: {ops: {labels: {team: a}}, empty: {}}\n\
                       workloads: [{name: w, namespace: shop, match: {netns: w}}]");
        for name in ["ops", "empty", "shop"] {
            assert_eq!(made.namespaces[name]["kubernetes.io/metadata.name"], name);
        }
        assert_eq!(made.namespaces["ops"]["team"], "a");
    }

    #[test]
    fn each_entry_is_a_workload_in_the_order_of_the_file_with_an_address_of_each_family() {
        let made = of("workloads:\n\
             - {name: b, match: {netns: b}, routes: true}\n\
             - {name: a, match: {interface: eth-a}}\n\
             - {name: c, match: {address: [10.0.0.3, \"fd00::3\"]}}\n\
             - {name: d, match: {netns: d}, addresses: [10.0.0.4]}");
        let names: Vec<&str> =
            made.local.values().map(|local| local.identity.as_ref().unwrap().name.name.as_str()).collect();
        assert_eq!((names, made.remote.len(), made.uplinks.len()), (vec!["b", "a", "c", "d"], 0, 0));
        let locals: Vec<_> = made.local.values().collect();
        assert!(locals[0].routes && !locals[1].routes);
        let interfaces = locals.iter().flat_map(|local| local.endpoints.values());
        assert!(interfaces.into_iter().all(|interface| !interface.existed_at_start), "nobody is older than the node");
        for made_up in &locals[..2] {
            assert!(made_up.addresses.values().all(Voucher::is_nobody), "{made_up:?}");
            assert_eq!(made_up.addresses.keys().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
        }
        for given in &locals[2..] {
            assert!(given.addresses.values().all(|voucher| matches!(voucher, Voucher::Source(_))), "{given:?}");
        }
        assert_eq!((locals[2].addresses.len(), locals[3].addresses.len()), (2, 1));
    }

    #[test]
    fn many_entries_keep_addresses_of_their_own() {
        let entries: Vec<String> =
            (0..30_000).map(|n| format!("- {{name: w{n}, match: {{interface: v{n}}}}}\n")).collect();
        let entries = entries.concat();
        let made = of(&format!("workloads:\n{entries}"));
        let all: BTreeSet<IpAddr> = made.local.values().flat_map(|local| local.addresses.keys().copied()).collect();
        assert_eq!((made.local.len(), all.len()), (30_000, 60_000));
    }
}
