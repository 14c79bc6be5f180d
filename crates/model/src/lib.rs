//! The forward pass.
#![forbid(unsafe_code)]
