//! A node: its configuration files and its programs. Input: the member, the shape, the keys. Output: the files below the
//! member's directory, and a command line for each program.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::{
    build::Cache,
    cni,
    control_plane::{CONFIGURATION, command},
    member::Member,
    pki::{self, Keys},
    shape::Shape,
};

/// containerd's socket inside the node.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Port on which kube-proxy says that it works.
pub(crate) const PROXY_HEALTH: &str = "127.0.0.1:10256";

/// Writes what the node's programs read.
pub(crate) fn configure(node: &Member, shape: Shape, keys: &Keys, authority: &Path, cache: &Cache) -> Result<()> {
    let own = node.directory.join("kubernetes");
    let seen = Path::new(CONFIGURATION).join("ca.crt");
    fs::copy(authority, own.join("ca.crt")).context("cannot copy the authority's certificate")?;
    fs::create_dir_all(own.join("manifests"))?;
    fs::write(own.join("kubelet.kubeconfig"), keys.kubeconfig(&pki::node_user(&node.name), &seen))?;
    fs::write(own.join("kube-proxy.kubeconfig"), keys.kubeconfig(pki::PROXY, &seen))?;
    fs::write(own.join("kubelet.json"), format!("{:#}", kubelet()))?;
    fs::write(own.join("kube-proxy.json"), format!("{:#}", kube_proxy(&node.name, shape)))?;
    fs::write(own.join("containerd.toml"), containerd(&cache.pause()))?;
    let list = cni::configuration(shape.cni, &node.pods);
    fs::write(node.directory.join("etc-cni/net.d/10-cluster.conflist"), format!("{list:#}"))?;
    let plugins = fs::read_dir(cni::PLUGINS).with_context(|| format!("cannot read {}", cni::PLUGINS))?;
    for plugin in plugins.collect::<io::Result<Vec<_>>>()? {
        symlink(plugin.path(), node.directory.join("opt-cni/bin").join(plugin.file_name()))?;
    }
    Ok(())
}

/// The container runtime, which needs no API server.
pub(crate) fn runtime() -> Vec<String> {
    ["containerd", "--config", &format!("{CONFIGURATION}/containerd.toml")].map(str::to_owned).into()
}

/// What joins the node to the cluster.
pub(crate) fn programs(binaries: &Path, node: &Member) -> [Vec<String>; 2] {
    let kubelet = [
        format!("--config={CONFIGURATION}/kubelet.json"),
        format!("--kubeconfig={CONFIGURATION}/kubelet.kubeconfig"),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", node.addresses.join(",")),
    ];
    let proxy = [format!("--config={CONFIGURATION}/kube-proxy.json")];
    [command(binaries, "kubelet", &kubelet), command(binaries, "kube-proxy", &proxy)]
}

/// Where the host sees the node's containerd.
pub(crate) fn socket(node: &Member) -> PathBuf {
    node.root.join(SOCKET.trim_start_matches('/'))
}

fn kubelet() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": format!("{CONFIGURATION}/ca.crt")},
        },
        // The API server alone has a certificate of that authority.
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "staticPodPath": format!("{CONFIGURATION}/manifests"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": "",
        // Cgroups: the node has a tree of its own, and every pod is right below its top.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": false,
        // Nothing is evicted or collected because the machine that runs the tests is full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "0%",
        },
        "makeIPTablesUtilChains": false,
        "serializeImagePulls": true,
        // What a test kills again and again comes back at once, and not after ten seconds and more.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    })
}

fn kube_proxy(node: &str, shape: Shape) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": format!("{CONFIGURATION}/kube-proxy.kubeconfig")},
        "hostnameOverride": node,
        "mode": shape.proxy.name(),
        "clusterCIDR": shape.family.pods().join(","),
        // The size of the table is the whole kernel's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}

fn containerd(pause: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
