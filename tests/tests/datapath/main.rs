//! T0: tests the whole decision, from the first byte of a frame to the verdict, as tables over ordinary memory.
//!
//! A row says in a sentence what must happen to a packet. Each row fails if a guardrail breaks, an epoch is forgotten, or a
//! role is mistaken.

mod discovery;
mod echo;
mod epochs;
mod full;
mod half_open;
mod headers;
mod link;
mod live;
mod node;
mod older;
mod quotes;
mod random;
mod refusing;
mod roles;
mod shown;
mod sources;
mod stage;
mod translated;
mod transports;
