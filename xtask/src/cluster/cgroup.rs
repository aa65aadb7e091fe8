//! The cgroups of one cluster: who belongs to it, and its end.
//!
//! Input: the cluster's name and /proc/mounts. Output: a directory below `enforcer-cluster/NAME` in every hierarchy for each
//! member. A process of a cluster enters them before it becomes what it is, and all of its descendants stay below. So the
//! kernel alone says what belongs to a cluster, also after `up` was killed, and no process that took over an old id is hit.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Directory of all clusters in each hierarchy.
const ALL: &str = "enforcer-cluster";

/// How long the kernel may take to end processes that were killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The hierarchies of this machine, for one cluster.
#[derive(Debug)]
pub(crate) struct Cgroups {
    name: String,
    unified: PathBuf,
    v1: Vec<Hierarchy>,
}

/// A hierarchy of cgroup v1.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Hierarchy {
    mount: PathBuf,
    /// What mounts the same hierarchy a second time.
    options: String,
}

impl Cgroups {
    pub(crate) fn of(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let controllers = fs::read_to_string("/proc/cgroups").context("cannot read /proc/cgroups")?;
        let (unified, v1) = hierarchies(&mounts, &controllers);
        let unified = unified.context(
            "no cgroup2 file system is mounted, which ends a cluster's processes; run `mkdir -p /sys/fs/cgroup/unified && \
             mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`",
        )?;
        Ok(Self { name: name.to_owned(), unified, v1 })
    }

    /// What `sandbox.sh` is told about the hierarchies to mount.
    pub(crate) fn mounts(&self) -> Vec<String> {
        if self.v1.is_empty() {
            return vec!["v2".into()];
        }
        let name =
            |hierarchy: &Hierarchy| hierarchy.mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.v1.iter().map(|hierarchy| format!("{}={}", name(hierarchy), hierarchy.options)).collect()
    }

    /// Makes the directories of a member, and names those that its processes enter. The first is of cgroup2.
    pub(crate) fn create(&self, member: &str) -> Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for mount in std::iter::once(&self.unified).chain(self.v1.iter().map(|hierarchy| &hierarchy.mount)) {
            let mut directory = mount.clone();
            for part in [ALL, &self.name, member] {
                delegate(&directory);
                directory.push(part);
                create(&directory).with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
            }
            directories.push(directory);
        }
        Ok(directories)
    }

    /// Ids of the cluster's processes. None are left where there is no such cluster.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for directory in self.tops().iter().flat_map(|top| below(top)) {
            let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Kills every process of the cluster, and waits until the kernel has ended them. New ones cannot escape: the kernel
    /// kills the whole tree at once.
    pub(crate) fn kill(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let switch = self.unified.join(ALL).join(&self.name).join("cgroup.kill");
            match fs::write(&switch, "1") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot write {}", switch.display()));
                }
                _ => {}
            }
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("these processes of the cluster {} do not end: {left:?}; see /proc/ID/stack", self.name);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Removes the cluster's directories, innermost first, and that of all clusters if it was the last.
    pub(crate) fn remove(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for top in self.tops() {
            loop {
                let failed = below(&top).into_iter().find_map(|directory| match fs::remove_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Some((directory, error)),
                    _ => None,
                });
                let Some((directory, error)) = failed else { break };
                // The kernel lets go of a process a little after it has ended.
                if Instant::now() >= end {
                    return Err(error).with_context(|| format!("cannot remove the cgroup {}", directory.display()));
                }
                sleep(Duration::from_millis(20));
            }
            if let Some(all) = top.parent() {
                // Other clusters may be in it.
                let _ = fs::remove_dir(all);
            }
        }
        Ok(())
    }

    fn tops(&self) -> Vec<PathBuf> {
        let mounts = std::iter::once(&self.unified).chain(self.v1.iter().map(|hierarchy| &hierarchy.mount));
        mounts.map(|mount| mount.join(ALL).join(&self.name)).collect()
    }
}

/// The directory and all below it, innermost first.
fn below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let inner = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<PathBuf> = inner.flat_map(|entry| below(&entry.path())).collect();
    found.push(directory.to_path_buf());
    found
}

fn create(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A new cpuset of v1 has no processors, and takes no process before it has some.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, parent) = (directory.join(file), directory.with_file_name(file));
        if directory.join("tasks").exists() && own.exists() && fs::read_to_string(&own)?.trim().is_empty() {
            fs::write(&own, fs::read_to_string(parent)?)?;
        }
    }
    Ok(())
}

/// Lets the children of a cgroup2 directory use its controllers. Where v1 has the controllers, there are none.
fn delegate(directory: &Path) {
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One that cannot be delegated is missed by the container that needs it, which says so.
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Where cgroup2 is mounted, and the hierarchies of v1.
fn hierarchies(mounts: &str, controllers: &str) -> (Option<PathBuf>, Vec<Hierarchy>) {
    let known: Vec<&str> = controllers.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let (mut unified, mut v1) = (None, Vec::<Hierarchy>::new());
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = words[..] else { continue };
        match kind {
            "cgroup2" if unified.is_none() => unified = Some(PathBuf::from(mount)),
            "cgroup" => {
                let chosen = options.split(',').filter(|word| word.starts_with("name=") || known.contains(word));
                let mut options = chosen.collect::<Vec<_>>().join(",");
                if options.starts_with("name=") {
                    // Without this word the kernel looks for all controllers.
                    options.insert_str(0, "none,");
                }
                v1.push(Hierarchy { mount: mount.into(), options });
            }
            _ => {}
        }
    }
    (unified, v1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLLERS: &str = "#subsys_name hierarchy num_cgroups enabled\ncpu 1 1 1\ncpuacct 1 1 1\npids 8 1 1\n";

    #[test]
    fn the_hierarchies_of_a_machine_with_both_versions_are_told_apart() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let (unified, v1) = hierarchies(mounts, CONTROLLERS);
        let cgroups = Cgroups { name: "a".into(), unified: unified.unwrap(), v1 };
        assert_eq!(cgroups.unified, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(cgroups.mounts(), ["cpu,cpuacct=cpu,cpuacct", "systemd=none,name=systemd"]);
    }

    #[test]
    fn a_machine_with_cgroup2_alone_is_told_so() {
        let (unified, v1) = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", CONTROLLERS);
        let cgroups = Cgroups { name: "a".into(), unified: unified.unwrap(), v1 };
        assert_eq!(cgroups.mounts(), ["v2"]);
        assert_eq!(cgroups.tops(), [Path::new("/sys/fs/cgroup/enforcer-cluster/a")]);
    }

    #[test]
    fn directories_are_removed_from_the_inside() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let found = below(&root.path().join("a"));
        assert_eq!(found, [root.path().join("a/b"), root.path().join("a")]);
        assert_eq!(below(&root.path().join("missing")), Vec::<PathBuf>::new());
    }
}
