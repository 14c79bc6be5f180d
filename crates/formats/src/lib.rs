//! Block formats: layout, size, reference decode and encode. Slow, obvious, the oracle of everything faster.
#![forbid(unsafe_code)]

mod kind;

pub use kind::{Format, Kind};
