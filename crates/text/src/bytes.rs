//! Bytes that several owners share without copying: a mapped file, or memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A range of a shared byte source. Cloning costs a reference count; the source lives as long as its last range.
///
/// A mapped file backs it through [`Bytes::new`], so that what is read in place is never copied. A source that changes
/// its answer between calls can give wrong bytes, never a panic.
#[derive(Clone)]
pub struct Bytes {
    source: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of a source; none if the source is shorter.
    pub fn new(source: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*source).as_ref().get(range.clone())?;
        Some(Self { source, range })
    }

    /// The bytes themselves.
    pub fn as_slice(&self) -> &[u8] {
        (*self.source).as_ref().get(self.range.clone()).unwrap_or(&[])
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(v: Vec<u8>) -> Self {
        let range = 0..v.len();
        Self { source: Arc::new(v), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}
