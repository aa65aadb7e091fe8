//! Workloads: who is on this node, from netlink, an inventory file and a container runtime.

pub mod model;
