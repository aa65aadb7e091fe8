//! The programs of the control plane. Input: the binaries' directory, the shape, and the paths inside the member. Output: a
//! command line for each.

use std::path::Path;

use crate::cluster::{pki, shape::Shape};

/// Where the member sees its keys and configuration.
pub(crate) const CONFIGURATION: &str = "/etc/kubernetes";

const ETCD: &str = "http://127.0.0.1:2379";

/// What has to run before anything else can.
pub(crate) fn storage(binaries: &Path) -> Vec<String> {
    let peer = "http://127.0.0.1:2380";
    command(
        binaries,
        "etcd",
        &[
            // A cluster that crashes is thrown away.
            "--unsafe-no-fsync".into(),
            "--data-dir=/var/lib/etcd".into(),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--log-level=warn".into(),
        ],
    )
}

pub(crate) fn api_server(binaries: &Path, shape: Shape) -> Vec<String> {
    let file = |name: &str| format!("{CONFIGURATION}/{name}");
    let address = shape.family.control().into_iter().next().unwrap_or_default();
    command(
        binaries,
        "kube-apiserver",
        &[
            format!("--etcd-servers={ETCD}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={}", pki::PORT),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--service-cluster-ip-range={}", shape.family.services().join(",")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("service-accounts.key")),
            format!("--service-account-signing-key-file={}", file("service-accounts.key")),
            "--allow-privileged=true".into(),
        ],
    )
}

/// What fills the cluster with life once the API server answers.
pub(crate) fn controllers(binaries: &Path, shape: Shape) -> [Vec<String>; 2] {
    let kubeconfig = |name: &str| format!("--kubeconfig={CONFIGURATION}/{name}.kubeconfig");
    let alone = || ["--leader-elect=false".to_owned(), "--bind-address=127.0.0.1".to_owned()];
    let mut manager = vec![
        kubeconfig("controller-manager"),
        format!("--root-ca-file={CONFIGURATION}/ca.crt"),
        "--use-service-account-credentials=true".into(),
        format!("--cluster-cidr={}", shape.family.pods().join(",")),
        format!("--service-cluster-ip-range={}", shape.family.services().join(",")),
        // It makes this directory on its machine, otherwise outside of what the member has of its own.
        "--flex-volume-plugin-dir=/var/lib/volume-plugins".into(),
        // A node's pods are where the CNI configuration of this cluster says.
        "--allocate-node-cidrs=false".into(),
    ];
    manager.extend(alone());
    let mut scheduler = vec![kubeconfig("scheduler")];
    scheduler.extend(alone());
    [command(binaries, "kube-controller-manager", &manager), command(binaries, "kube-scheduler", &scheduler)]
}

pub(crate) fn command(binaries: &Path, program: &str, arguments: &[String]) -> Vec<String> {
    let program = binaries.join(program).to_string_lossy().into_owned();
    std::iter::once(program).chain(arguments.iter().cloned()).collect()
}
