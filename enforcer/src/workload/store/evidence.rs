//! Which veths the evidence gives to which pods, and which pairs of the two are without doubt.
//!
//! Input: for each pod the veths that may be its own. Output: pairs. It does not matter what the evidence is.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::workload::model::WorkloadKey;

/// Of each pod, by its index, the veths that evidence speaks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Evidence(BTreeMap<usize, BTreeSet<WorkloadKey>>);

impl Evidence {
    pub(super) fn new(of: impl Iterator<Item = (usize, BTreeSet<WorkloadKey>)>) -> Self {
        Self(of.filter(|(_, keys)| !keys.is_empty()).collect())
    }

    /// Whether anything speaks for a pod.
    pub(super) fn has(&self, pod: usize) -> bool {
        self.0.contains_key(&pod)
    }

    /// The veths of a pod.
    pub(super) fn keys(&self, pod: usize) -> impl Iterator<Item = WorkloadKey> {
        self.0.get(&pod).into_iter().flatten().copied()
    }

    /// The pairs that are without doubt: the pod has one veth, and the veth one such pod. A pair that is decided takes its veth
    /// away from the other pods.
    pub(super) fn pairs(&self) -> BTreeMap<usize, WorkloadKey> {
        let (mut open, mut pairs) = (self.0.clone(), BTreeMap::new());
        loop {
            let mut holders: BTreeMap<WorkloadKey, Vec<usize>> = BTreeMap::new();
            for (pod, keys) in &open {
                if let (1, Some(key)) = (keys.len(), keys.first()) {
                    holders.entry(*key).or_default().push(*pod);
                }
            }
            let before = pairs.len();
            for (key, pods) in holders {
                if let [pod] = *pods {
                    pairs.insert(pod, key);
                    open.remove(&pod);
                    for keys in open.values_mut() {
                        keys.remove(&key);
                    }
                }
            }
            if pairs.len() == before {
                return pairs;
            }
        }
    }

    /// Without the pods and the veths of pairs that are decided.
    pub(super) fn without(&self, pairs: &BTreeMap<usize, WorkloadKey>) -> Self {
        let taken: BTreeSet<WorkloadKey> = pairs.values().copied().collect();
        let open = self.0.iter().filter(|(pod, _)| !pairs.contains_key(pod));
        Self::new(open.map(|(pod, keys)| (*pod, keys.difference(&taken).copied().collect())))
    }

    /// Only what a test lets through.
    pub(super) fn only(&self, is_wanted: impl Fn(usize, WorkloadKey) -> bool) -> Self {
        let wanted = |pod: usize, keys: &BTreeSet<WorkloadKey>| -> BTreeSet<WorkloadKey> {
            keys.iter().copied().filter(|key| is_wanted(pod, *key)).collect()
        };
        Self::new(self.0.iter().map(|(pod, keys)| (*pod, wanted(*pod, keys))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: &[(usize, &[u64])]) -> Vec<(usize, u64)> {
        let keys = |all: &[u64]| all.iter().map(|key| WorkloadKey(*key)).collect();
        let evidence = Evidence::new(of.iter().map(|(pod, all)| (*pod, keys(all))));
        evidence.pairs().into_iter().map(|(pod, key)| (pod, key.0)).collect()
    }

    #[test]
    fn a_pair_is_one_of_each_and_what_is_decided_decides_more() {
        assert_eq!(pairs(&[(0, &[1]), (1, &[1, 2]), (2, &[1, 2, 3])]), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(pairs(&[(0, &[1]), (1, &[1])]), [], "two pods for one veth");
        assert_eq!(pairs(&[(0, &[1, 2]), (1, &[1, 2]), (2, &[3])]), [(2, 3)], "two veths for a pod");
        assert_eq!(pairs(&[(0, &[1]), (1, &[1]), (2, &[1, 2])]), [], "a veth that is in doubt is not out of the way");
    }
}
