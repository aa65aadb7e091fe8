//! Policy: YAML in, a valid model out.

pub mod model;
