//! What is known of one cluster: the file `cluster.json`, which `status --json` prints. docs/testing.md explains its fields.
//!
//! Input: what `up` has made so far. Output: the same for the other commands and for tests. The removal of a cluster does
//! not need it.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::{
    build::Cache,
    directory::{Directory, replace},
    member::{CONTROL, Member},
    part::Part,
    shape::Shape,
};

const FILE: &str = "cluster.json";

/// A cluster, ready or being started.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct State {
    pub(crate) name: String,
    /// Version of Kubernetes.
    pub(crate) version: String,
    /// Whether `up` has come to its end.
    pub(crate) ready: bool,
    pub(crate) shape: Shape,
    pub(crate) kubectl: PathBuf,
    /// Of a user who may do everything, with paths of the host.
    pub(crate) kubeconfig: PathBuf,
    /// Image of a pod's sandbox.
    pub(crate) pause: String,
    /// Image with agnhost and busybox, which is on every node.
    pub(crate) image: String,
    pub(crate) members: Vec<Member>,
    pub(crate) parts: Vec<Part>,
}

impl State {
    pub(crate) fn new(directory: &Directory, shape: Shape, cache: &Cache) -> Self {
        Self {
            name: directory.name().to_owned(),
            version: cache.version().to_owned(),
            ready: false,
            shape,
            kubectl: cache.binaries().join("kubectl"),
            kubeconfig: directory.file("kubeconfig"),
            pause: cache.pause(),
            image: cache.image(),
            members: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// `None` where there is no such cluster, or its start has not come so far.
    pub(crate) fn find(directory: &Directory) -> Result<Option<Self>> {
        let path = directory.file(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The cluster, or what to do where it is not there.
    pub(crate) fn load(directory: &Directory) -> Result<Self> {
        let name = directory.name();
        match Self::find(directory)? {
            Some(state) if state.ready => Ok(state),
            Some(_) => bail!(
                "the start of the cluster {name} was not finished; run `cargo xtask cluster down --name {name}`, then `up`"
            ),
            None => bail!("there is no cluster {name}; run `cargo xtask cluster up --name {name}`"),
        }
    }

    pub(crate) fn save(&self, directory: &Directory) -> Result<()> {
        replace(&directory.file(FILE), &format!("{:#}\n", serde_json::to_value(self)?))
    }

    pub(crate) fn member(&self, name: &str) -> Result<&Member> {
        let known = self.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.members.iter().find(|member| member.name == name);
        let member = found.with_context(|| format!("the cluster {} has no member {name}, but {known}", self.name))?;
        ensure!(
            member.is_alive(),
            "{name} of the cluster {} is gone; `cargo xtask cluster down` removes the rest",
            self.name
        );
        Ok(member)
    }

    pub(crate) fn control(&self) -> Result<&Member> {
        self.member(CONTROL)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.name != CONTROL)
    }
}
