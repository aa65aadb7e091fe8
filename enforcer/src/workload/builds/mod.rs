//! Names the containers of builds, which the API of no runtime lists: each `RUN` of `podman build`, of `docker build` with
//! BuildKit and of `buildkitd`, and each `buildah run`.
//!
//! Input: the namespaces behind veths that no source names. Output: a statement for each of them in which a process of a build
//! runs. Such a process is known by its control group.

#![forbid(unsafe_code)]

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::groups::{Builder, build_of};
use super::model::Labels;
use super::netlink::Requests;
use super::runtime::{CONTAINER_LABEL, RuntimeKind};
use super::source::{Listed, SourceState};
use super::statement::{About, FoundBy, Statement};

/// Label that says where a container comes from that the runtime does not list.
const ORIGIN_LABEL: &str = "enforcer.dev/origin";
/// Its value for a build.
const BUILD: &str = "build";
/// A process that was seen first so long ago is in the control group for which it was started.
const SETTLED: Duration = Duration::from_secs(2);

/// The builds on this node.
#[derive(Debug, Default)]
pub(super) struct Builds {
    /// By the nsid of their namespace.
    found: BTreeMap<i32, Build>,
    others: Others,
}

/// Processes of no build, each with the time at which it was seen first. They are not read again once they have settled: a
/// namespace may wait for its build for as long as it likes, as those do that BuildKit keeps for the next step.
#[derive(Debug, Default)]
struct Others(BTreeMap<u32, Instant>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Build {
    pid: u32,
    by: Builder,
    /// The name of its control group, without what all have.
    id: String,
}

impl Builds {
    /// Where there is a runtime. Which one it is does not matter: BuildKit runs beside each.
    pub(super) fn beside(runtime: Option<&RuntimeKind>) -> Option<Self> {
        runtime.map(|_| Self::default())
    }

    /// Looks for builds in these namespaces. Returns what stands for their namespaces.
    pub(super) async fn look(&mut self, unnamed: &BTreeSet<i32>, requests: &Requests) -> BTreeMap<PathBuf, i32> {
        let known = std::mem::take(&mut self.found);
        for (nsid, build) in known {
            // The number may stand for another namespace by now.
            if unnamed.contains(&nsid) && requests.nsid_of_process(build.pid).await == Some(nsid) {
                self.found.insert(nsid, build);
            }
        }
        if unnamed.iter().all(|nsid| self.found.contains_key(nsid)) {
            // Nobody looks now, so the number of a process may come to stand for another one.
            self.others = Others::default();
        } else {
            for build in self.others.builds_beside(Path::new("/proc"), Instant::now()) {
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
            name: "the builds on this node".to_owned(),
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
        let object = match self.by {
            Builder::Buildah => format!("build {}", self.id),
            // The network namespace of a step may become that of the next one, so all of them are one object.
            Builder::BuildKit => "builds of BuildKit".to_owned(),
        };
        let labels = [(ORIGIN_LABEL.to_owned(), BUILD.to_owned()), (CONTAINER_LABEL.to_owned(), name.clone())];
        Statement {
            by: format!("the build {} (process {})", self.id, self.pid),
            about: About::Part { namespace: None, name: Some(name), is_whole: false },
            object,
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

impl Others {
    /// The processes of builds below this directory.
    fn builds_beside(&mut self, processes: &Path, now: Instant) -> Vec<Build> {
        let mut builds = Vec::new();
        let before = std::mem::take(&mut self.0);
        for entry in fs::read_dir(processes).into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let since = before.get(&pid).copied();
            if since.is_none_or(|since| now.saturating_duration_since(since) < SETTLED) {
                let Ok(groups) = fs::read_to_string(entry.path().join("cgroup")) else { continue };
                if let Some((by, id)) = groups.lines().find_map(build_of) {
                    builds.push(Build { pid, by, id: id.to_owned() });
                    continue;
                }
            }
            self.0.insert(pid, since.unwrap_or(now));
        }
        builds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_builds_are_found_by_their_groups() {
        let processes = tempfile::tempdir().unwrap();
        let show = |pid: &str, groups: &str| {
            fs::create_dir_all(processes.path().join(pid)).unwrap();
            fs::write(processes.path().join(pid).join("cgroup"), groups).unwrap();
        };
        for (pid, groups) in [("12", "1:pids:/buildah-b1\n"), ("13", "0::/user.slice\n"), ("self", "0::/buildah-b2\n")]
        {
            show(pid, groups);
        }
        fs::create_dir(processes.path().join("14")).unwrap();
        let (mut others, start) = (Others::default(), Instant::now());
        let mut look = |after: u64| {
            let found = others.builds_beside(processes.path(), start + Duration::from_secs(after));
            let found: BTreeSet<String> = found.iter().map(|build| format!("{} {}", build.pid, build.id)).collect();
            found.into_iter().collect::<Vec<String>>().join(", ")
        };
        assert_eq!(look(0), "12 b1");

        // A process that has just begun moves to its group; one that has settled is not read again, but a new one is.
        show("13", "0::/buildah-b3\n");
        assert_eq!(look(1), "12 b1, 13 b3");
        show("13", "0::/user.slice\n");
        assert_eq!([look(2), look(9)], ["12 b1", "12 b1"]);
        show("13", "0::/buildah-b4\n");
        assert_eq!(look(10), "12 b1", "settled");
        fs::remove_dir_all(processes.path().join("13")).unwrap();
        assert_eq!(look(11), "12 b1");
        show("13", "0::/buildah-b5\n");
        assert_eq!(look(12), "12 b1, 13 b5", "another process of this number");
    }

    #[test]
    fn steps_of_buildkit_may_follow_each_other_in_one_namespace() {
        let object = |by, id: &str| Build { pid: 1, by, id: id.to_owned() }.statement().object;
        assert_eq!(object(Builder::BuildKit, "a"), object(Builder::BuildKit, "b"));
        assert_ne!(object(Builder::Buildah, "a"), object(Builder::Buildah, "b"));
    }
}
