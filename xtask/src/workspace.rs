//! Where things lie. Input: `cargo metadata`. Output: the workspace's root and the paths below its target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The workspace that `cargo xtask` was started in, and its target directory.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo, since `CARGO_TARGET_DIR` and several configuration files can move the target directory.
    pub(crate) fn locate() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let output = Command::new("cargo")
            .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
            .arg(&manifest)
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata's output")?;
        let directory = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata names no {key}"))
        };
        Ok(Self { root: directory("workspace_root")?, target: directory("target_directory")? })
    }

    #[cfg(test)]
    pub(crate) fn at(root: &str, target: &str) -> Self {
        Self { root: root.into(), target: target.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Target directory of the bpf compiler. Its own, because another cargo and another rustc write it.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf/build")
    }

    /// The object that `enforcer/build.rs` embeds. It is alone in its directory: the build script watches that.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/object/enforcer.o")
    }

    /// Which compiler `setup` found.
    pub(crate) fn toolchain_record(&self) -> PathBuf {
        self.target.join("bpf/toolchain.txt")
    }
}
