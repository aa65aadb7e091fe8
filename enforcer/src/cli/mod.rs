//! Command line: one file a command.

pub mod flows;
