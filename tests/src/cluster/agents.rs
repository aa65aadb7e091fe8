//! The agents of this build in a cluster, installed as a user installs them: by the image of `cargo xtask image` and by
//! `deploy/base`. Input: a cluster. Output: an agent on each node, which has its first full set in the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Cluster, of_xtask, said, xtask};

/// Where the manifests put the agents.
pub const NAMESPACE: &str = "enforcer-system";

/// Where the program is in the image.
const PROGRAM: &str = "/enforcer";

/// Makes the image with these options of `cargo xtask image`.
pub fn image(archive: &Path, options: &[&str]) {
    println!("{}", said(of_xtask(&[&["image", "--output", archive.to_str().unwrap()], options].concat())));
}

/// Puts the image on every node, installs the agents, and waits until they are ready.
pub fn install(cluster: &Cluster, archive: &Path) {
    said(xtask(&["load", "--name", &cluster.name, archive.to_str().unwrap()]));
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
    cluster.kubectl(&["apply", "-k", base.to_str().unwrap()]);
    let rollout = ["--namespace", NAMESPACE, "rollout", "status", "daemonset/enforcer-agent", "--timeout=120s"];
    if let Err(said) = cluster.try_kubectl(&rollout) {
        let describe = cluster.kubectl(&["--namespace", NAMESPACE, "describe", "pods"]);
        let logs = ["--namespace", NAMESPACE, "logs", "--selector=app.kubernetes.io/name=enforcer", "--tail=40"];
        panic!("{said}\n{describe}\n{}", cluster.try_kubectl(&logs).unwrap_or_else(|said| said));
    }
}

/// The process of a node's agent, as the host counts processes. No other cluster has the node's network.
pub fn process(cluster: &Cluster, node: &str) -> u32 {
    let network = fs::metadata(cluster.network(node)).unwrap().ino();
    let is_agent = |directory: &Path| {
        let own = fs::metadata(directory.join("ns/net")).is_ok_and(|namespace| namespace.ino() == network);
        own && fs::read_link(directory.join("exe")).is_ok_and(|program| program == Path::new(PROGRAM))
    };
    let mut processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        is_agent(&entry.path()).then_some(pid)
    });
    processes.next().unwrap_or_else(|| panic!("no agent runs on {node}"))
}
