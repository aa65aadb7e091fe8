//! A cluster as the tests of the rig itself have it. Input: a name and options of `cluster up`. Output: what `enforcer_tests` gives
//! of a cluster, starts that are killed, and what is left on the machine after `down`.

use std::{
    collections::BTreeSet,
    fs,
    ops::Deref,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use enforcer_tests::cluster::{self, BOUND};
use serde_json::Value;

pub(crate) use enforcer_tests::cluster::{errors, is_privileged, of_xtask, said, xtask};

/// A cluster, and what was on the machine before it.
pub(crate) struct Cluster {
    cluster: cluster::Cluster,
    before: Traces,
}

impl Deref for Cluster {
    type Target = cluster::Cluster;

    fn deref(&self) -> &cluster::Cluster {
        &self.cluster
    }
}

impl Cluster {
    /// A name that no other process uses, and no cluster yet.
    pub(crate) fn named(name: &str) -> Self {
        let cluster = cluster::Cluster::named(name);
        let before = Traces::of(&cluster.name);
        assert_eq!(before.own, BTreeSet::new(), "somebody else uses the name {}", cluster.name);
        Self { cluster, before }
    }

    /// Starts it, and kills the start once so many programs have been started.
    pub(crate) fn kill_start(&self, options: &[&str], parts: usize) {
        let mut child = self.start_until(options, parts);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A start that goes on, and has started so many programs.
    pub(crate) fn start_until(&self, options: &[&str], parts: usize) -> Child {
        let mut child = self.start(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + BOUND;
        while self.parts().is_none_or(|started| started < parts) {
            assert!(Instant::now() < end, "the start did not come so far");
            assert!(child.try_wait().unwrap().is_none(), "the start is over already");
            sleep(Duration::from_millis(1));
        }
        child
    }

    /// How many programs an unfinished start has started, if it has a state file.
    fn parts(&self) -> Option<usize> {
        let text = fs::read_to_string(format!("/var/lib/enforcer-cluster/{}/cluster.json", self.name)).ok()?;
        let state: Value = serde_json::from_str(&text).unwrap();
        Some(state["parts"].as_array().unwrap().len())
    }

    /// Fails if anything of the cluster is on the machine, or if anything that a cluster may not touch has changed.
    pub(crate) fn assert_gone(&self) {
        assert_eq!(Traces::of(&self.name), self.before, "{} has left something", self.name);
    }

    /// What of it is there now.
    pub(crate) fn traces(&self) -> BTreeSet<String> {
        Traces::of(&self.name).own
    }
}

/// What shows that a cluster is or was there.
#[derive(Debug, Eq, PartialEq)]
struct Traces {
    /// Processes, mounts, cgroups and files of the cluster.
    own: BTreeSet<String>,
    /// What Kubernetes would write on a machine of its own.
    others: Vec<String>,
}

impl Traces {
    fn of(name: &str) -> Self {
        let mut own = processes(name);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let named = |line: &&str| line.contains(&format!("enforcer-cluster/{name}"));
        own.extend(mounts.lines().filter(named).map(|line| format!("mount {line}")));
        let hierarchies =
            mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
        for directory in hierarchies.chain(["/var/lib", "/run", "/tmp", "/sys/fs/bpf"]) {
            let path = Path::new(directory).join("enforcer-cluster").join(name);
            if path.exists() {
                own.insert(format!("file {}", path.display()));
            }
        }
        let paths = [
            "/etc/cni/net.d/10-cluster.conflist",
            "/etc/kubernetes",
            "/opt/cni",
            "/opt/containerd",
            "/usr/libexec/kubernetes",
            "/var/lib/cni",
            "/var/lib/etcd",
            "/var/lib/kubelet",
            "/var/log/containers",
            "/var/log/pods",
            "/var/run/kubernetes",
        ];
        let paths = paths.iter().map(|path| format!("{path}: {}", Path::new(path).exists()));
        let settings = ["kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom"];
        let settings = settings.iter().map(|name| {
            format!("{name}: {}", fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default().trim())
        });
        Self { own, others: paths.chain(settings).collect() }
    }
}

/// Processes in a cgroup of the cluster, or with a file of it on their command line or among their mounts. `down` goes by the
/// first alone, so the others are evidence of their own: every process of a node and of its pods sees such a mount.
fn processes(name: &str) -> BTreeSet<String> {
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read =
            |file: &str| String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).into_owned();
        let file = format!("enforcer-cluster/{name}");
        let belongs = ["cgroup", "cmdline", "mountinfo"].iter().any(|source| read(source).contains(&file));
        let (command, stat) = (read("cmdline").replace('\0', " "), read("stat"));
        let is_zombie = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        // The commands of this test name the cluster, but no file of it.
        if !is_zombie && belongs {
            found.insert(format!("process {pid} {command}"));
        }
    }
    found
}

/// Inodes of the network and mount namespaces that the cluster's processes are in, and of no others.
pub(crate) fn namespaces(cluster: &Cluster) -> BTreeSet<String> {
    let host: BTreeSet<String> = of_process("self").collect();
    let pids = processes(&cluster.name);
    let pids = pids.iter().filter_map(|line| line.split(' ').nth(1));
    pids.flat_map(of_process).filter(|namespace| !host.contains(namespace)).collect()
}

/// Those of the namespaces that some process of the machine still is in.
pub(crate) fn still_used(namespaces: &BTreeSet<String>) -> BTreeSet<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let used: BTreeSet<String> = pids.flat_map(|pid| of_process(&pid).collect::<Vec<_>>()).collect();
    namespaces.intersection(&used).cloned().collect()
}

fn of_process(pid: &str) -> impl Iterator<Item = String> {
    let links = ["net", "mnt"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    links.into_iter().flatten().map(|link| link.to_string_lossy().into_owned())
}
