//! Runs the loaded programs on generated frames (`BPF_PROG_TEST_RUN`).
//!
//! Input: the object of `cargo xtask build-ebpf`. Output: verdicts, and what the programs left in their maps.

pub mod memory;
pub mod node;
pub mod object;
pub mod scene;
pub mod sys;
