//! Bytes of one file that several owners read: mapped, or copied into aligned memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::map::{Identity, Map};
use crate::mem::Aligned;

/// How a file that stays in use is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residency {
    /// In the page cache, shared with other processes; a file that changes underneath is a fault.
    #[default]
    Map,
    /// In memory of this process; nothing that happens to the file can touch it.
    Read,
}

enum Place {
    Mapped(Map),
    Memory(Aligned<u8>, Option<Identity>),
}

/// A whole file's bytes, starting at a 64-byte boundary.
pub struct Held(Place);

impl Held {
    /// Opens the file at `path`. Directories and devices are errors.
    pub fn open(path: &Path, residency: Residency) -> io::Result<Held> {
        if residency == Residency::Map {
            return Map::open(path).map(|m| Held(Place::Mapped(m)));
        }
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            let what = format!("{} is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let len = usize::try_from(meta.len()).unwrap_or(usize::MAX);
        let mut memory = Aligned::zeroed(len)?;
        // A file that shrank since is an error here, not a signal later.
        file.read_exact(&mut memory)?;
        Ok(Held(Place::Memory(memory, Some(Identity::of(&meta)))))
    }

    /// A copy of bytes that come from no file.
    pub fn copy(bytes: &[u8]) -> io::Result<Held> {
        Ok(Held(Place::Memory(Aligned::from_slice(bytes)?, None)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Mapped(m) => m.bytes(),
            Place::Memory(m, _) => m,
        }
    }

    /// The map, when the file is mapped.
    pub fn map(&self) -> Option<&Map> {
        match &self.0 {
            Place::Mapped(m) => Some(m),
            Place::Memory(..) => None,
        }
    }

    /// The file as it was at opening; none for bytes that come from no file.
    pub fn identity(&self) -> Option<Identity> {
        match &self.0 {
            Place::Mapped(m) => Some(m.identity()),
            Place::Memory(_, identity) => *identity,
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.map().is_some() { "mapped" } else { "in memory" };
        write!(f, "Held({} bytes, {how})", self.bytes().len())
    }
}

/// A range of a held file; clones share it.
#[derive(Clone, Debug)]
pub struct Span {
    of: Arc<Held>,
    range: Range<usize>,
}

impl Span {
    /// `range` (bytes) of a file; none when it does not lie within.
    pub fn new(of: Arc<Held>, range: Range<usize>) -> Option<Span> {
        (range.start <= range.end && range.end <= of.bytes().len()).then_some(Span { of, range })
    }

    /// Whether these bytes are pages of a mapped file and not memory of this process.
    pub fn mapped(&self) -> bool {
        self.of.map().is_some()
    }
}

impl Deref for Span {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.of.bytes()[self.range.clone()]
    }
}

impl AsRef<[u8]> for Span {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_holding_a_file_give_its_bytes_at_an_aligned_place() {
        let f = tempfile::NamedTempFile::new().unwrap();
        let want: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(f.path(), &want).unwrap();
        for residency in [Residency::Map, Residency::Read] {
            let held = Arc::new(Held::open(f.path(), residency).unwrap());
            assert_eq!((held.bytes(), held.bytes().as_ptr().addr() % 64), (&want[..], 0));
            assert_eq!(held.identity().unwrap().size, 10_000);
            let span = Span::new(held.clone(), 64..9_999).unwrap();
            assert_eq!((&span[..], span.mapped()), (&want[64..9_999], residency == Residency::Map));
            for bad in [0..10_001, usize::MAX - 1..usize::MAX] {
                assert!(Span::new(held.clone(), bad).is_none());
            }
        }
        assert!(Held::open(Path::new("/"), Residency::Read).is_err());
    }

    #[test]
    fn a_file_read_into_memory_outlives_what_happens_to_it() {
        let f = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(f.path(), [7; 5000]).unwrap();
        let held = Held::open(f.path(), Residency::Read).unwrap();
        std::fs::write(f.path(), b"").unwrap();
        assert!(held.bytes().iter().all(|&b| b == 7) && held.bytes().len() == 5000);
    }
}
