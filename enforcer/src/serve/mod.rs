//! What the daemon tells by HTTP: whether its loop turns, whether the first policies are in force, and its numbers.
//!
//! Input: the [`Board`], on which the agent writes, and [`Numbers`] of the kernel, which are read when somebody asks. Output:
//! `/livez`, `/readyz` and `/metrics`. Data flows one way: nothing that comes in by HTTP reaches the agent or the kernel, and
//! the agent waits for nothing here. `docs/metrics.md` describes what is served.

#![forbid(unsafe_code)]

mod board;
mod http;
mod metrics;
mod pairs;
mod thread;

pub use self::board::{Board, Endpoints, Facts, Stage, Waits};
pub use self::metrics::{DeniedPackets, KernelNumbers, MapFill, Numbers};
pub use self::pairs::Who;
pub use self::thread::{Server, start};
