//! What a cluster looks like. Input: the options of `cluster up`. Output: the addresses that follow from them.
//!
//! Each cluster has namespaces of its own, and no link leads out of them. So all clusters use the same addresses.

use serde::{Deserialize, Serialize};

/// First of the two parts of a member's address in the network that joins all members.
const NETWORK: [&str; 2] = ["10.77.0.", "fd77::"];

/// Pods of all nodes.
const PODS: [&str; 2] = ["10.78.0.0/16", "fd78::/48"];

const SERVICES: [&str; 2] = ["10.79.0.0/16", "fd79::/112"];

/// The first address of [`SERVICES`]: the API server's own Service has it.
const API_SERVICE: [&str; 2] = ["10.79.0.1", "fd79::1"];

/// How the cluster is built.
#[derive(Clone, Copy, Debug, clap::Args, Deserialize, Serialize)]
pub(crate) struct Shape {
    /// How many nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) nodes: u8,
    /// How a node joins its pods: `ptp` routes to each, `bridge` puts all on one bridge.
    #[arg(long, value_enum, default_value_t = Cni::Ptp)]
    pub(crate) cni: Cni,
    /// Address families of nodes, pods and Services.
    #[arg(long, value_enum, default_value_t = Family::Dual)]
    pub(crate) family: Family,
    /// How kube-proxy translates the addresses of Services.
    #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
    pub(crate) proxy: Proxy,
}

/// The CNI plugin that makes the pods' links.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cni {
    /// A veth with a host route for each pod.
    Ptp,
    /// A veth for each pod on a bridge of the node.
    Bridge,
}

/// Address families of a cluster. With both, IPv4 is the first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// IPv4 and IPv6.
    Dual,
}

/// Mode of kube-proxy.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proxy {
    /// Rules of iptables.
    Iptables,
    /// Maps of nftables.
    Nftables,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

impl Family {
    /// Those of an IPv4 and an IPv6 value that the cluster has, in the order of the families.
    pub(crate) fn pick<T>(self, [v4, v6]: [T; 2]) -> Vec<T> {
        match self {
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }

    pub(crate) fn pods(self) -> Vec<&'static str> {
        self.pick(PODS)
    }

    pub(crate) fn services(self) -> Vec<&'static str> {
        self.pick(SERVICES)
    }

    /// Addresses that the API server's certificate has to name.
    pub(crate) fn api_server(self) -> Vec<String> {
        let service = self.pick(API_SERVICE).into_iter().map(str::to_owned);
        service.chain(self.control()).chain(["127.0.0.1".to_owned()]).collect()
    }

    /// Addresses of the control plane.
    pub(crate) fn control(self) -> Vec<String> {
        self.on_the_network(1)
    }

    /// Addresses of a node. Nodes are counted from 1.
    pub(crate) fn node(self, number: u8) -> Vec<String> {
        self.on_the_network(10 + number)
    }

    fn on_the_network(self, host: u8) -> Vec<String> {
        let [v4, v6] = NETWORK;
        // The same digits in both families, although they are hexadecimal in the second: they are easier to read so.
        self.pick([format!("{v4}{host}"), format!("{v6}{host}")])
    }

    /// Where the pods of a node are.
    pub(crate) fn pods_of(self, number: u8) -> Vec<String> {
        self.pick([format!("10.78.{number}.0/24"), format!("fd78:0:0:{number}::/64")])
    }
}

/// Length of the prefix of the network that joins all members.
pub(crate) fn prefix(address: &str) -> u8 {
    if is_v6(address) { 64 } else { 24 }
}

pub(crate) fn is_v6(address: &str) -> bool {
    address.contains(':')
}

/// An address as the host of a URL.
pub(crate) fn host(address: &str) -> String {
    if is_v6(address) { format!("[{address}]") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_two_families_has_both_addresses_and_ipv4_first() {
        assert_eq!(Family::Dual.node(2), ["10.77.0.12", "fd77::12"]);
        assert_eq!(Family::Dual.pods_of(2), ["10.78.2.0/24", "fd78:0:0:2::/64"]);
        assert_eq!(Family::Ipv6.control(), ["fd77::1"]);
        assert_eq!(Family::Ipv4.api_server(), ["10.79.0.1", "10.77.0.1", "127.0.0.1"]);
    }

    #[test]
    fn no_two_members_share_an_address() {
        let mut all: Vec<String> = (1..=50).flat_map(|number| Family::Dual.node(number)).collect();
        all.extend(Family::Dual.control());
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_in_a_url() {
        assert_eq!((host("fd77::1").as_str(), host("10.77.0.1").as_str()), ("[fd77::1]", "10.77.0.1"));
        assert_eq!((prefix("fd77::1"), prefix("10.77.0.1")), (64, 24));
    }
}
