//! An index of the node's routes, built once an update. It finds the routes that a packet to an address would take.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::workload::view::{NetworkView, Route};

/// Longest-prefix match over all tables; default routes are left out.
#[derive(Debug, Default)]
pub(super) struct Routing<'a> {
    routes: BTreeMap<(u8, IpAddr), Vec<&'a Route>>,
    lengths: BTreeSet<u8>,
}

impl<'a> Routing<'a> {
    pub(super) fn new(view: &'a NetworkView) -> Self {
        let mut routing = Self::default();
        for route in view.routes.iter().filter(|route| !route.is_default()) {
            let length = route.to.prefix();
            routing.lengths.insert(length);
            routing.routes.entry((length, route.to.network())).or_default().push(route);
        }
        routing
    }

    /// The routes with the longest prefix that holds this address.
    pub(super) fn best(&self, address: IpAddr) -> &[&'a Route] {
        let network = |length: u8| IpNetwork::new(address, length).ok().map(|net| (length, net.network()));
        let found = self.lengths.iter().rev().find_map(|length| self.routes.get(&network(*length)?));
        found.map_or(&[], Vec::as_slice)
    }
}
