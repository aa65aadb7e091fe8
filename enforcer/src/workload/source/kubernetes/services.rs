//! The addresses of a Service: those that a node translates into the address of a backend.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use k8s_openapi::api::core::v1;

use super::objects::Addresses;
use crate::workload::names::is_unicast;

/// Cluster addresses of each family, external addresses, and those of a load balancer. A headless Service has none, and a
/// NodePort is at an address of a node.
pub(super) fn addresses_of(service: v1::Service) -> Addresses {
    let spec = service.spec.unwrap_or_default();
    let balancer = service.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
    let texts = spec.cluster_ip.into_iter().chain(spec.cluster_ips.unwrap_or_default());
    let texts = texts.chain(spec.external_ips.unwrap_or_default());
    let texts = texts.chain(balancer.unwrap_or_default().into_iter().filter(is_translated).filter_map(|one| one.ip));
    // "None" and an empty text are no addresses.
    texts.filter_map(|text| text.parse::<IpAddr>().ok()).filter(|address| is_unicast(*address)).collect()
}

/// With `ipMode: Proxy` a load balancer gets the packets itself, and no node translates them.
fn is_translated(ingress: &v1::LoadBalancerIngress) -> bool {
    ingress.ip_mode.as_deref() != Some("Proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(service: &str) -> Vec<String> {
        let service: v1::Service = serde_json::from_str(service).unwrap();
        addresses_of(service).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_address_that_nodes_translate_is_found() {
        let all = r#"{"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "externalIPs": ["192.0.2.1"]}, "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb"}]}}}"#;
        assert_eq!(addresses(all), ["10.96.0.1", "192.0.2.1", "198.51.100.1", "fd00:96::1"]);
    }

    #[test]
    fn a_load_balancer_that_gets_the_packets_itself_is_translated_by_no_node() {
        let one = |mode: &str| {
            format!(
                r#"{{"status": {{"loadBalancer": {{"ingress": [{{"ip": "198.51.100.1"{mode}}}]}}}}, "spec": {{}}}}"#
            )
        };
        assert_eq!(addresses(&one(r#", "ipMode": "Proxy""#)), [""; 0]);
        assert_eq!(addresses(&one(r#", "ipMode": "VIP""#)), ["198.51.100.1"]);
    }

    #[test]
    fn a_headless_service_and_one_without_a_cluster_address_have_none() {
        assert_eq!(addresses(r#"{"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}"#), [""; 0]);
        assert_eq!(addresses(r#"{"spec": {"type": "ExternalName", "externalName": "db.example"}}"#), [""; 0]);
        assert_eq!(addresses(r#"{"spec": {"clusterIP": "", "externalIPs": ["0.0.0.0", "224.0.0.1", "x"]}}"#), [""; 0]);
    }
}
