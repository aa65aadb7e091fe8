//! What the agent writes into the Kubernetes API about itself.
//!
//! Input: what the agent knows, when it has changed. Output: the object `EnforcerNode` of its node. Nothing here decides
//! anything, and the agent waits for nothing here: an API server that is away or refuses changes no enforcement.

#![forbid(unsafe_code)]

mod schema;
mod status;
mod writer;

pub use self::schema::{KIND, definition};
pub use self::status::{
    Applied, ERROR, MOST_PODS, MOST_POLICIES, MOST_REASONS, MOST_REFUSED, MOST_STALE, NodeStatus, REFUSAL,
    RefusedPolicy, StaleSource, Unmanaged, Veths, Workloads,
};
pub use self::writer::Writer;
