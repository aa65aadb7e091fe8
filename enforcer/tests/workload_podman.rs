//! Containers of a real podman, named only through its API. Needs root, podman, runc, netavark and busybox.
//!
//! podman runs inside the test's node namespace with storage, networks and socket of its own.

#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has to stop")]

mod workload_common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use enforcer::workload::Config;
use enforcer::workload::finding::{Disagreement, Finding};
use enforcer::workload::model::{LocalWorkload, Snapshot};
use enforcer::workload::runtime::RuntimeKind;
use workload_common::{Lab, Watch, addresses, in_node, name_of, own};

const IMAGE: &str = "enf-busybox";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "600"];

/// A podman of the test's own; everything of it goes with the directory.
struct Podman {
    directory: tempfile::TempDir,
    /// podman hands out addresses from one file for the whole machine, so the networks' names have to be unique.
    prefix: String,
    service: Option<Child>,
}

impl Podman {
    /// With an image, and a network `net` of `10.231.0.0/24` and `fd31::/64`.
    fn new(lab: &Lab) -> Self {
        let directory = tempfile::Builder::new().prefix("enf-podman-").tempdir().unwrap();
        let podman = Self { directory, prefix: lab.prefix.clone(), service: None };
        let root = podman.directory.path();
        std::fs::write(
            root.join("containers.conf"),
            "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nruntime=\"runc\"\nevents_logger=\"file\"\n",
        )
        .unwrap();
        std::fs::create_dir_all(root.join("rootfs/bin")).unwrap();
        std::fs::copy("/usr/bin/busybox", root.join("rootfs/bin/busybox")).unwrap();
        let tar = root.join("rootfs.tar");
        let status = Command::new("tar").arg("-C").arg(root.join("rootfs")).arg("-cf").arg(&tar).arg(".").status();
        assert!(status.unwrap().success());
        podman.run(&["import", tar.to_str().unwrap(), IMAGE]);
        podman.add_network("net", "10.231.0.0/24", "fd31::/64");
        podman
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn serve(&mut self) {
        let mut command = self.command();
        command.args(["system", "service", "--time", "0"]).arg(format!("unix://{}", self.socket().display()));
        self.service = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let since = Instant::now();
        while !self.socket().exists() {
            assert!(since.elapsed() < Duration::from_secs(10), "podman's service does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop_serving(&mut self) {
        if let Some(mut service) = self.service.take() {
            _ = service.kill();
            _ = service.wait();
        }
        _ = std::fs::remove_file(self.socket());
    }

    fn add_network(&self, name: &str, v4: &str, v6: &str) {
        self.run(&["network", "create", "--disable-dns", "--subnet", v4, "--subnet", v6, &self.network(name)]);
    }

    fn network(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The option that puts a container on a network with these addresses.
    fn on(&self, name: &str, v4: &str, v6: &str) -> String {
        format!("--network={}:ip={v4},ip6={v6}", self.network(name))
    }

    /// `podman run -d --name NAME OPTIONS IMAGE sleep`.
    fn container(&self, name: &str, options: &[&str]) {
        self.run(&[&["run", "-d", "--name", name], options, &[IMAGE], &SLEEP[..]].concat());
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn command(&self) -> Command {
        let at = |name: &str| -> PathBuf { self.directory.path().join(name) };
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", at("containers.conf")).args(["--storage-driver", "vfs", "--root"]);
        command.arg(at("root")).arg("--runroot").arg(at("run")).arg("--tmpdir").arg(at("tmp"));
        command.arg("--network-config-dir").arg(at("networks"));
        command
    }

    fn config(&self) -> Config {
        Config { runtime: Some(RuntimeKind::Podman(Some(self.socket()))), ..Config::default() }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.stop_serving();
        for arguments in [&["pod", "rm", "-fa", "-t", "0"][..], &["rm", "-fa", "-t", "0"]] {
            _ = self.command().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        for name in ["net", "two"] {
            let network = self.network(name);
            _ = self
                .command()
                .args(["network", "rm", "-f", &network])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        // podman leaves its storage mounted on itself.
        unmount_below(self.directory.path());
    }
}

fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(directory));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        _ = Command::new("umount").arg("-l").arg(mount).status();
    }
}

fn named<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a LocalWorkload> {
    snapshot.local.values().find(|workload| name_of(workload) == name)
}

fn has(snapshot: &Snapshot, name: &str, own_addresses: &[&str]) -> bool {
    named(snapshot, name).is_some_and(|workload| own(workload) == addresses(own_addresses))
}

#[test]
fn containers_are_named_before_and_after_the_start_and_again_with_another_address() {
    in_node(async |lab| {
        let mut podman = Podman::new(lab);
        let options = [&podman.on("net", "10.231.0.7", "fd31::7"), "--label", "app=web"];
        podman.container("web", &[&options[..], &["--label", "enforcer.dev/namespace=shop"]].concat());
        podman.serve();
        let mut watch = Watch::start(podman.config()).await;
        let web = named(&watch.last, "shop/web").expect("named in the first snapshot");
        assert_eq!(own(web), addresses(&["10.231.0.7", "fd31::7"]));
        let labels = &web.identity.as_ref().unwrap().labels;
        assert_eq!((labels["app"].as_str(), labels["enforcer.dev/container"].as_str()), ("web", "web"));
        let first = *watch.last.local.keys().next().unwrap();

        podman
            .container("db", &[&podman.on("net", "10.231.0.8", "fd31::8"), "--label", "com.docker.compose.project=p"]);
        watch.until("db", |s| has(s, "p/db", &["10.231.0.8", "fd31::8"])).await;

        // Longer than a call may take: an event stream without events is no failure.
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(!watch.discovery.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })));
        podman.run(&["rm", "-f", "-t", "0", "web"]);
        watch.until("web's end", |s| s.local.len() == 1).await;
        podman.container("web", &[&podman.on("net", "10.231.0.9", "fd31::9")]);
        let again = watch.until("web again", |s| has(s, "default/web", &["10.231.0.9", "fd31::9"])).await;
        assert!(!again.local.contains_key(&first), "another incarnation");
    });
}

#[test]
fn a_pod_and_a_shared_namespace_are_one_workload_each_and_two_networks_are_two_veths() {
    in_node(async |lab| {
        let mut podman = Podman::new(lab);
        podman.add_network("two", "10.232.0.0/24", "fd32::/64");
        podman.serve();
        let mut watch = Watch::start(podman.config()).await;
        podman.run(&[
            "pod",
            "create",
            "--name",
            "pod",
            &podman.on("net", "10.231.0.4", "fd31::4"),
            "--infra-name",
            "pod-infra",
            "--infra-image",
            IMAGE,
            "--infra-command",
            "/bin/busybox sleep 600",
        ]);
        podman.container("front", &["--pod", "pod", "--label", "app=front", "--label", "enforcer.dev/namespace=shop"]);
        podman.container("side", &["--pod", "pod", "--label", "side=log"]);
        let snapshot = watch
            .until("the pod", |s| {
                named(s, "shop/pod-infra").is_some_and(|pod| {
                    let labels = &pod.identity.as_ref().unwrap().labels;
                    labels.contains_key("app") && labels.contains_key("side")
                })
            })
            .await;
        assert_eq!(snapshot.local.len(), 1);
        assert!(has(&snapshot, "shop/pod-infra", &["10.231.0.4", "fd31::4"]));

        podman.container(
            "both",
            &[&podman.on("net", "10.231.0.5", "fd31::5"), &podman.on("two", "10.232.0.5", "fd32::5")],
        );
        let all = ["10.231.0.5", "10.232.0.5", "fd31::5", "fd32::5"];
        let snapshot = watch.until("both networks", |s| has(s, "default/both", &all)).await;
        assert_eq!(named(&snapshot, "default/both").unwrap().endpoints.len(), 2);

        // A second value for a label makes it unknown, and says because of whom.
        podman.container("owner", &[&podman.on("net", "10.231.0.6", "fd31::6"), "--label", "app=one"]);
        watch.until("the owner", |s| named(s, "default/owner").is_some()).await;
        podman.container("rival", &["--network", "container:owner", "--label", "app=two"]);
        watch.until("nobody called owner", |s| named(s, "default/owner").is_none()).await;
        let text = watch
            .discovery
            .findings()
            .iter()
            .find_map(|finding| match finding {
                Finding::SourcesDisagree { disagreement: found @ Disagreement::Label { .. }, .. } => {
                    Some(found.to_string())
                }
                _ => None,
            })
            .expect("a disagreement");
        assert!(text.contains("container owner") && text.contains("container rival"), "{text}");
    });
}

#[test]
fn a_dead_socket_changes_nothing_and_a_new_one_brings_the_news() {
    in_node(async |lab| {
        let mut podman = Podman::new(lab);
        podman.container("web", &[&podman.on("net", "10.231.0.7", "fd31::7")]);
        podman.serve();
        let mut watch = Watch::start(podman.config()).await;
        assert!(named(&watch.last, "default/web").is_some());
        podman.stop_serving();
        podman.container("late", &[&podman.on("net", "10.231.0.8", "fd31::8")]);
        let snapshot = watch.until("a veth without a name", |s| s.local.len() == 2).await;
        assert!(named(&snapshot, "default/web").is_some() && named(&snapshot, "default/late").is_none());
        let since = Instant::now();
        while !watch.discovery.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })) {
            assert!(since.elapsed() < workload_common::BOUND, "nobody says that the socket is dead");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        podman.serve();
        watch.until("its name", |s| named(s, "default/late").is_some()).await;
        let since = Instant::now();
        while watch.discovery.findings().iter().any(|finding| matches!(finding, Finding::SourceDown { .. })) {
            assert!(since.elapsed() < workload_common::BOUND, "the socket is back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
