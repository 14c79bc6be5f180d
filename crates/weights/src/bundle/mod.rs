//! The tamp bundle: one file that loads by a map alone. It holds the matrices as a device wants them, the tokenizer,
//! the chat template, the metadata, and a manifest with a hash of every part.
//!
//! ```text
//! header     64 bytes: magic, container version, 0, manifest offset, manifest length, blake3 of the manifest
//! sections   each at a multiple of 64; `weights` at a multiple of 4096
//! manifest   JSON, the last bytes of the file
//! ```
//!
//! A packed matrix is opaque here: bytes with a kind, rows, columns and the name of their layout. What a layout means
//! is known to the device that packed it.

mod check;
mod manifest;
mod read;
mod write;

pub use check::Watch;
pub use manifest::{
    Behavior, Conditioning, Draft, KIND, Manifest, Origin, PlanHints, ROWS, Section, Tap, TapNorm, TensorRow,
    VERSION,
};
pub(crate) use read::open;
pub use read::{Bundle, Packed};
pub use write::{About, Writer};

/// The first eight bytes.
pub const MAGIC: &[u8; 8] = b"tampbndl";
/// Bytes of the header.
pub(crate) const HEADER: usize = 64;
/// Every section and every tensor starts at a multiple of this.
pub(crate) const ALIGN: usize = 64;
/// The weights start at a multiple of this: a page, so that no page of them holds anything else.
pub(crate) const WEIGHTS_ALIGN: usize = 4096;
/// Longest manifest, bytes: a model of 10 000 tensors stays under it, and reading the most wasteful one of this length
/// takes less memory than a hostile file is granted.
pub(crate) const MOST_MANIFEST: usize = 2 << 20;

/// Hashed at every load; the other sections as `docs/bundle.md` says.
pub(crate) const EAGER: [&str; 4] = ["config", "tokenizer", "template", "licences"];

/// The largest part hashed between two looks at whether to go on.
const STEP: usize = 1 << 20;

/// blake3 of bytes in hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Like [`hash`], telling how many bytes are done; `None` when told to stop.
pub(crate) fn hash_while(bytes: &[u8], go_on: &mut dyn FnMut(usize) -> bool) -> Option<String> {
    let mut h = blake3::Hasher::new();
    for part in bytes.chunks(STEP) {
        h.update(part);
        if !go_on(part.len()) {
            return None;
        }
    }
    Some(h.finalize().to_hex().to_string())
}
