//! Discovery in a node of the test's own.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare its namespaces has to stop")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use enforcer::workload::finding::Finding;
use enforcer::workload::model::{LocalWorkload, Snapshot};
use enforcer::workload::{Config, Discovery, start};
use enforcer_tests::net::{Node, is_privileged};

/// Longest wait for anything. Shorter than the 30 s after which discovery looks at everything anew.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// Runs a test in a fresh node namespace, on a thread of its own that has entered it.
pub(crate) fn in_node(test: impl AsyncFnOnce(&Node) + Send) {
    if !is_privileged() {
        return;
    }
    let node = Node::new();
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(&node));
    });
}

pub(crate) fn addresses(texts: &[&str]) -> std::collections::BTreeSet<std::net::IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The workload behind the host side with this name.
pub(crate) fn behind<'a>(snapshot: &'a Snapshot, host: &str) -> Option<&'a LocalWorkload> {
    snapshot.local.values().find(|workload| workload.endpoints.values().any(|veth| veth.name == host))
}

pub(crate) fn name_of(workload: &LocalWorkload) -> String {
    workload.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default()
}

/// Own addresses without the link-local ones that the kernel makes by itself.
pub(crate) fn own(workload: &LocalWorkload) -> std::collections::BTreeSet<std::net::IpAddr> {
    let local = |address: &std::net::IpAddr| matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
    workload.addresses.keys().filter(|address| !local(address)).copied().collect()
}

/// Discovery with its last snapshot.
pub(crate) struct Watch {
    pub(crate) discovery: Discovery,
    pub(crate) last: Arc<Snapshot>,
}

impl Watch {
    pub(crate) async fn start(config: Config) -> Self {
        let mut discovery = start(config).unwrap();
        let last = Arc::clone(&discovery.changed().await.unwrap().snapshot);
        Self { discovery, last }
    }

    /// What a person should know about the present snapshot.
    pub(crate) fn findings(&self) -> BTreeSet<Finding> {
        self.discovery.latest().map(|published| published.findings().clone()).unwrap_or_default()
    }

    /// Waits until a snapshot shows what is expected.
    pub(crate) async fn until(&mut self, what: &str, expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let deadline = tokio::time::Instant::now() + BOUND;
        while !expected(&self.last) {
            let next = tokio::time::timeout_at(deadline, self.discovery.changed()).await;
            let Ok(next) = next else {
                panic!("not seen in time: {what}\nlast: {:#?}\n{:#?}", self.last, self.findings());
            };
            self.last = Arc::clone(&next.unwrap().snapshot);
        }
        Arc::clone(&self.last)
    }
}
