//! The room `kv.codec`: how stored K and V elements are written.
//!
//! A codec is a format that every device's pages understand; it never changes bookkeeping.

mod f16;
mod f32;

use tamp_base::card::Table;
use tamp_formats::Kind;

/// The members. The default comes first; `f32` is the oracle the others are measured against.
pub static TABLE: Table<Kind, ()> = Table { room: "kv.codec", rows: &[&f16::ENTRY, &f32::ENTRY] };
