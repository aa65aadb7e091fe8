//! An archive of OCI (image-spec, image-layout). Input: a directory of files and a configuration. Output: one layer, its
//! configuration, its manifest and an index, each named by its own digest, in one file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::Run;

const BLOBS: &str = "blobs/sha256";

/// An image on its way into an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    directory: PathBuf,
    digest: String,
}

impl Archive {
    /// Makes the parts in `directory`, which is emptied first. `name` is what the image is called after an import.
    pub(crate) fn create(directory: &Path, files: &Path, configuration: &Value, name: &str) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        fs::create_dir_all(directory.join(BLOBS)).with_context(|| format!("cannot make {}", directory.display()))?;
        let plain = directory.join("layer.tar");
        tar(files, &plain, &["."])?;
        let diff = digest(&read(&plain)?);
        // Without the name and the time of the file.
        Run::new("gzip").args(["--best", "--no-name"]).arg(&plain).status()?;
        let packed = directory.join("layer.tar.gz");
        let layer = blob(directory, &read(&packed)?, "application/vnd.oci.image.layer.v1.tar+gzip")?;
        fs::remove_file(&packed)?;

        let mut configuration = configuration.clone();
        configuration["rootfs"] = json!({"type": "layers", "diff_ids": [diff]});
        let configuration = document(directory, &configuration, "application/vnd.oci.image.config.v1+json")?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": configuration, "layers": [layer]});
        let mut manifest = document(directory, &manifest, kind)?;
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        // containerd reads the first, others the second.
        manifest["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        fs::write(directory.join("index.json"), index.to_string())?;
        fs::write(directory.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        Ok(Self { directory: directory.to_path_buf(), digest })
    }

    /// Digest of the manifest, by which a registry knows the image.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Writes the archive, whole or not at all.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let beside = to.with_extension("new");
        tar(&self.directory, &beside, &["oci-layout", "index.json", "blobs"])?;
        fs::rename(&beside, to).with_context(|| format!("cannot write {}", to.display()))
    }
}

/// The same files give the same archive: their owner, their time and their order in the directory are left out.
fn tar(directory: &Path, to: &Path, names: &[&str]) -> Result<()> {
    let left_out = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
    Run::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(to)
        .args(left_out)
        // The umask of this user would show otherwise.
        .arg("--mode=u=rwX,go=rX")
        .arg("--directory")
        .arg(directory)
        .args(names)
        .status()
}

fn document(directory: &Path, value: &Value, kind: &str) -> Result<Value> {
    blob(directory, value.to_string().as_bytes(), kind)
}

/// Puts bytes under their digest, and describes them.
fn blob(directory: &Path, bytes: &[u8], kind: &str) -> Result<Value> {
    let digest = digest(bytes);
    let path = directory.join(BLOBS).join(digest.trim_start_matches("sha256:"));
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, thread::sleep, time::Duration};

    use super::*;

    fn made(place: &Path, mode: u32) -> Archive {
        let files = place.join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("a"), "text").unwrap();
        fs::set_permissions(files.join("a"), fs::Permissions::from_mode(mode)).unwrap();
        Archive::create(&place.join("oci"), &files, &json!({"os": "linux"}), "localhost/a:1").unwrap()
    }

    /// The bytes of an archive of one file that has this mode.
    fn bytes(mode: u32) -> Vec<u8> {
        let place = tempfile::tempdir().unwrap();
        made(place.path(), mode).write(&place.path().join("a.tar")).unwrap();
        fs::read(place.path().join("a.tar")).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_wherever_and_whenever_they_are_packed() {
        let first = bytes(0o644);
        // Another time of the files, in another directory, by somebody with another umask.
        sleep(Duration::from_millis(1_100));
        assert!(first == bytes(0o600), "another umask, directory and time");
        assert!(first != bytes(0o755), "a program is no text");
    }

    #[test]
    fn every_part_is_found_by_its_digest() {
        let place = tempfile::tempdir().unwrap();
        let made = made(place.path(), 0o644);
        let oci = place.path().join("oci");
        let part = |descriptor: &Value| {
            let said = descriptor["digest"].as_str().unwrap();
            let bytes = fs::read(oci.join(BLOBS).join(said.trim_start_matches("sha256:"))).unwrap();
            assert_eq!(digest(&bytes), said);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let index: Value = serde_json::from_slice(&fs::read(oci.join("index.json")).unwrap()).unwrap();
        let manifest = &index["manifests"][0];
        assert_eq!(manifest["digest"], made.digest());
        assert_eq!(manifest["annotations"]["io.containerd.image.name"], "localhost/a:1");
        let manifest: Value = serde_json::from_slice(&part(manifest)).unwrap();
        let configuration: Value = serde_json::from_slice(&part(&manifest["config"])).unwrap();
        assert!(part(&manifest["layers"][0]).starts_with(&[0x1f, 0x8b]), "gzip");
        assert_eq!(configuration["os"], "linux");
        assert_eq!(configuration["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        assert_eq!(fs::read_dir(oci.join(BLOBS)).unwrap().count(), 3);
    }
}
