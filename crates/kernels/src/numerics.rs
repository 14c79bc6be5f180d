//! The name of the arithmetic: results cached under one name are the bits that any build of that name gives.

/// The numerics id (DESIGN 5.7). Part of every prefix key; raised whenever a kernel gives other bits than before,
/// which `tests/numerics.rs` notices. Rungs do not differ, so none is named in it.
pub const NUMERICS: &str = "2";
