//! The loop.
#![forbid(unsafe_code)]
