//! The vfu command.
fn main() {}
