//! A part of the daemon's state that two holders share.
//!
//! Input: the shared part. Output: whether two looks at it met the same one, without a comparison of what it holds.

use std::sync::Arc;

/// A part that is compared by what it is, and not by what it holds.
#[derive(Debug)]
pub(super) struct Same<T>(Option<Arc<T>>);

impl<T> From<Option<Arc<T>>> for Same<T> {
    fn from(part: Option<Arc<T>>) -> Self {
        Self(part)
    }
}

impl<T> Same<T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    pub(super) fn shared(&self) -> Option<&Arc<T>> {
        self.0.as_ref()
    }
}

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}
