//! Tests of the store's rules, as tables and as one property.

mod addresses;
mod devices;
mod floating;
mod flood;
mod identity;
mod pod_addresses;
mod pods;
mod strays;
mod theft;
mod uplinks;
mod vouchers;
mod world;
