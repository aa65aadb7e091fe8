//! What is pinned: where it lies, what each map looks like, and how all of it is removed.

pub(crate) mod layout;
pub(crate) mod maps;
mod purge;

pub use purge::purge;
