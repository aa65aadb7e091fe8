//! Finds the groups of workloads that a selector matches, by an index of labels instead of a test of each group.
//!
//! Input: the groups, and the labels of the namespaces. Output: the groups that a peer item selects (N11, N12, N13).

use std::collections::{BTreeMap, HashMap};

use super::directory::{GroupId, Groups};
use crate::policy::model::{LabelSelector, NamespaceScope, Requirement};
use crate::workload::model::{Identity, Labels, Snapshot};

/// The label by which a namespace is known (N13).
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Debug)]
pub(super) struct Index {
    namespaces: BTreeMap<String, Namespace>,
    by_label: HashMap<String, HashMap<String, Vec<GroupId>>>,
}

#[derive(Clone, Debug)]
struct Namespace {
    labels: Labels,
    groups: Vec<GroupId>,
}

impl Index {
    pub(super) fn of(snapshot: &Snapshot, groups: &Groups) -> Self {
        let mut namespaces: BTreeMap<&str, Namespace> = BTreeMap::new();
        let mut by_label: HashMap<&str, HashMap<&str, Vec<GroupId>>> = HashMap::new();
        for group in groups.all() {
            let identity = groups.identity(snapshot, group);
            let name = identity.name.namespace.as_str();
            namespaces.entry(name).or_insert_with(|| Namespace::of(snapshot, name)).groups.push(group);
            for (key, value) in identity.labels.pairs() {
                by_label.entry(key).or_default().entry(value).or_default().push(group);
            }
        }
        let owned = |(value, groups): (&str, Vec<GroupId>)| (value.to_owned(), groups);
        Self {
            namespaces: namespaces.into_iter().map(|(name, namespace)| (name.to_owned(), namespace)).collect(),
            by_label: by_label
                .into_iter()
                .map(|(key, values)| (key.to_owned(), values.into_iter().map(owned).collect()))
                .collect(),
        }
    }

    /// The namespaces that have a workload, sorted.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// The groups that match, sorted. One whose sets have two of the wanted values of a label may be there twice.
    /// `identity`: the identity that stands for a group.
    pub(super) fn select<'a>(
        &self,
        own: &str,
        scope: &NamespaceScope,
        workloads: &LabelSelector,
        identity: impl Fn(GroupId) -> &'a Identity,
    ) -> Vec<GroupId> {
        let in_scope: Vec<(&String, &Namespace)> = match scope {
            NamespaceScope::Own => self.namespaces.get_key_value(own).into_iter().collect(),
            NamespaceScope::Matching(selector) => {
                self.namespaces.iter().filter(|(_, namespace)| selector.matches(&namespace.labels)).collect()
            }
        };
        let in_namespaces: usize = in_scope.iter().map(|(_, namespace)| namespace.groups.len()).sum();
        let by_label = self.rarest_label(workloads);
        // One set must meet the selector by itself (D14).
        let matches = |group: &GroupId| identity(*group).labels.any(|set| workloads.matches(set));
        let mut selected: Vec<GroupId> = match by_label {
            Some((count, lists)) if count < in_namespaces => {
                let names: std::collections::HashSet<&str> = in_scope.iter().map(|(name, _)| name.as_str()).collect();
                lists
                    .into_iter()
                    .flatten()
                    .copied()
                    .filter(|group| names.contains(identity(*group).name.namespace.as_str()) && matches(group))
                    .collect()
            }
            _ => in_scope.iter().flat_map(|(_, namespace)| namespace.groups.iter().copied()).filter(matches).collect(),
        };
        selected.sort_unstable();
        selected
    }

    /// The groups that the most selective `In` requirement leaves, as one list for each of its values.
    fn rarest_label(&self, selector: &LabelSelector) -> Option<(usize, Vec<&[GroupId]>)> {
        let lists = selector.requirements.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => {
                let lists: Vec<&[GroupId]> = values
                    .iter()
                    .filter_map(|value| self.by_label.get(key.as_str())?.get(value.as_str()).map(Vec::as_slice))
                    .collect();
                Some((lists.iter().map(|list| list.len()).sum(), lists))
            }
            Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::DoesNotExist(_) => None,
        });
        lists.min_by_key(|(count, _)| *count)
    }
}

impl Namespace {
    fn of(snapshot: &Snapshot, name: &str) -> Self {
        let labels = snapshot.namespaces.get(name).cloned();
        let labels = labels.unwrap_or_else(|| Labels::from([(METADATA_NAME.to_owned(), name.to_owned())]));
        Self { labels, groups: Vec::new() }
    }
}
