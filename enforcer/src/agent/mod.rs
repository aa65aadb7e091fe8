//! The reconcile loop: the only module that knows all others.

pub mod state;
