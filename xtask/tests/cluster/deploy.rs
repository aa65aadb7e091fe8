//! What is installed in a cluster: the manifests of `deploy`, and the image that they name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::rig::{Cluster, is_privileged, of_xtask, said, xtask};

/// What the manifests call the image.
const IMAGE: &str = "localhost/enforcer:0.1.0";

/// Where the manifests put the agent.
pub(crate) const NAMESPACE: &str = "enforcer-system";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn installed() -> String {
    root().join("deploy/install.yaml").to_string_lossy().into_owned()
}

/// Makes the image, and returns its archive.
pub(crate) fn image(directory: &Path, name: &str) -> PathBuf {
    let archive = directory.join(name);
    println!("{}", said(of_xtask(&["image", "--unoptimised", "--output", archive.to_str().unwrap()])));
    archive
}

/// The objects of the list that have this kind.
fn of_kind<'a>(list: &'a Value, kind: &str) -> Vec<&'a Value> {
    list["items"].as_array().unwrap().iter().filter(|object| object["kind"] == kind).collect()
}

fn strings(values: &Value) -> BTreeSet<String> {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    values.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// Capabilities of the table in the README.
fn explained() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let cells = readme.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split('|').next());
    cells.flat_map(|cell| cell.split(',')).map(|name| name.trim_matches([' ', '`']).replace("CAP_", "")).collect()
}

#[test]
fn the_api_server_takes_the_manifests_and_the_agent_has_only_what_it_needs() {
    if !is_privileged() {
        return;
    }
    let cluster = Cluster::named("manifests");
    cluster.up(&["--nodes", "1"]);
    // A trial run makes no namespace for the objects that are in it.
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    let taken =
        cluster.kubectl(&["apply", "--dry-run=server", "--validate=strict", "--output=json", "-f", &installed()]);
    let list: Value = serde_json::from_str(&taken).unwrap();

    let sets = of_kind(&list, "DaemonSet");
    assert_eq!(sets.len(), 1, "{taken}");
    let set = &sets[0]["spec"];
    assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    let pod = &set["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &pod["initContainers"]), (1, &Value::Null));
    let agent = &containers[0];
    assert_eq!(agent["image"], IMAGE);
    let rights = &agent["securityContext"];
    for (name, value) in [("privileged", false), ("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)]
    {
        assert_eq!(rights[name], value, "{name}");
    }
    assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]));
    let capabilities = strings(&rights["capabilities"]["add"]);
    assert_eq!(capabilities, ["BPF", "NET_ADMIN", "NET_BROADCAST", "PERFMON"].map(str::to_owned).into());
    assert!(capabilities.is_subset(&explained()), "the README explains {:?}", explained());
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let request = &agent[probe]["httpGet"];
        assert_eq!((&request["path"], &request["host"]), (&json!(path), &json!("127.0.0.1")), "{probe}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let paths: BTreeSet<&str> = volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
    let no_socket = ["/run/enforcer", "/sys/fs/bpf", "/var/log/enforcer"];
    assert_eq!(paths, no_socket.into());
    assert_eq!(volumes.iter().filter(|volume| volume["projected"].is_object()).count(), 1);

    let mut resources = BTreeSet::new();
    for role in ["Role", "ClusterRole"].iter().flat_map(|kind| of_kind(&list, kind)) {
        for rule in role["rules"].as_array().unwrap() {
            let of_rule = strings(&rule["resources"]);
            // What it may write are objects about itself.
            let verbs: &[&str] = match of_rule.first().map(String::as_str) {
                Some("enforcernodes") => &["create", "get", "patch"],
                _ => &["get", "list", "watch"],
            };
            let found = strings(&rule["verbs"]);
            assert!(found.iter().map(String::as_str).eq(verbs.iter().copied()), "{rule}");
            resources.extend(of_rule);
        }
    }
    let all = ["enforcernodes", "flowpolicies", "namespaces", "networkpolicies", "nodes", "pods", "services"];
    assert_eq!(resources, all.map(str::to_owned).into());
    cluster.down();
    cluster.assert_gone();
}

#[test]
fn the_image_has_the_same_bytes_twice_and_both_runtimes_start_it() {
    if !is_privileged() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let [first, second] = ["first.tar", "second.tar"].map(|name| image(place.path(), name));
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "two archives of one build differ");

    // Storage of its own: the machine's podman has none of this.
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(place.path().join("storage")).arg("--runroot").arg(place.path().join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]).args(arguments);
        said(command)
    };
    let loaded = podman(&["load", "--input", first.to_str().unwrap()]);
    assert!(loaded.contains(IMAGE), "{loaded}");
    let says = |version: &str| {
        assert!(version.contains("kernel object  sha256:") && version.contains("Linux 6.6 or later"), "{version}");
    };
    // podman's own limits are beyond those of some machines that run the tests.
    let limits = ["--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256"];
    says(&podman(&[&["run", "--rm", "--network", "none"], &limits[..], &[IMAGE, "version"]].concat()));

    let cluster = Cluster::named("image");
    cluster.up(&["--nodes", "1"]);
    said(xtask(&["load", "--name", &cluster.name, first.to_str().unwrap()]));
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "version"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": IMAGE, "args": ["version"], "imagePullPolicy": "Never"}],
        },
    }));
    let ended = "--for=jsonpath={.status.phase}=Succeeded";
    cluster.kubectl(&["wait", ended, "pod", "version", "--timeout=60s"]);
    says(&cluster.kubectl(&["logs", "version"]));
    cluster.down();
    cluster.assert_gone();
}
