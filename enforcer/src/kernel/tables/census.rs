//! Says whether a hash holds what was stored there and nothing else, mostly without a walk over it.
//!
//! Input: the hash, and how to look for what was stored. Output: whether it is whole. A walk visits every bucket, and a hash
//! for all that a node may have is mostly empty. But the kernel tells how much memory a hash takes that allocates its elements
//! one by one: always the same for the same number of them. So if the memory is as it was when a walk found all and nothing
//! else, and all are still there, there is no other element.

use std::sync::Mutex;

use crate::kernel::error::KernelError;
use crate::kernel::sys::Map;

/// What the last walk has found.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<Option<Found>>);

/// A hash that held what was stored there and nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Found {
    memory: u64,
    elements: usize,
}

impl Census {
    /// Whether the hash holds what was stored there, so many `elements`, and nothing else. `has_all` looks for each of them;
    /// `is_equal` walks over the hash.
    pub(super) fn is_whole(
        &self,
        map: &Map,
        elements: usize,
        has_all: impl FnOnce() -> Result<bool, KernelError>,
        is_equal: impl FnOnce() -> Result<bool, KernelError>,
    ) -> Result<bool, KernelError> {
        let memory = map.memory().ok();
        let now = memory.map(|memory| Found { memory, elements });
        self.decide(now, has_all, is_equal)
    }

    /// `now`: what a whole hash would be; `None`: the kernel does not tell its memory.
    fn decide<E>(
        &self,
        now: Option<Found>,
        has_all: impl FnOnce() -> Result<bool, E>,
        is_equal: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now.is_some() && now == *last {
            return has_all();
        }
        // Cleared first: a walk that fails has found nothing.
        let before = last.take();
        let is_equal = is_equal()?;
        // The same memory for another number of elements does not count them.
        let counts = now.zip(before).is_none_or(|(now, before)| now.memory != before.memory);
        if is_equal && counts {
            *last = now;
        }
        Ok(is_equal)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// A hash and how often it was walked over.
    struct World {
        census: Census,
        walks: Cell<u32>,
    }

    impl World {
        /// Whether the hash is whole, and whether it was walked over for that.
        fn look(&self, memory: Option<u64>, elements: usize, has_all: bool, is_equal: bool) -> (bool, bool) {
            let before = self.walks.get();
            let walk = || {
                self.walks.set(before + 1);
                Ok::<_, Infallible>(is_equal)
            };
            let now = memory.map(|memory| Found { memory, elements });
            let Ok(is_whole) = self.census.decide(now, || Ok(has_all), walk);
            (is_whole, self.walks.get() > before)
        }
    }

    fn world() -> World {
        World { census: Census::default(), walks: Cell::new(0) }
    }

    #[test]
    fn a_hash_is_walked_over_again_when_its_memory_or_what_was_stored_is_another() {
        let world = world();
        assert_eq!(world.look(Some(100), 2, true, true), (true, true), "the first time");
        assert_eq!(world.look(Some(100), 2, true, true), (true, false));
        assert_eq!(world.look(Some(100), 2, false, false), (false, false), "one has another one's place");
        assert_eq!(world.look(Some(148), 2, true, false), (false, true), "one too many");
        assert_eq!(world.look(Some(148), 2, true, false), (false, true), "it is still there");
        assert_eq!(world.look(Some(100), 2, true, true), (true, true));
        assert_eq!(world.look(Some(148), 3, true, true), (true, true), "a new one was stored");
        assert_eq!(world.look(Some(148), 3, true, true), (true, false));
    }

    #[test]
    fn without_a_count_each_look_is_a_walk() {
        let world = world();
        assert_eq!([1, 2].map(|_| world.look(None, 2, true, true)), [(true, true); 2], "the kernel does not tell");
        assert_eq!(world.look(Some(100), 2, true, true), (true, true));
        assert_eq!(world.look(Some(100), 3, true, true), (true, true), "the memory does not grow with the elements");
        assert_eq!(world.look(Some(100), 3, true, false), (false, true), "so it says nothing");
    }
}
