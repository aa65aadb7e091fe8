//! The images of the pods. Input: agnhost and the machine's busybox. Output: `images.tar`, which a container runtime
//! imports: one layer with both programs, under the name of the sandbox's image and under that of the tests' image.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    cluster::member,
    run::{Run, find_program},
    toolchain::Machine,
};

const LAYER: &str = "layer.tar";

/// Makes the archive in `directory`.
pub(crate) fn build(directory: &Path, agnhost: &Path, pause: &str, image: &str) -> Result<()> {
    let files = directory.join("rootfs");
    fill(&files, agnhost)?;
    archive(&files, &directory.join(LAYER), &["."])?;
    fs::remove_dir_all(&files)?;

    let mut digest = Command::new("sha256sum");
    digest.arg(directory.join(LAYER));
    let digest = member::output(digest)?;
    let digest = digest.split_whitespace().next().context("sha256sum printed nothing")?;
    // What keeps a pod's namespaces needs no more memory than this.
    let sandbox = configuration(digest, &["/bin/sleep", "2147483647"], &[]);
    let tests = configuration(digest, &["/agnhost"], &["pause"]);
    let manifest = json!([
        {"Config": "pause.json", "RepoTags": [pause], "Layers": [LAYER]},
        {"Config": "agnhost.json", "RepoTags": [image], "Layers": [LAYER]},
    ]);
    let parts = [("pause.json", sandbox), ("agnhost.json", tests), ("manifest.json", manifest)];
    for (name, value) in &parts {
        fs::write(directory.join(name), value.to_string())?;
    }
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).chain([LAYER]).collect();
    archive(directory, &directory.join("images.tar"), &names)?;
    for name in names {
        fs::remove_file(directory.join(name))?;
    }
    Ok(())
}

/// A root directory as small as it may be.
fn fill(files: &Path, agnhost: &Path) -> Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        fs::create_dir_all(files.join(directory))?;
    }
    fs::set_permissions(files.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(files.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(files.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::copy(agnhost, files.join("agnhost"))?;
    let busybox = find_program(&Machine::this().path, "busybox").context("busybox is not installed")?;
    fs::copy(&busybox, files.join("bin/busybox")).context("cannot copy busybox")?;
    let mut list = Command::new(busybox);
    list.arg("--list");
    for applet in member::output(list)?.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", files.join("bin").join(applet))?;
    }
    Ok(())
}

/// The same files give the same archive.
fn archive(directory: &Path, to: &Path, names: &[&str]) -> Result<()> {
    let owner = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    Run::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(to)
        .args(owner)
        .arg("--directory")
        .arg(directory)
        .args(names)
        .status()
}

fn configuration(digest: &str, entrypoint: &[&str], command: &[&str]) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": entrypoint, "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    })
}

/// This machine's architecture, by the name that container runtimes give it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
