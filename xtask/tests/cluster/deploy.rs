//! What is installed in a cluster: the manifests of `deploy`, and the image that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use enforcer_tests::cluster::{agents, until};
use serde_json::{Value, json};

use crate::rig::{Cluster, is_privileged, said, xtask};

/// Where the manifests put the agent.
pub(crate) use enforcer_tests::cluster::agents::NAMESPACE;

/// What the manifests call the image.
const IMAGE: &str = "localhost/enforcer:0.1.0";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn installed() -> String {
    root().join("deploy/install.yaml").to_string_lossy().into_owned()
}

/// Makes the image, and returns its archive.
pub(crate) fn image(directory: &Path, name: &str) -> PathBuf {
    let archive = directory.join(name);
    agents::image(&archive, &["--unoptimised"]);
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

    let read = ["get", "list", "watch"];
    // What the agent may write is about itself.
    let agent =
        ["flowpolicies", "namespaces", "networkpolicies", "nodes", "pods", "services"].map(|name| (name, &read[..]));
    let agent = agent.into_iter().chain([("enforcernodes", &["create", "get", "patch"][..])]);
    // No agent reads what the controller may write.
    let controller = [
        ("enforcernodes", &read[..]),
        ("flowpolicies", &read[..]),
        ("flowpolicies/status", &["patch"][..]),
        ("leases", &["create", "get", "update"][..]),
        ("events", &["create"][..]),
        ("networkpolicies", &["get"][..]),
        ("pods", &["get"][..]),
    ];
    assert_eq!(allowed(&list, "enforcer-agent"), rights_of(agent));
    assert_eq!(allowed(&list, "enforcer-controller"), rights_of(controller));
    assert_eq!(of_kind(&list, "ClusterRole").len() + of_kind(&list, "Role").len(), 3, "{taken}");
    the_controller_needs_nothing_of_its_node(&cluster, of_kind(&list, "Deployment")[0]);
    cluster.down();
    cluster.assert_gone();
}

/// Verbs by resource.
type Rights = BTreeMap<String, BTreeSet<String>>;

fn rights_of<'a>(rights: impl IntoIterator<Item = (&'a str, &'a [&'a str])>) -> Rights {
    let owned = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    rights.into_iter().map(|(resource, verbs)| (resource.to_owned(), owned(verbs))).collect()
}

/// What the roles of this name allow.
fn allowed(list: &Value, name: &str) -> Rights {
    let mut rights = Rights::new();
    let roles = ["Role", "ClusterRole"].iter().flat_map(|kind| of_kind(list, kind));
    for role in roles.filter(|role| role["metadata"]["name"] == name) {
        for rule in role["rules"].as_array().unwrap() {
            for resource in strings(&rule["resources"]) {
                rights.entry(resource).or_default().extend(strings(&rule["verbs"]));
            }
        }
    }
    rights
}

/// A namespace of the strictest level takes its pod.
fn the_controller_needs_nothing_of_its_node(cluster: &Cluster, deployment: &Value) {
    cluster.apply(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }));
    let mut spec = deployment["spec"]["template"]["spec"].clone();
    // Its account is elsewhere.
    spec["serviceAccountName"] = json!("default");
    spec.as_object_mut().unwrap().remove("serviceAccount");
    let taken = |spec: &Value| {
        let metadata = json!({"name": "controller", "namespace": "restricted"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), pod.to_string()).unwrap();
        let trial = ["apply", "--dry-run=server", "--filename", file.path().to_str().unwrap()];
        until(
            "the account of the namespace",
            || cluster.try_kubectl(&trial),
            |said| !said.as_ref().is_err_and(|error| error.contains("serviceaccount")),
        )
    };
    taken(&spec).unwrap();
    spec["securityContext"]["runAsNonRoot"] = json!(false);
    assert!(taken(&spec).unwrap_err().contains("violates PodSecurity"), "the control");
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
