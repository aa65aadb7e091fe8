//! The workloads of one snapshot, arranged for selectors and look-ups by address.
//!
//! Input: a snapshot. Output: a [`Roster`], which every set of policies that meets this snapshot shares. A change of the policies
//! therefore costs nothing that rises with the number of workloads elsewhere.

use std::sync::Arc;

use super::directory::{Directory, GroupId, Groups};
use super::ports::PortNames;
use super::selector::Index;
use crate::policy::model::{LabelSelector, NamespaceScope};
use crate::workload::model::{Identity, Snapshot};

/// The workloads of one snapshot.
#[derive(Debug)]
pub struct Roster {
    snapshot: Arc<Snapshot>,
    groups: Groups,
    directory: Directory,
    index: Index,
}

impl Roster {
    /// Arranges a snapshot.
    pub fn of(snapshot: Arc<Snapshot>) -> Self {
        let groups = Groups::of(&snapshot);
        let directory = Directory::of(&snapshot, &groups);
        let index = Index::of(&snapshot, &groups);
        Self { snapshot, groups, directory, index }
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The identity that stands for all of a group.
    pub(super) fn identity(&self, group: GroupId) -> &Identity {
        self.groups.identity(&self.snapshot, group)
    }

    /// Which of [`Self::port_names`] the workloads of each group have.
    pub(super) fn names_of_groups(&self) -> impl Iterator<Item = (GroupId, usize)> {
        (0..).map(GroupId).zip(self.groups.names_of.iter().copied())
    }

    /// All names of ports, equal ones once.
    pub(super) fn port_names(&self) -> impl Iterator<Item = &PortNames> {
        self.groups.names.iter().map(|group| &self.identity(*group).ports)
    }

    /// The namespaces that have a workload, sorted.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.index.namespaces()
    }

    /// The groups that a selector matches in these namespaces, sorted. `own`: the namespace of the policy.
    pub(super) fn select(&self, own: &str, scope: &NamespaceScope, workloads: &LabelSelector) -> Vec<GroupId> {
        self.index.select(own, scope, workloads, |group| self.identity(group))
    }
}
