//! A separate podman or Docker for one test inside a node, with its own storage, networks, socket and image.
//!
//! Input: the node's namespace, and commands as a user types them. Output: real containers, and the path of the API's socket.
//! Everything is removed on drop.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer::lab::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::BOUND;
use crate::net::Site;

/// What the image is called. It holds busybox alone; nothing is pulled.
pub const IMAGE: &str = "docker.io/library/busybox";

/// File with the process of podman's API service.
const SERVICE_PID: &str = "service.pid";

const CONTAINERS_CONF: &str = "\
[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=4096:4096\"]
[engine]
cgroup_manager = \"cgroupfs\"
runtime = \"runc\"
events_logger = \"file\"
lock_type = \"file\"
infra_image = \"localhost/pause:latest\"
";

/// File with the process of `dockerd`.
const DOCKERD_PID: &str = "dockerd.pid";

/// Which runtime an engine is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// podman.
    Podman,
    /// Docker.
    Docker,
}

impl Kind {
    /// As `--runtime` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// The engine. Its commands are scripts in `bin/` of its site.
pub struct Engine {
    kind: Kind,
    site: Site,
    networks: Vec<String>,
}

impl Engine {
    /// A podman with the image, and no container or network yet.
    pub fn podman(node: &Namespace) -> Self {
        let engine = Self { kind: Kind::Podman, site: Site::with_programs(), networks: Vec::new() };
        engine.write_commands(node);
        engine.import();
        engine
    }

    /// A Docker that serves, with the image, and no container or network yet.
    pub fn docker(node: &Namespace) -> Self {
        let engine = Self { kind: Kind::Docker, site: Site::with_programs(), networks: Vec::new() };
        engine.write_docker_commands(node);
        engine.serve();
        engine.import();
        engine
    }

    /// Which runtime it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `docker`, and as much of `systemctl` as starts its service.
    fn write_docker_commands(&self, node: &Namespace) {
        let (directory, node, socket) = (self.site.directory().display(), node.path().display(), self.socket());
        fs::create_dir(self.site.file("bin")).unwrap();
        self.script("docker", &format!("exec /usr/bin/docker -H unix://{} \"$@\"", socket.display()));
        self.script(
            "systemctl",
            &format!(
                "setsid nsenter --net={node} dockerd --data-root {directory}/data --exec-root {directory}/exec \
                 -H unix://{socket} -p {directory}/{DOCKERD_PID} --storage-driver vfs --ipv6 --fixed-cidr-v6 fd36::/64 \
                 >{directory}/service.log 2>&1 </dev/null &\n\
                 for try in $(seq 400); do {directory}/bin/docker info >/dev/null 2>&1 && exit 0; sleep 0.05; done\n\
                 exit 1",
                socket = socket.display()
            ),
        );
    }

    /// `podman`, and as much of `systemctl` as starts its service.
    fn write_commands(&self, node: &Namespace) {
        let (directory, node) = (self.site.directory().display(), node.path().display());
        fs::write(self.site.file("containers.conf"), CONTAINERS_CONF).unwrap();
        fs::create_dir(self.site.file("bin")).unwrap();
        self.script(
            "podman",
            &format!(
                "export CONTAINERS_CONF={directory}/containers.conf\n\
                 exec nsenter --net={node} /usr/bin/podman --storage-driver vfs --root {directory}/root \
                 --runroot {directory}/run --tmpdir {directory}/tmp --network-config-dir {directory}/networks \"$@\""
            ),
        );
        self.script(
            "systemctl",
            &format!(
                "[ \"$*\" = 'enable --now podman.socket' ] || {{ echo \"systemctl: $* is not known here\" >&2; exit 1; }}\n\
                 setsid {directory}/bin/podman system service --time 0 unix://{socket} >{directory}/service.log 2>&1 </dev/null &\n\
                 echo $! >{directory}/{SERVICE_PID}\n\
                 for try in $(seq 200); do [ -S {socket} ] && exit 0; sleep 0.05; done\n\
                 exit 1",
                socket = self.socket().display()
            ),
        );
    }

