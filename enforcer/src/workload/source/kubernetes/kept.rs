//! The objects as text, for a later daemon that starts while the API does not answer.
//!
//! Input: the objects. Output: a text, and the objects again. Each set of labels is written once: thousands of pods may share
//! one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::objects::Objects;
use super::pod::Pod;
use crate::workload::model::{LabelSets, Labels, NamedPort, WorkloadName};
use crate::workload::statement::{About, FoundBy, Statement};

/// The number of this form of the text.
const VERSION: u32 = 1;

/// Why the text cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnreadablePods {
    /// It is no such text.
    #[error("the kept pods are damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Another version of the daemon wrote it.
    #[error("another version of the daemon kept the pods")]
    OtherVersion,
}

#[derive(Deserialize, Serialize)]
struct Kept<L, P, N> {
    version: u32,
    labels: L,
    pods: P,
    namespaces: N,
    nodes: BTreeMap<IpAddr, Arc<str>>,
    #[serde(default)]
    services: BTreeSet<IpAddr>,
}

#[derive(Deserialize, Serialize)]
enum KeptPod {
    Own {
        name: WorkloadName,
        object: String,
        labels: usize,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        ports: BTreeMap<String, BTreeSet<NamedPort>>,
        addresses: BTreeSet<IpAddr>,
        leaving: bool,
        here: bool,
    },
    Host {
        node: Arc<str>,
        addresses: BTreeSet<IpAddr>,
    },
}

/// The text of all objects.
pub(super) fn text(objects: &Objects) -> String {
    let (mut labels, mut places): (Vec<&LabelSets>, HashMap<*const Labels, usize>) = (Vec::new(), HashMap::new());
    let pods = objects.pods.iter().filter_map(|pod| match &**pod {
        Pod::Own { statement, leaving } => {
            let place = *places.entry(statement.labels.place()).or_insert_with(|| {
                labels.push(&statement.labels);
                labels.len() - 1
            });
            Some(KeptPod::Own {
                name: statement.declared()?.clone(),
                object: statement.object.clone(),
                labels: place,
                ports: statement.ports.clone(),
                addresses: statement.addresses.clone(),
                leaving: *leaving,
                here: matches!(statement.found_by, FoundBy::Pod { .. }),
            })
        }
        Pod::Host { node, addresses } => Some(KeptPod::Host { node: Arc::clone(node), addresses: addresses.clone() }),
    });
    let pods: Vec<KeptPod> = pods.collect();
    let kept = Kept {
        version: VERSION,
        labels,
        pods,
        namespaces: &*objects.namespaces,
        nodes: objects.nodes.clone(),
        services: BTreeSet::clone(&objects.services),
    };
    serde_json::to_string(&kept).unwrap_or_default()
}

/// The objects of a text.
pub(super) fn read(text: &str) -> Result<Objects, UnreadablePods> {
    let kept: Kept<Vec<LabelSets>, Vec<KeptPod>, BTreeMap<String, Labels>> = serde_json::from_str(text)?;
    if kept.version != VERSION {
        return Err(UnreadablePods::OtherVersion);
    }
    let pod = |pod: KeptPod| match pod {
        KeptPod::Own { name, object, labels, ports, addresses, leaving, here } => {
            let statement = Statement {
                by: format!("pod {name}"),
                about: About::Workload(name),
                object,
                labels: kept.labels.get(labels).ok_or(UnreadablePods::OtherVersion)?.clone(),
                ports,
                routes: false,
                found_by: if here { FoundBy::Pod { leaving } } else { FoundBy::Elsewhere },
                addresses,
                floating: BTreeSet::new(),
                remarks: Vec::new(),
            };
            Ok(Arc::new(Pod::Own { statement: Arc::new(statement), leaving }))
        }
        KeptPod::Host { node, addresses } => Ok(Arc::new(Pod::Host { node, addresses })),
    };
    let pods = kept.pods.into_iter().map(pod).collect::<Result<Vec<_>, UnreadablePods>>()?;
    Ok(Objects::new(pods, kept.namespaces, kept.nodes, kept.services))
}
