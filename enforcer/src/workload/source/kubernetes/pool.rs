//! Values that many objects share, each kept once.
//!
//! Input: a value. Output: the same value, in the memory of an equal one. Values that nobody has any more are dropped in time.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// A value whose clones share memory.
pub(super) trait Shared: Clone + Eq + Hash {
    /// How many clones there are.
    fn clones(&self) -> usize;
}

/// Values that may be shared.
#[derive(Debug)]
pub(super) struct Pool<T>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    values: HashSet<T>,
    /// How many values there may be before it is looked through for those that nobody has.
    room: usize,
}

/// Few enough to keep them all.
const FEW: usize = 256;

impl<T: Shared> Pool<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Kept { values: HashSet::new(), room: FEW }))
    }

    pub(super) fn share(&self, value: T) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.values.get(&value) {
            return known.clone();
        }
        if kept.values.len() >= kept.room {
            kept.values.retain(|value| value.clones() > 1);
            kept.room = FEW.max(kept.values.len() * 2);
        }
        kept.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    impl Shared for Arc<str> {
        fn clones(&self) -> usize {
            Arc::strong_count(self)
        }
    }

    #[test]
    fn equal_values_share_memory_and_those_that_nobody_has_go() {
        let pool = Pool::new();
        let first: Arc<str> = pool.share("a".into());
        assert!(Arc::ptr_eq(&first, &pool.share("a".into())));
        for number in 0..FEW * 4 {
            pool.share(number.to_string().into());
        }
        assert!(pool.0.lock().unwrap().values.len() <= FEW + 1);
        assert!(Arc::ptr_eq(&first, &pool.share("a".into())), "it is still had");
    }
}
