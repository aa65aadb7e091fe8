//! The Services that stand beside policies in their files.
//!
//! Input: texts of files. Output: addresses that a node translates, and whom each Service selects. No policy depends on them: they are
//! for warnings alone, so what cannot be read is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::document::node::{Node, ObjectDoc, objects};
use super::load::{SourceFile, on_stack};
use super::yaml::{documents, without_marks};

/// A Service with cluster addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The labels that it asks its backends for; empty if it selects none.
    pub selector: BTreeMap<String, String>,
}

/// What is known of Services.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Services {
    /// Those that are known one by one.
    pub all: Vec<Service>,
    /// Ranges that hold nothing but cluster addresses of Services.
    pub ranges: Vec<IpNetwork>,
}

/// The objects of the kinds Service and `ServiceCIDR` in these files.
pub fn services(sources: &[SourceFile]) -> Services {
    let read = || {
        let mut found = Services::default();
        for source in sources {
            // Most files have none, and none of them is worth a second reading.
            if source.text.contains("Service") {
                documents(&without_marks(&source.text)).flat_map(objects).for_each(|object| found.note(&object));
            }
        }
        found
    };
    on_stack(read).unwrap_or_default()
}

impl Services {
    fn note(&mut self, object: &ObjectDoc) {
        let ObjectDoc { api_version: Some(version), kind: Some(kind), metadata, spec: Some(spec), .. } = object else {
            return;
        };
        let spec = spec.value();
        let texts = |field: &str| -> Vec<&str> {
            spec[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => {
                let metadata = metadata.as_ref().map(Node::value).unwrap_or_default();
                let named = |field: &str| metadata[field].as_str().map(str::to_owned);
                let all = spec["clusterIP"].as_str().into_iter().chain(texts("clusterIPs"));
                // "None" and an empty text are no addresses.
                let addresses: BTreeSet<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
                let labels = spec["selector"].as_object().into_iter().flatten();
                let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
                let selector = labels.filter_map(label).collect();
                if !addresses.is_empty() {
                    let namespace = named("namespace").unwrap_or_else(|| "default".to_owned());
                    self.all.push(Service { namespace, name: named("name").unwrap_or_default(), addresses, selector });
                }
            }
            (version, "ServiceCIDR") if version.starts_with("networking.k8s.io/") => {
                self.ranges.extend(texts("cidrs").iter().filter_map(|text| text.parse::<IpNetwork>().ok()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_their_ranges_are_found_beside_what_is_no_service() {
        let text = "\
kind: Service
apiVersion: v1
metadata: {name: dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, \"fd00:96::a\"], selector: {k8s-app: kube-dns}, ports: [{port: 53}]}
---
kind: ServiceList
apiVersion: v1
items:
  - metadata: {name: headless}
    spec: {clusterIP: None}
  - metadata: {name: db}
    spec: {clusterIP: 10.96.0.11}
---
kind: List
apiVersion: v1
items:
  - {kind: ServiceCIDR, apiVersion: networking.k8s.io/v1, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16, x]}}
  - {kind: Service, apiVersion: serving.knative.dev/v1, metadata: {name: knative}, spec: {clusterIP: 10.96.0.12}}
---
Service: [
";
        let found = services(&[SourceFile { path: "s.yaml".into(), text: text.into() }]);
        let shown: Vec<String> = found
            .all
            .iter()
            .map(|Service { namespace, name, addresses, selector }| {
                format!("{namespace}/{name} {addresses:?} {selector:?}")
            })
            .collect();
        assert_eq!(
            shown,
            [r#"kube-system/dns {10.96.0.10, fd00:96::a} {"k8s-app": "kube-dns"}"#, "default/db {10.96.0.11} {}"]
        );
        assert_eq!(found.ranges, ["10.96.0.0/16".parse().unwrap()]);
    }
}
