//! Enforcer: from declared flows to a verdict in the kernel.
//!
//! Data runs one way: `policy` (YAML, objects of an API) and `workload` (who is where) -> `resolve` -> `compile` -> `plan` -> `kernel`
//! (maps), and back out through `flow` (denied flows with names). `agent` ties them together and is the only module that knows all.

pub mod agent;
mod causes;
pub mod cli;
pub mod compile;
pub mod config;
pub mod controller;
pub mod flow;
pub mod kernel;
pub mod kubernetes;
pub mod lab;
pub mod plan;
pub mod policy;
pub mod publish;
pub mod resolve;
pub mod serve;
pub mod watch;
pub mod workload;
