//! The cluster's programs and its image. Input: the Go module `xtask/cluster`, whose go.mod and go.sum pin every version.
//! Output: `/var/cache/enforcer/cluster/VERSION-HASH`, which is there as a whole or not at all.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cluster::{go, image},
    run::Run,
    toolchain::Machine,
    workspace::Workspace,
};

/// Outside of the target directory, since a build takes minutes and several work trees share it.
const ALL: &str = "/var/cache/enforcer/cluster";

/// What the directory of a build is called until it is whole. The process that builds is in its name: the compiler that a
/// killed one has left behind writes elsewhere than the next.
const PARTIAL: &str = "partial-";

/// Another directory, for tests.
const ELSEWHERE: &str = "ENFORCER_CLUSTER_CACHE";

const SUM: &str = include_str!("../../cluster/go.sum");

/// Programs that do not depend on where they were built.
const FLAGS: [&str; 2] = ["-trimpath", "-buildvcs=false"];

/// How often the modules are asked for. Go does not ask again by itself, and a test run does not have to fail because the
/// network did not answer once.
const TRIES: u32 = 4;

/// How long a second try waits; each further one waits so much longer.
const PAUSE: Duration = Duration::from_secs(5);

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
        if cache.directory.exists() {
            return Ok(cache);
        }
        fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
        let lock = File::create(all.join("lock")).context("cannot make the lock of the cache")?;
        lock.lock().context("cannot lock the cache")?;
        if !cache.directory.exists() {
            let begun = Instant::now();
            clear(&all)?;
            cache.build(workspace, &all.join(format!("{PARTIAL}{}", std::process::id())))?;
            println!("built {} in {} s", cache.directory.display(), begun.elapsed().as_secs());
        }
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
        let go = go::find(&Machine::this()).with_context(|| {
            format!("no Go from 1.{} is installed; run `cargo xtask setup`", go::minimum().unwrap_or_default())
        })?;
        let run = || {
            Run::new(&go)
                .directory(&workspace.root().join("xtask/cluster"))
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=readonly")
                // The Go that is there, and no other from the network.
                .env("GOTOOLCHAIN", "local")
        };
        // The packages and all that they import. The format has nothing to say of any of them.
        fetch(|| run().args(["list", "-deps", "-f", r#"{{with ""}}{{end}}"#, "tool"]), PAUSE)?;
        run()
            .arg("build")
            .args(FLAGS)
            .args(["-ldflags", &self.link_flags(), "-o"])
            // The slash says that it is a directory.
            .arg(format!("{}/", binaries.display()))
            .arg("tool")
            .status()?;
        for (built, named) in PROGRAMS {
            let (built, named) = (binaries.join(built), binaries.join(named));
            fs::rename(&built, &named).with_context(|| format!("Go has not built {}", built.display()))?;
        }
        image::build(partial, &binaries.join("agnhost"), &self.pause(), &self.image())?;
        fs::rename(partial, &self.directory).with_context(|| format!("cannot make {}", self.directory.display()))
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

/// Gets the modules from the network, unless Go has them.
fn fetch(run: impl Fn() -> Run, pause: Duration) -> Result<()> {
    let mut tried = 1;
    loop {
        match run().status() {
            Ok(()) => return Ok(()),
            Err(error) if tried == TRIES => {
                return Err(error).with_context(|| {
                    format!(
                        "Go did not get all modules of Kubernetes in {TRIES} tries; `go env GOPROXY` says where it asks"
                    )
                });
            }
            Err(error) => println!("{error:#}; trying again"),
        }
        sleep(pause * tried);
        tried += 1;
    }
}

/// Removes what builds have left that did not come to their end. The lock is the caller's, so none goes on.
fn clear(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all).with_context(|| format!("cannot read {}", all.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PARTIAL)) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
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

/// FNV-1a over what decides what is built: another module, other flags or another image go into another directory.
fn hash() -> u64 {
    let flags = FLAGS.join(" ");
    let recipe = [go::MODULE, SUM, &flags, include_str!("image.rs")];
    let bytes = recipe.iter().flat_map(|text| text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_was_interrupted_is_removed_and_a_whole_one_is_kept() {
        let all = tempfile::tempdir().unwrap();
        for name in ["partial-7/bin", "1.35.4-0123/bin"] {
            fs::create_dir_all(all.path().join(name)).unwrap();
        }
        clear(all.path()).unwrap();
        assert!(all.path().join("1.35.4-0123/bin").exists() && !all.path().join("partial-7").exists());
    }

    #[test]
    fn modules_are_asked_for_again_and_not_for_ever() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        // Fails until the file has so many lines.
        let run = |lines: u32| {
            let script = format!("echo asked >>{0}; test $(wc -l <{0}) -ge {lines}", log.display());
            Run::new("sh").args(["-c", &script])
        };
        let asked = || fs::read_to_string(&log).unwrap().lines().count();
        fetch(|| run(3), Duration::ZERO).unwrap();
        assert_eq!(asked(), 3);
        fs::remove_file(&log).unwrap();
        let error = format!("{:#}", fetch(|| run(9), Duration::ZERO).unwrap_err());
        assert!(error.contains("in 4 tries; `go env GOPROXY` says where it asks"), "{error}");
        assert_eq!(asked(), 4);
    }

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
