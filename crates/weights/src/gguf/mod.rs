//! GGUF: the parser, the writer, and files in several parts.
//!
//! Layout (little-endian): magic, version, tensor count, key count; the keys with typed values; the tensor list
//! (name, dimensions, type, offset); padding to `general.alignment`; the data. Source: the GGUF specification in
//! the ggml repository.

mod parse;
pub(crate) mod split;
mod value;
mod write;

pub(crate) use parse::parse_within;
pub use parse::{Parsed, parse};
pub use write::{Stream, write, write_to};

/// The first four bytes.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// `general.alignment` when the file does not say.
pub(crate) const ALIGNMENT: usize = 32;
