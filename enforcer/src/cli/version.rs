//! `enforcer version`: tells which build this is.
//!
//! Input: what the build put into the program. Output: text or JSON on stdout.

use std::process::ExitCode;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::out;
use crate::kernel::{OLDEST_KERNEL, embedded_object};

/// Show which build this is, and which kernel it needs.
///
/// The hash of the kernel object is that of `sha256sum target/bpf/object/enforcer.o` in a checkout that builds the same
/// programs. An image that `cargo xtask image` made knows its commit; `-dirty` behind the commit means that files had been
/// changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Args, commit: Option<&str>) -> ExitCode {
    let build = Build { commit, object: embedded_object() };
    if args.json {
        out::tell_json(&build.as_json());
    } else {
        out::tell(&build.as_text());
    }
    ExitCode::SUCCESS
}

/// What the program knows of its build.
struct Build<'a> {
    commit: Option<&'a str>,
    object: &'a [u8],
}

impl Build<'_> {
    fn as_text(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let commit = self.commit.unwrap_or("unknown, because `cargo xtask image` did not make this build");
        let object = self.hash().unwrap_or_else(|| {
            "none, so this build cannot enforce; run `cargo xtask build-ebpf` and build again".to_owned()
        });
        let oldest = oldest();
        format!(
            "version        {version}\ncommit         {commit}\nkernel object  {object}\nneeds          Linux {oldest} or later"
        )
    }

    fn as_json(&self) -> serde_json::Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": self.commit,
            "kernel_object": self.hash(),
            "oldest_kernel": oldest(),
        })
    }

    /// SHA-256 of the object, `None` if there is none.
    fn hash(&self) -> Option<String> {
        if self.object.is_empty() {
            return None;
        }
        let mut text = "sha256:".to_owned();
        for byte in Sha256::digest(self.object) {
            text.push_str(&format!("{byte:02x}"));
        }
        Some(text)
    }
}

fn oldest() -> String {
    let (major, minor) = OLDEST_KERNEL;
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_names_its_commit_its_object_and_its_kernel() {
        let build = Build { commit: Some("0123-dirty"), object: b"abc" };
        // The example of FIPS 180-4.
        let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let lines =
            ["commit         0123-dirty", &format!("kernel object  {hash}"), "needs          Linux 6.6 or later"];
        assert_eq!(build.as_text().lines().skip(1).collect::<Vec<_>>(), lines);
        let json = build.as_json();
        assert_eq!((json["commit"].as_str(), json["kernel_object"].as_str()), (Some("0123-dirty"), Some(hash)));
        assert_eq!(json["oldest_kernel"], "6.6");
    }

    #[test]
    fn a_build_that_cannot_enforce_says_so() {
        let build = Build { commit: None, object: b"" };
        assert!(build.as_text().contains("kernel object  none, so this build cannot enforce"), "{}", build.as_text());
        assert!(build.as_text().contains("commit         unknown"), "{}", build.as_text());
        assert_eq!(build.as_json()["kernel_object"], serde_json::Value::Null);
    }
}
