//! How a node joins its pods. Input: the CNI plugin and where the node's pods are. Output: the CNI configuration list.

use serde_json::{Value, json};

use crate::cluster::shape::{Cni, is_v6};

/// Where Debian's package puts the plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// The configuration of one node.
pub(crate) fn configuration(cni: Cni, pods: &[String]) -> Value {
    let ranges: Vec<Value> = pods.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    let routes: Vec<Value> =
        pods.iter().map(|subnet| json!({"dst": if is_v6(subnet) { "::/0" } else { "0.0.0.0/0" }})).collect();
    let ipam = json!({"type": "host-local", "ranges": ranges, "routes": routes});
    // Pods reach each other by their own addresses on all nodes, so nothing is masqueraded here.
    let links = match cni {
        Cni::Ptp => json!({"type": "ptp", "ipMasq": false, "ipam": ipam}),
        Cni::Bridge => json!({
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            // A pod that reaches itself through a Service is sent back to where it came from.
            "hairpinMode": true,
            "ipMasq": false,
            "ipam": ipam,
        }),
    };
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "1.0.0", "name": "cluster", "plugins": [links, ports]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_plugins_give_a_pod_an_address_and_a_route_of_each_family() {
        for cni in [Cni::Ptp, Cni::Bridge] {
            let list = configuration(cni, &["10.78.1.0/24".into(), "fd78:0:0:1::/64".into()]);
            let ipam = &list["plugins"][0]["ipam"];
            assert_eq!(
                ipam["ranges"],
                json!([[{"subnet": "10.78.1.0/24"}], [{"subnet": "fd78:0:0:1::/64"}]]),
                "{cni:?}"
            );
            assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]), "{cni:?}");
        }
    }
}
