//! The programs that render and try what is in `deploy`: Helm, and the Lua of Argo CD. Input: the Go module `xtask/render`,
//! whose go.mod and go.sum pin every version. Output: `/var/cache/enforcer/render/VERSION-HASH`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    cluster::{
        go::{self, FLAGS},
        kept,
    },
    workspace::Workspace,
};

/// Beside that of Kubernetes, so that a newer Helm does not cost a new Kubernetes.
const ALL: &str = "/var/cache/enforcer/render";

const MODULE: &str = include_str!("../../render/go.mod");
const SUM: &str = include_str!("../../render/go.sum");

/// The directory with the programs, built now if it is not there.
pub(crate) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let recipe = kept::hash(&[MODULE, SUM, &FLAGS.join(" "), &link_flags()?]);
    let directory = Path::new(ALL).join(format!("{}-{recipe:016x}", pinned("helm.sh/helm/v3 v")?));
    kept::ensure(&directory, |partial| {
        fs::create_dir_all(partial)?;
        go::build(&workspace.root().join("xtask/render"), &link_flags()?, partial)
    })?;
    Ok(directory)
}

/// Without these, Helm does not know its version, and takes a cluster that it has not seen for one of Kubernetes 1.20.
fn link_flags() -> Result<String> {
    let helm = pinned("helm.sh/helm/v3 v")?;
    let minor = pinned("k8s.io/client-go v0.")?.split('.').next().unwrap_or_default();
    let chart = "helm.sh/helm/v3/pkg/chartutil";
    Ok(format!(
        "-s -w -X helm.sh/helm/v3/internal/version.version=v{helm} -X {chart}.k8sVersionMajor=1 \
         -X {chart}.k8sVersionMinor={minor}"
    ))
}

/// What follows on this in the line of the module that begins so.
fn pinned(begin: &str) -> Result<&'static str> {
    let line = MODULE.lines().find_map(|line| line.trim().strip_prefix(begin));
    // Go writes a remark behind it.
    let version = line.and_then(|line| line.split_whitespace().next());
    version.with_context(|| format!("xtask/render/go.mod does not name {begin}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helm_knows_its_version_and_that_of_kubernetes() {
        let flags = link_flags().unwrap();
        assert!(flags.contains(".version=v3.") && flags.contains("Minor=35"), "{flags}");
    }

    #[test]
    fn both_modules_are_compiled_by_the_go_that_setup_installs() {
        let go = |module: &str| module.lines().find(|line| line.starts_with("go ")).map(str::to_owned);
        assert_eq!(go(MODULE), go(go::MODULE));
    }
}
