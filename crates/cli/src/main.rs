//! The `tamp` program.
fn main() {}
