//! Where a file's bytes are.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of one file.
pub(crate) enum Bytes {
    /// in memory
    Owned(Vec<u8>),
}

impl Bytes {
    pub fn open(path: &Path) -> Result<Bytes> {
        std::fs::read(path).map(Bytes::Owned).map_err(Error::io(path))
    }

    pub fn get(&self) -> &[u8] {
        match self {
            Bytes::Owned(v) => v,
        }
    }

    /// These bytes are not needed any more.
    pub fn release(&self, _range: Range<usize>) {
        match self {
            Bytes::Owned(_) => {}
        }
    }
}
