//! Read-only file maps whose pages can be given back.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

/// A whole file, mapped read-only and private.
///
/// # The file must not shrink
///
/// A file that is truncated while it is mapped takes its pages along: the next read of a lost page is a signal
/// (`SIGBUS`; an exception on Windows) that ends the process, not an error value. Files overwritten in place change
/// under the reader. Replacing a file by renaming a new one over it is safe: the map keeps the old one. Ask
/// [`Map::unchanged`] between uses, or read the file into memory where others may write to it.
#[derive(Debug)]
pub struct Map {
    /// None for an empty file, which no system maps.
    map: Option<Mmap>,
    file: File,
    seen: Seen,
    identity: Identity,
}

/// What a change to the file would alter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    len: u64,
    modified: Option<SystemTime>,
}

impl Seen {
    fn of(meta: &Metadata) -> Self {
        Self { len: meta.len(), modified: meta.modified().ok() }
    }
}

/// What tells a file's present content from another without reading it. Where the system has no device and inode
/// numbers both are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// number of the device
    pub device: u64,
    /// number of the file on it
    pub inode: u64,
    /// bytes
    pub size: u64,
    /// last change, nanoseconds since 1970; 0 where the system does not say
    pub modified_ns: u64,
}

impl Identity {
    /// Of an open file's metadata.
    pub fn of(meta: &Metadata) -> Self {
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (meta.dev(), meta.ino())
        };
        #[cfg(not(unix))]
        let (device, inode) = (0, 0);
        let modified = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let modified_ns = modified.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0);
        Identity { device, inode, size: meta.len(), modified_ns }
    }
}

impl Map {
    /// Maps the file at `path`. Directories, devices and files over the address space are errors.
    pub fn open(path: &Path) -> io::Result<Map> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            ));
        }
        let len = usize::try_from(meta.len()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::OutOfMemory,
                format!("{} has {} bytes, more than this machine can address", path.display(), meta.len()),
            )
        })?;
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private, so this process never writes through it; changes by others
            // are the hazard documented on the type, which the caller accepts.
            Some(unsafe { MmapOptions::new().len(len).map_copy_read_only(&file)? })
        };
        Ok(Map { map, file, seen: Seen::of(&meta), identity: Identity::of(&meta) })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether length and modification time are still those at opening; false too where the system cannot say.
    pub fn unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|m| Seen::of(&m) == self.seen)
    }

    /// The file as it was at opening.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Enters the pages of `range` (bytes, cut to the map) into the page table, so that no later read of them faults.
    /// Waits for pages that must come from the disk. Does nothing where the system has no such call.
    pub fn populate(&self, range: Range<usize>) {
        let inside = cut(range, self.len());
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.map
            && !inside.is_empty()
        {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, inside.start, inside.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = inside;
    }

    /// Gives the whole pages inside `range` (bytes) back; reading them again fetches them from the file.
    ///
    /// The range is cut to the map, and pages only partly inside stay. Does nothing where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        let page = page_size();
        let inside = cut(range, self.len());
        let start = inside.start.next_multiple_of(page);
        // The file's last page belongs to no one else, so an end at the file's end covers it whole.
        let end = if inside.end == self.len() { inside.end } else { inside.end / page * page };
        #[cfg(unix)]
        if let Some(map) = &self.map
            && start < end
        {
            // SAFETY: dropped pages of a private map that was never written come back from the file with the same
            // bytes, so no reader of `bytes` can see a difference.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
        #[cfg(not(unix))]
        let _ = (start, end);
    }

    /// Asks the system to read `range` (bytes, cut to the map) ahead of its use. A hint: nothing waits for it.
    pub fn will_need(&self, range: Range<usize>) {
        let inside = cut(range, self.len());
        #[cfg(unix)]
        if let Some(map) = &self.map
            && !inside.is_empty()
        {
            let _ = map.advise_range(memmap2::Advice::WillNeed, inside.start, inside.len());
        }
        #[cfg(not(unix))]
        let _ = inside;
    }
}

fn cut(range: Range<usize>, len: usize) -> Range<usize> {
    let end = range.end.min(len);
    range.start.min(end)..end
}

/// Bytes per page of virtual memory; 4096 where the system does not say.
pub fn page_size() -> usize {
    #[cfg(unix)]
    {
        // SAFETY: sysconf only reads its argument.
        let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(n).ok().filter(|n| n.is_power_of_two()).unwrap_or(4096)
    }
    #[cfg(not(unix))]
    4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(bytes).unwrap();
        f.flush().unwrap();
        f
    }

    fn noise(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
    }

    #[test]
    fn a_map_shows_the_files_bytes_before_and_after_any_release() {
        let want = noise(10 * page_size() + 77);
        let f = file_of(&want);
        let map = Map::open(f.path()).unwrap();
        assert_eq!(map.bytes(), &want[..]);
        let ends = [0, 1, page_size(), page_size() + 1, want.len() - 1, want.len(), usize::MAX];
        for a in ends {
            for b in ends {
                map.release(a..b);
                map.will_need(a..b);
                map.populate(a..b);
                assert!(map.bytes() == &want[..], "{a}..{b}");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_pages_leave_the_resident_set() {
        let _alone = crate::HEAVY.lock();
        let want = noise(64 << 20);
        let f = file_of(&want);
        let map = Map::open(f.path()).unwrap();
        let resident = || crate::memory::rss_exact().file;
        let before = resident();
        assert!(map.bytes() == &want[..]);
        let touched = resident();
        map.release(0..map.len());
        let after = resident();
        assert!(touched > before + (60 << 20), "{before} {touched}");
        assert!(after < before + (4 << 20), "{before} {after}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn populated_pages_are_resident_before_anybody_reads_them() {
        let _alone = crate::HEAVY.lock();
        let f = file_of(&noise(64 << 20));
        let map = Map::open(f.path()).unwrap();
        let before = crate::memory::rss_exact().file;
        map.populate(0..map.len());
        let after = crate::memory::rss_exact().file;
        assert!(after > before + (60 << 20), "{before} {after}");
    }

    #[test]
    fn an_identity_tells_files_and_their_changes_apart() {
        let (mut a, b) = (file_of(&noise(100)), file_of(&noise(100)));
        let of = |f: &tempfile::NamedTempFile| Map::open(f.path()).unwrap().identity();
        let first = of(&a);
        assert_eq!(first, of(&a));
        assert_eq!(first.size, 100);
        if cfg!(unix) {
            assert_ne!(first.inode, of(&b).inode);
        }
        a.write_all(b"x").unwrap();
        a.flush().unwrap();
        assert_ne!(first, of(&a));
    }

    #[test]
    fn an_empty_file_is_an_empty_map_and_a_folder_is_an_error() {
        let f = file_of(b"");
        let map = Map::open(f.path()).unwrap();
        assert!(map.is_empty());
        map.release(0..10);
        map.will_need(0..10);
        assert!(Map::open(Path::new("/")).is_err());
        assert!(Map::open(&f.path().join("missing")).is_err());
    }

    #[test]
    fn a_change_of_length_is_noticed() {
        let mut f = file_of(&noise(100));
        let map = Map::open(f.path()).unwrap();
        assert!(map.unchanged());
        f.write_all(b"more").unwrap();
        f.flush().unwrap();
        assert!(!map.unchanged());
    }
}
