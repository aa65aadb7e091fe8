//! Tests of the whole way from YAML to the model.

mod golden;
