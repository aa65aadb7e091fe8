//! Names the containers of builds, which podman's API does not list: each `RUN` of `podman build` and each `buildah run`.
//!
//! Input: the namespaces behind veths that no source names. Output: a statement for each of them in which a process of buildah
//! runs. Such a process is known by its control group: buildah calls the group after the build, at the top of the hierarchy,
//! where no container can make one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::Labels;
use super::netlink::Requests;
use super::runtime::{CONTAINER_LABEL, RuntimeKind};
use super::source::{Listed, SourceState};
use super::statement::{About, FoundBy, Statement};

/// Label that says where a container comes from that the runtime does not list.
const ORIGIN_LABEL: &str = "enforcer.dev/origin";
/// Its value for a build.
const BUILD: &str = "build";
/// How buildah names a control group.
const GROUP: &str = "buildah-";
/// A namespace without a build is looked into so often; a build's process is there before its veth.
const LOOKS: u32 = 5;

/// The builds on this node.
#[derive(Debug, Default)]
pub(super) struct Builds {
    /// By the nsid of their namespace.
    found: BTreeMap<i32, Build>,
    /// How often a namespace was looked for in vain.
    looks: BTreeMap<i32, u32>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Build {
    pid: u32,
    /// The name of its control group, without what all have.
    id: String,
}

impl Builds {
    /// Where the runtime is one that builds by buildah.
    pub(super) fn beside(runtime: Option<&RuntimeKind>) -> Option<Self> {
        matches!(runtime, Some(RuntimeKind::Podman(_))).then(Self::default)
    }

    /// Looks for builds in these namespaces. Returns what stands for their namespaces.
    pub(super) async fn look(&mut self, unnamed: &BTreeSet<i32>, requests: &Requests) -> BTreeMap<PathBuf, i32> {
        self.looks.retain(|nsid, _| unnamed.contains(nsid));
        let known = std::mem::take(&mut self.found);
        for (nsid, build) in known {
            // The number may stand for another namespace by now.
            if unnamed.contains(&nsid) && requests.nsid_of_process(build.pid).await == Some(nsid) {
                self.found.insert(nsid, build);
            }
        }
        let mut missing = false;
        for nsid in unnamed.iter().filter(|nsid| !self.found.contains_key(nsid)) {
            let looks = self.looks.entry(*nsid).or_default();
            *looks += 1;
            missing |= *looks <= LOOKS;
        }
        if missing {
            for build in running(Path::new("/proc")) {
                if let Some(nsid) = requests.nsid_of_process(build.pid).await.filter(|nsid| unnamed.contains(nsid)) {
                    self.found.entry(nsid).or_insert(build);
                }
            }
        }
        self.found.iter().map(|(nsid, build)| (build.path(), *nsid)).collect()
    }

    /// What they say.
    pub(super) fn state(&self) -> SourceState {
        SourceState {
            name: "the builds of podman".to_owned(),
            listed: Listed::Complete,
            statements: Arc::new(self.found.values().map(|build| Arc::new(build.statement())).collect()),
            ..SourceState::default()
        }
    }
}

impl Build {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    fn statement(&self) -> Statement {
        let name = format!("{BUILD}-{}", self.id);
        let labels = [(ORIGIN_LABEL.to_owned(), BUILD.to_owned()), (CONTAINER_LABEL.to_owned(), name.clone())];
        Statement {
            by: format!("the build {} (process {})", self.id, self.pid),
            about: About::Part { namespace: None, name: Some(name), is_whole: false },
            object: format!("build {}", self.id),
            labels: Labels::from(labels).into(),
            ports: BTreeMap::new(),
            routes: false,
            found_by: FoundBy::Netns(vec![self.path()]),
            addresses: BTreeSet::new(),
            floating: BTreeSet::new(),
            remarks: Vec::new(),
        }
    }
}

/// The processes of builds, below this directory.
fn running(processes: &Path) -> Vec<Build> {
    let entries = fs::read_dir(processes).into_iter().flatten().flatten();
    let builds = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let groups = fs::read_to_string(entry.path().join("cgroup")).ok()?;
        Some(Build { pid, id: groups.lines().find_map(build_of)?.to_owned() })
    });
    builds.collect()
}

/// The build to which a control group belongs: `9:pids:/buildah-buildah123`, or below the slice of machines.
fn build_of(line: &str) -> Option<&str> {
    let path = line.splitn(3, ':').nth(2)?.strip_prefix('/')?;
    let path = path.strip_prefix("machine.slice/").unwrap_or(path);
    let id = path.split('/').next()?.strip_prefix(GROUP)?;
    let id = id.strip_suffix(".scope").unwrap_or(id);
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (plain && !id.is_empty() && id.len() <= 128).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_at_the_top_is_a_builds() {
        for (line, build) in [
            ("9:name=systemd:/buildah-buildah1293269252", Some("buildah1293269252")),
            ("0::/buildah-buildah1/below", Some("buildah1")),
            ("0::/machine.slice/buildah-buildah1.scope", Some("buildah1")),
            ("0::/libpod_parent/libpod-0123/buildah-forged", None),
            ("0::/machine.slice/libpod-0123.scope/buildah-forged", None),
            ("0::/buildah-", None),
            ("0::/buildah-a b", None),
            ("0::/", None),
            ("", None),
        ] {
            assert_eq!(build_of(line), build, "{line}");
        }
    }

    #[test]
    fn the_processes_of_builds_are_found_by_their_groups() {
        let processes = tempfile::tempdir().unwrap();
        for (pid, groups) in [("12", "1:pids:/buildah-b1\n"), ("13", "0::/user.slice\n"), ("self", "0::/buildah-b2\n")]
        {
            fs::create_dir(processes.path().join(pid)).unwrap();
            fs::write(processes.path().join(pid).join("cgroup"), groups).unwrap();
        }
        fs::create_dir(processes.path().join("14")).unwrap();
        assert_eq!(running(processes.path()), [Build { pid: 12, id: "b1".to_owned() }]);
    }
}