    /// Adds a command.
    pub fn script(&self, name: &str, body: &str) {
        let path = self.site.file("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn import(&self) {
        let rootfs = self.site.file("rootfs");
        for directory in ["bin", "etc", "tmp", "www"] {
            fs::create_dir_all(rootfs.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        let applets = ["httpd", "nc", "sh", "sleep", "timeout", "wget", "mkdir", "hostname", "echo", "cat"];
        for applet in applets {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let tar = self.site.file("rootfs.tar");
        let packed = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.unwrap().success());
        let tar = tar.to_str().unwrap();
        self.run(&["import", tar, &format!("{IMAGE}:latest")]);
        // What `kube play` starts for the network of a pod.
        self.run(&["import", "--change", "CMD [\"/bin/busybox\", \"sleep\", \"6000\"]", tar, "localhost/pause:latest"]);
    }

    /// Where its files are.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.site.file(&format!("{}.sock", self.kind.name()))
    }

    /// One of its commands.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.site.file("bin").join(program));
        command.stdin(Stdio::null()).current_dir(self.site.directory());
        command
    }

    /// Runs the runtime's own command; its output.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(self.kind.name()).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}",
            self.kind.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts the API service.
    pub fn serve(&self) {
        let status = self.command("systemctl").args(["enable", "--now", "podman.socket"]).status().unwrap();
        assert!(status.success(), "the service does not come up");
    }

    /// Ends the API service.
    pub fn stop_serving(&self) {
        match self.kind {
            Kind::Podman => self.site.end(SERVICE_PID),
            Kind::Docker => self.end_dockerd(),
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Ends `dockerd`, which ends the `containerd` that it has started.
    fn end_dockerd(&self) {
        let pid = fs::read_to_string(self.site.file(DOCKERD_PID)).ok().and_then(|text| text.trim().parse().ok());
        let Some(pid) = pid.map(Pid::from_raw) else { return };
        let end = Instant::now() + BOUND;
        while kill(pid, Signal::SIGTERM).is_ok() && Instant::now() < end {
            sleep(Duration::from_millis(100));
        }
    }

    /// Makes a network; its name is this engine's own, since podman hands out addresses from one file a machine.
    pub fn add_network(&mut self, name: &str, v4: &str, v6: &str) {
        let full = self.network(name);
        let family = match self.kind {
            Kind::Podman => "--disable-dns",
            Kind::Docker => "--ipv6",
        };
        self.run(&["network", "create", family, "--subnet", v4, "--subnet", v6, &full]);
        self.networks.push(full);
    }

    /// Full name of a network.
    pub fn network(&self, name: &str) -> String {
        self.site.name().of(name)
    }

    /// The options that put a container on a network with these addresses.
    pub fn attach(&self, network: &str, [v4, v6]: [&str; 2]) -> Vec<String> {
        match self.kind {
            Kind::Podman => vec![self.join(network, [v4, v6])],
            Kind::Docker => {
                vec![format!("--network={}", self.network(network)), format!("--ip={v4}"), format!("--ip6={v6}")]
            }
        }
    }

    /// The option that puts a container of podman on a network with these addresses.
    pub fn join(&self, network: &str, [v4, v6]: [&str; 2]) -> String {
        format!("--network={}:ip={v4},ip6={v6}", self.network(network))
    }
}

impl Drop for Engine {
    /// Goes on after every failure: what is left of one step must not keep the rest.
    fn drop(&mut self) {
        let containers = match self.kind {
            Kind::Podman => String::new(),
            Kind::Docker => self.run(&["ps", "-aq"]),
        };
        let mut steps = match self.kind {
            Kind::Podman => vec![vec!["pod", "rm", "-fa", "-t", "0"], vec!["rm", "-fa", "-t", "0"]],
            Kind::Docker => containers.lines().map(|id| vec!["rm", "-f", id]).collect(),
        };
        steps.extend(self.networks.iter().map(|name| vec!["network", "rm", "-f", name.as_str()]));
        for step in steps {
            let mut command = self.command(self.kind.name());
            let _ = command.args(&step).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        self.stop_serving();
    }
}
