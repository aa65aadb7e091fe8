//! The cluster's programs and its image. Input: the Go module `xtask/cluster`, whose go.mod and go.sum pin every version.
//! Output: `/var/cache/enforcer/cluster/VERSION-HASH`, which is there as a whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::{
        go::{self, FLAGS},
        image, kept,
    },
    workspace::Workspace,
};

/// Outside of the target directory, since a build takes minutes and several work trees share it.
const ALL: &str = "/var/cache/enforcer/cluster";

/// Another directory, for tests.
const ELSEWHERE: &str = "ENFORCER_CLUSTER_CACHE";

const SUM: &str = include_str!("../../cluster/go.sum");

/// What is built, by the name that Go gives it and the name that it gets.
const PROGRAMS: [(&str, &str); 8] = [
    ("agnhost", "agnhost"),
    ("kube-apiserver", "kube-apiserver"),
    ("kube-controller-manager", "kube-controller-manager"),
    ("kube-proxy", "kube-proxy"),
    ("kube-scheduler", "kube-scheduler"),
    ("kubectl", "kubectl"),
    ("kubelet", "kubelet"),
    ("server", "etcd"),
];

/// A finished build.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    version: String,
    directory: PathBuf,
}

impl Cache {
    /// The build, made now if it is not there.
    pub(crate) fn ensure(workspace: &Workspace) -> Result<Self> {
        let all = std::env::var_os(ELSEWHERE).map_or_else(|| PathBuf::from(ALL), PathBuf::from);
        let version = version()?;
        let directory = all.join(format!("{version}-{:016x}", hash()));
        let cache = Self { version, directory };
        kept::ensure(&cache.directory, |partial| cache.build(workspace, partial))?;
        Ok(cache)
    }

    /// Version of Kubernetes.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn binaries(&self) -> PathBuf {
        self.directory.join("bin")
    }

    /// The archive with all images.
    pub(crate) fn images(&self) -> PathBuf {
        self.directory.join("images.tar")
    }

    /// The image of a pod's sandbox. No registry has a name that begins so, and none is asked.
    pub(crate) fn pause(&self) -> String {
        format!("localhost/pause:{}", self.version)
    }

    /// The image of the tests' pods.
    pub(crate) fn image(&self) -> String {
        format!("localhost/agnhost:{}", self.version)
    }

    fn build(&self, workspace: &Workspace, partial: &Path) -> Result<()> {
        let binaries = partial.join("bin");
        fs::create_dir_all(&binaries)?;
        go::build(&workspace.root().join("xtask/cluster"), &self.link_flags(), &binaries)?;
        for (built, named) in PROGRAMS {
            let (built, named) = (binaries.join(built), binaries.join(named));
            fs::rename(&built, &named).with_context(|| format!("Go has not built {}", built.display()))?;
        }
        image::build(partial, &binaries.join("agnhost"), &self.pause(), &self.image())
    }

    /// Without these, the programs do not know their version, and refuse to work with each other.
    fn link_flags(&self) -> String {
        let mut numbers = self.version.split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
        let version = set("gitVersion", &format!("v{}", self.version));
        format!("-s -w {version} {} {}", set("gitMajor", major), set("gitMinor", minor))
    }
}

/// Version of Kubernetes, as the module pins it.
fn version() -> Result<String> {
    let line = go::MODULE.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    // Go writes a remark behind it.
    match line.and_then(|line| line.split_whitespace().next()) {
        Some(version) => Ok(version.to_owned()),
        None => bail!("xtask/cluster/go.mod does not name k8s.io/kubernetes"),
    }
}

/// Another module, other flags or another image go into another directory.
fn hash() -> u64 {
    kept::hash(&[go::MODULE, SUM, &FLAGS.join(" "), include_str!("image.rs")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_the_programs_is_that_of_the_module() {
        let cache = Cache { version: version().unwrap(), directory: "/c".into() };
        let flags = cache.link_flags();
        assert!(flags.contains(&format!(".gitVersion=v{}", cache.version)), "{flags}");
        assert!(flags.contains(".gitMajor=1 ") && flags.contains(".gitMinor=35"), "{flags}");
    }

    #[test]
    fn every_tool_of_the_module_is_expected() {
        let block = go::MODULE.split("tool (").nth(1).unwrap().split(')').next().unwrap();
        let tools: Vec<&str> = block.split_whitespace().collect();
        assert_eq!(tools.len(), PROGRAMS.len(), "{tools:?}");
        for (built, _) in PROGRAMS {
            let is_named = |tool: &&str| tool.trim_end_matches("/v3").ends_with(&format!("/{built}"));
            assert!(tools.iter().any(is_named), "{built}: {tools:?}");
        }
    }

    #[test]
    fn all_parts_of_kubernetes_have_the_version_of_the_whole() {
        let staging = format!("v0.{}", version().unwrap().strip_prefix("1.").unwrap());
        for line in go::MODULE.lines().filter(|line| line.contains("=>")) {
            assert!(line.ends_with(&staging), "{line}");
        }
    }
}
