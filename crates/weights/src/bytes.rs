//! Where a file's bytes are.

use std::ops::Range;
use std::path::Path;

use tamp_os::map::Map;

use crate::error::{Error, Result};

/// The bytes of one file.
pub(crate) enum Bytes {
    /// in the file, paged in as they are read
    Mapped(Map),
    /// in memory
    Owned(Vec<u8>),
}

impl Bytes {
    pub fn open(path: &Path) -> Result<Bytes> {
        Map::open(path).map(Bytes::Mapped).map_err(Error::io(path))
    }

    pub fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(m) => m.bytes(),
            Bytes::Owned(v) => v,
        }
    }

    /// These bytes are not needed any more.
    pub fn release(&self, range: Range<usize>) {
        match self {
            Bytes::Mapped(m) => m.release(range),
            Bytes::Owned(_) => {}
        }
    }
}
