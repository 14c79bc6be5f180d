//! Where a file's bytes are.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tamp_os::held::Held;
use tamp_os::map::Map;

use crate::error::{Error, Result};

/// The bytes of one file.
pub(crate) enum Bytes {
    /// in the file, paged in as they are read
    Mapped(Map),
    /// in memory
    Owned(Vec<u8>),
    /// shared with whoever uses them in place
    Held(Arc<Held>),
}

impl Bytes {
    pub fn open(path: &Path) -> Result<Bytes> {
        Map::open(path).map(Bytes::Mapped).map_err(Error::io(path))
    }

    pub fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(m) => m.bytes(),
            Bytes::Owned(v) => v,
            Bytes::Held(h) => h.bytes(),
        }
    }

    /// These bytes are not needed any more.
    pub fn release(&self, range: Range<usize>) {
        match self {
            Bytes::Mapped(m) => m.release(range),
            Bytes::Owned(_) => {}
            Bytes::Held(h) => {
                if let Some(m) = h.map() {
                    m.release(range);
                }
            }
        }
    }
}
