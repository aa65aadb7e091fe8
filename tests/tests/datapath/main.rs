//! T0: the whole decision, from the first byte of a frame to the verdict, as tables over ordinary memory.
//!
//! A row says in a sentence what has to become of a packet; each is one that a broken guardrail, a forgotten epoch or a
//! mistaken role gets wrong.

mod discovery;
mod echo;
mod epochs;
mod full;
mod headers;
mod live;
mod node;
mod older;
mod quotes;
mod random;
mod refusing;
mod roles;
mod sources;
mod stage;
mod translated;
mod transports;
