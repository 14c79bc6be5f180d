//! Block formats: layout, size, reference decode and encode. Slow, obvious, the oracle of everything faster.
//!
//! A tensor's row is a run of blocks; a block holds [`Kind::block`] numbers in [`Kind::bytes`] bytes. Layouts and
//! decoded values are GGUF's, bit for bit.
#![forbid(unsafe_code)]

pub mod block;
mod kind;
mod recipe;
mod search;

pub use kind::{Format, Kind};
pub use recipe::{Raised, Recipe};
