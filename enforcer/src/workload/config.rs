//! The configuration with which the agent starts discovery: sources, uplinks, and what an earlier daemon knew.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use enforcer_common::id::Ifindex;

use super::chains::Chains;
use super::model::Past;
use super::source::runtime::kind::RuntimeKind;
use super::source::shape::Earlier;
use crate::kubernetes::Cluster;

/// What discovery watches, and what an earlier daemon knew.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The API of the cluster that this node belongs to.
    pub kubernetes: Option<Cluster>,
    /// Container runtime.
    pub runtime: Option<RuntimeKind>,
    /// Inventory file.
    pub inventory: Option<PathBuf>,
    /// What an earlier run left in force. A source that has errors goes on from there.
    pub earlier: Earlier,
    /// Devices that are uplinks whatever else is known of them.
    pub uplinks: Vec<String>,
    /// The owner of each address in an earlier run, named by the ifindex of one of its veths.
    pub owners: BTreeMap<IpAddr, Ifindex>,
    /// Veths (by ifindex) that belonged to workloads in an earlier run.
    pub endpoints: BTreeSet<Ifindex>,
    /// What an earlier run remembered of veths (by ifindex).
    pub pasts: BTreeMap<Ifindex, Past>,
    /// For how long after a veth was first seen the addresses behind it are pinned.
    pub settling: Settling,
    /// If packets to Services are judged behind the node's translation (D5): who knows what else may take them there.
    pub judges_backends: Option<Arc<dyn Chains>>,
    /// Devices (by ifindex) that were uplinks in an earlier run. A veth among them stays one unless a source names it.
    pub uplink_ifindexes: BTreeSet<Ifindex>,
}

/// A settling time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settling(pub Duration);

impl Default for Settling {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}
