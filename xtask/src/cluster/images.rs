//! Images on the nodes. Input: an archive of a container runtime (OCI or Docker). Output: its images in the store of every
//! node, at once.

use std::{fs::File, path::Path, process::Stdio};

use anyhow::{Context, Result, bail};

use crate::cluster::{member::Member, node};

/// Imports the archive on each node.
pub(crate) fn load<'a>(nodes: impl Iterator<Item = &'a Member>, archive: &Path) -> Result<()> {
    let mut imports = Vec::new();
    for node in nodes {
        let input = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
        let mut run = node.command("ctr");
        run.args(["--address", node::SOCKET, "--namespace", "k8s.io", "images", "import", "-"]);
        run.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
        imports.push((node, run.spawn().context("cannot run ctr")?));
    }
    for (node, import) in imports {
        let output = import.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{} does not take the images of {}: {}", node.name, archive.display(), said.trim());
        }
    }
    Ok(())
}
