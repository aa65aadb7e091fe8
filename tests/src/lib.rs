//! Shared parts of the tests: an oracle for policy, frames, the datapath's tables in ordinary memory, loaded programs, the
//! example policies' cases, namespaces and their traffic, and a stage for the real daemon and real containers.
//! `docs/testing.md` says which part answers which question.

pub mod bench;
pub mod bytecode;
pub mod cargo;
pub mod cases;
pub mod cluster;
pub mod daemon;
pub mod flow_policies;
pub mod net;
pub mod oracle;
pub mod packet;
pub mod planned;
pub mod podman;
pub mod stage;
pub mod suite;
pub mod traffic;
pub mod world;
