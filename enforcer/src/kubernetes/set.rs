//! The objects of one kind, and what has changed since they were last published.
//!
//! Input: objects as they come, and complete lists. Output: publications of whole sets. An object that is as before wakes
//! nobody, and keeps its place in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::view::{Key, View};

/// All objects of a list, once it has come to its end.
pub(super) type Listed<T> = BTreeMap<Key, Arc<T>>;

/// Changes that are not published yet, in their order; `None`: the object is gone.
#[derive(Debug)]
pub(super) struct Changes<T>(Vec<(Key, Option<Arc<T>>)>);

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Changes<T> {
    pub(super) fn note(&mut self, key: Key, object: Option<T>) {
        self.0.push((key, object.map(Arc::new)));
    }

    /// Publishes all of them at once.
    pub(super) fn publish(&mut self, to: &watch::Sender<View<T>>) {
        let mut changes = std::mem::take(&mut self.0);
        to.send_if_modified(|view| {
            // Looked up first: while somebody holds the set, a change copies all of it.
            let mut changed = false;
            for (key, object) in changes.drain(..) {
                if view.objects.get(&key).map(Arc::as_ref) == object.as_deref() {
                    continue;
                }
                changed = true;
                let objects = Arc::make_mut(&mut view.objects);
                match object {
                    Some(object) => drop(objects.insert(key, object)),
                    None => drop(objects.remove(&key)),
                }
            }
            changed
        });
        // The room is used again.
        self.0 = changes;
    }
}

/// Publishes a complete list in the place of what was there.
pub(super) fn replace<T: PartialEq>(mut listed: Listed<T>, to: &watch::Sender<View<T>>) {
    to.send_if_modified(|view| {
        for (key, object) in &mut listed {
            if let Some(before) = view.objects.get(key).filter(|before| *before == object) {
                *object = Arc::clone(before);
            }
        }
        let mut pairs = listed.iter().zip(view.objects.iter());
        let is_same = listed.len() == view.objects.len()
            && pairs.all(|((key, object), (other, before))| key == other && Arc::ptr_eq(object, before));
        if is_same && view.listed && view.stale.is_none() {
            return false;
        }
        if !is_same {
            view.objects = Arc::new(std::mem::take(&mut listed));
        }
        view.listed = true;
        view.stale = None;
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: "shop".into(), name: name.into() }
    }

    fn list(all: &[(&str, u32)]) -> Listed<u32> {
        all.iter().map(|(name, value)| (key(name), Arc::new(*value))).collect()
    }

    fn shown(view: &View<u32>) -> Vec<(String, u32)> {
        view.objects.iter().map(|(key, value)| (key.to_string(), **value)).collect()
    }

    #[test]
    fn changes_are_published_together_and_those_that_change_nothing_wake_nobody() {
        let (to, mut from) = watch::channel(View::default());
        replace(list(&[("a", 1), ("b", 1)]), &to);
        assert!(from.borrow_and_update().listed);
        let mut changes = Changes::default();
        changes.note(key("a"), Some(1));
        changes.note(key("none"), None);
        changes.publish(&to);
        assert!(!from.has_changed().unwrap(), "nothing is new");
        for value in [7, 8] {
            changes.note(key("a"), Some(value));
        }
        changes.note(key("b"), None);
        changes.note(key("c"), Some(3));
        changes.publish(&to);
        assert_eq!(shown(&from.borrow_and_update()), [("shop/a".to_owned(), 8), ("shop/c".to_owned(), 3)]);
    }

    #[test]
    fn a_list_takes_away_what_it_lacks_and_keeps_the_memory_of_what_it_repeats() {
        let (to, mut from) = watch::channel(View::default());
        replace(list(&[]), &to);
        assert!(from.has_changed().unwrap(), "the first list counts, even if it is empty");
        replace(list(&[("a", 1), ("b", 1)]), &to);
        let before = from.borrow_and_update().clone();
        replace(list(&[("a", 1), ("b", 1)]), &to);
        assert!(!from.has_changed().unwrap());
        replace(list(&[("a", 1), ("c", 2)]), &to);
        let after = from.borrow_and_update().clone();
        assert_eq!(shown(&after), [("shop/a".to_owned(), 1), ("shop/c".to_owned(), 2)]);
        assert!(Arc::ptr_eq(&before.objects[&key("a")], &after.objects[&key("a")]));
    }

    #[test]
    fn a_set_that_somebody_holds_is_not_changed_under_them() {
        let (to, from) = watch::channel(View::default());
        replace(list(&[("a", 1)]), &to);
        let held = from.borrow().clone();
        let mut changes = Changes::default();
        changes.note(key("a"), None);
        changes.publish(&to);
        assert_eq!((held.objects.len(), from.borrow().objects.len()), (1, 0));
    }
}
