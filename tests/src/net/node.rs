//! A bare node for tests of one module: its own namespace and those of containers, without any device at first.
//!
//! Input: names of containers and devices. Output: namespaces with links. The test configures them with `ip`, and chooses
//! names, indices and addresses itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use enforcer::lab::{Name, Namespace};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{inside, ip, share_names, until_up};

/// Namespaces of one test, removed on drop.
#[derive(Debug)]
pub struct Node {
    name: Name,
    namespace: Namespace,
    spaces: Mutex<BTreeMap<String, Arc<Namespace>>>,
}

impl Node {
    /// A node whose only device is `lo`.
    pub fn new() -> Self {
        share_names();
        Namespace::remove_leftovers();
        let name = Name::unique();
        let namespace = Namespace::create(&name, "node").unwrap();
        ip(&namespace, "link set lo up");
        Self { name, namespace, spaces: Mutex::default() }
    }

    /// Runs a test on a thread inside the node.
    pub fn run<T: Send>(&self, test: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, test)
    }

    /// The node's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Full name of a container's namespace, as `ip netns` shows it.
    pub fn name(&self, space: &str) -> String {
        self.name.of(space)
    }

    /// A container's namespace.
    pub fn space(&self, space: &str) -> Arc<Namespace> {
        Arc::clone(self.spaces.lock().unwrap().get(space).unwrap_or_else(|| panic!("there is no namespace {space}")))
    }

    /// Makes a namespace without links.
    pub fn add_space(&self, space: &str) -> Arc<Namespace> {
        let namespace = Arc::new(Namespace::create(&self.name, space).unwrap());
        self.spaces.lock().unwrap().insert(space.to_owned(), Arc::clone(&namespace));
        namespace
    }

    /// Removes a namespace and with it its links.
    pub fn delete_space(&self, space: &str) {
        self.spaces.lock().unwrap().remove(space).unwrap_or_else(|| panic!("there is no namespace {space}"));
    }

    /// Makes a namespace with a veth to the node; the node's end is called `host`, the other `eth0`.
    pub fn add_container(&self, space: &str, host: &str) {
        self.add_space(space);
        self.add_veth(space, host, "eth0");
        self.ip(space, "link set lo up");
    }

    /// Adds a veth between the node and a container, both ends up and usable. `host` is the name of the node's end, and may be
    /// followed by `index NUMBER`.
    pub fn add_veth(&self, space: &str, host: &str, inner: &str) {
        ip(&self.namespace, &format!("link add {host} type veth peer name {inner} netns {}", self.name(space)));
        let name = host.split_whitespace().next().unwrap();
        ip(&self.namespace, &format!("link set dev {name} up"));
        self.ip(space, &format!("link set dev {inner} up"));
        until_up(&self.namespace, name);
        until_up(&self.space(space), inner);
    }

    /// Runs `ip` in a container's namespace.
    pub fn ip(&self, space: &str, arguments: &str) {
        ip(&self.space(space), arguments);
    }

    /// Makes the bridge `br0` of the node with `10.88.0.1/16` and `fd88::1/64`.
    pub fn add_bridge(&self) {
        ip(&self.namespace, "link add br0 address 02:00:00:88:00:01 type bridge");
        ip(&self.namespace, "link set br0 up");
        ip(&self.namespace, "addr add 10.88.0.1/16 dev br0");
        ip(&self.namespace, "addr add fd88::1/64 dev br0 nodad");
    }

    /// Makes a container on `br0`.
    pub fn add_bridged(&self, space: &str, host: &str, addresses: &[&str]) {
        self.add_container(space, host);
        ip(&self.namespace, &format!("link set dev {host} master br0"));
        for address in addresses {
            self.add_address(space, address);
        }
    }

    /// Adds an address to a container's `eth0`. Duplicate address detection would make the tests wait.
    pub fn add_address(&self, space: &str, address: &str) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(space, &format!("addr add {address} dev eth0{nodad}"));
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives the calling thread mounts of its own, and mounts a bpf file system that goes with the thread. What the thread
/// mounts from then on nobody else sees, so it has to have its namespaces before.
pub fn own_bpf_file_system(directory: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
}
