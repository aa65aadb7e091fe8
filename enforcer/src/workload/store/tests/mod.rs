//! The store's rules, as tables and as a property.

mod addresses;
mod flood;
mod identity;
mod theft;
mod uplinks;
mod world;
