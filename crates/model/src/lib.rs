//! The forward pass: one ragged batch in, choices and logits out.
#![forbid(unsafe_code)]

pub mod batch;
