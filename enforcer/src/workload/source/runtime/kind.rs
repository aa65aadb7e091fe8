//! Which container runtime a node has, for the configuration of discovery.

use std::fmt;
use std::path::{Path, PathBuf};

/// Which runtime, and where its API listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RuntimeKind {
    /// podman, at `/run/podman/podman.sock` or the given path.
    Podman(Option<PathBuf>),
    /// Docker, at `/var/run/docker.sock` or the given path.
    Docker(Option<PathBuf>),
}

impl RuntimeKind {
    /// Path of the API's socket.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Podman(Some(path)) | Self::Docker(Some(path)) => path,
            Self::Podman(None) => Path::new("/run/podman/podman.sock"),
            Self::Docker(None) => Path::new("/var/run/docker.sock"),
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Podman(_) => "podman",
            Self::Docker(_) => "docker",
        };
        write!(f, "{name} at {}", self.socket().display())
    }
}
