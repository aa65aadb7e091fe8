//! Tests of the store's rules, as tables and as one property.

mod addresses;
mod devices;
mod flood;
mod identity;
mod theft;
mod uplinks;
mod world;
