//! What devices of a namespace carry, and frames sent from there.

pub mod ring;
pub mod wire;
