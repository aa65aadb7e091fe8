//! Remembers when each new veth was first heard of, so that somebody can tell how long it was without programs.
//!
//! Input: the veths before and after a read. Output: the time since then, once for each veth. A veth that was there at the start is
//! no newcomer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enforcer_common::id::Ifindex;
use tokio::time::Instant;

/// Veths of which nobody has asked yet.
#[derive(Clone, Debug, Default)]
pub struct Newcomers(Arc<Mutex<BTreeMap<Ifindex, Instant>>>);

impl Newcomers {
    /// For how long a veth has been heard of. Only the first to ask gets an answer.
    pub fn take(&self, veth: Ifindex) -> Option<Duration> {
        self.locked().remove(&veth).map(|heard| heard.elapsed())
    }

    /// Notes the veths that are new, which were heard of at this moment, and forgets those that are gone.
    pub(super) fn note<T>(&self, before: &BTreeMap<Ifindex, T>, now: &BTreeMap<Ifindex, T>, heard: Instant) {
        let mut known = self.locked();
        known.retain(|veth, _| now.contains_key(veth));
        known.extend(now.keys().filter(|veth| !before.contains_key(veth)).map(|veth| (*veth, heard)));
    }

    /// A thread that panicked while it held the lock has at most left a veth out.
    fn locked(&self) -> MutexGuard<'_, BTreeMap<Ifindex, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_new_veth_has_its_time_once() {
        let newcomers = Newcomers::default();
        let veths = |indexes: &[u32]| indexes.iter().map(|index| (Ifindex(*index), *index)).collect::<BTreeMap<_, _>>();
        let heard = Instant::now().checked_sub(Duration::from_millis(50)).unwrap();
        newcomers.note(&veths(&[1]), &veths(&[1, 2, 3]), heard);
        assert_eq!(newcomers.take(Ifindex(1)), None, "it was there");
        assert!(newcomers.take(Ifindex(2)).unwrap() >= Duration::from_millis(50));
        assert_eq!(newcomers.take(Ifindex(2)), None, "once");
        newcomers.note(&veths(&[1, 2, 3]), &veths(&[1, 2]), heard);
        assert_eq!(newcomers.take(Ifindex(3)), None, "it is gone");
    }
}
