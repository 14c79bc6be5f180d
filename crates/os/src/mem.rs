//! Aligned, zeroed memory for numbers, backed by huge pages where they pay.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of every buffer in bytes: one cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// From this size (bytes) on, buffers are mapped on 2 MB boundaries and advised to be huge pages. Smaller ones would
/// waste most of their last huge page.
pub const HUGE_FROM: usize = 4 << 20;

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

mod sealed {
    pub trait Sealed {}
}

/// A plain number: any bit pattern is a value, all zero bits are 0.
pub trait Plain: sealed::Sealed + Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($t:ty)*) => { $( impl sealed::Sealed for $t {} impl Plain for $t {} )* };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// A slice of `T` at a 64-byte boundary, zero at first; see [`HUGE_FROM`] for large ones.
///
/// Pages of a large buffer take memory only once written.
pub struct Aligned<T: Plain> {
    start: NonNull<T>,
    len: usize,
    /// Bytes mapped from the system at `start`, or 0 when the buffer came from the allocator.
    mapped: usize,
}

// SAFETY: an `Aligned` owns its memory alone, and `T` is a plain number.
unsafe impl<T: Plain> Send for Aligned<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Plain> Sync for Aligned<T> {}

fn out_of_memory(len: usize, each: usize) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, format!("no memory for {len} elements of {each} bytes"))
}

impl<T: Plain> Aligned<T> {
    /// `len` zeros. An error when the system has no room for them or the size overflows.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let each = size_of::<T>();
        let bytes = len.checked_mul(each).filter(|&b| b <= isize::MAX as usize - ALIGN);
        let bytes = bytes.ok_or_else(|| out_of_memory(len, each))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_FROM {
            let (start, mapped) = map_huge(bytes).ok_or_else(|| out_of_memory(len, each))?;
            return Ok(Self { start: start.cast(), len, mapped });
        }
        let layout = Self::layout(bytes).ok_or_else(|| out_of_memory(len, each))?;
        // SAFETY: the layout's size is never zero (see `layout`).
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start.cast::<T>()).ok_or_else(|| out_of_memory(len, each))?;
        Ok(Self { start, len, mapped: 0 })
    }

    /// A copy of `from`.
    pub fn from_slice(from: &[T]) -> io::Result<Self> {
        let mut to = Self::zeroed(from.len())?;
        to.copy_from_slice(from);
        Ok(to)
    }

    /// Its first number, for parts that are handed out singly.
    pub(crate) fn start(&self) -> *mut T {
        self.start.as_ptr()
    }

    /// Has the system clear the pages under `len` bytes from byte `at` on now instead of at the first write. Does nothing
    /// where it cannot be asked to, and for a buffer from the allocator.
    pub(crate) fn populate(&self, at: usize, len: usize) {
        #[cfg(target_os = "linux")]
        if at.checked_add(len).is_some_and(|end| end <= self.mapped) {
            // SAFETY: within the mapping by the check; entering pages changes no byte.
            unsafe {
                libc::madvise(self.start.as_ptr().cast::<u8>().add(at).cast(), len, libc::MADV_POPULATE_WRITE)
            };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (at, len);
    }

    /// Never of size zero: an empty buffer takes one line, so that its pointer is aligned too.
    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes.max(ALIGN), ALIGN).ok()
    }
}

/// Maps `bytes` of zeros at a 2 MB boundary and returns them with the size mapped.
#[cfg(target_os = "linux")]
fn map_huge(bytes: usize) -> Option<(NonNull<u8>, usize)> {
    let size = bytes.checked_next_multiple_of(crate::map::page_size())?;
    let asked = size.checked_add(HUGE_PAGE)?;
    // SAFETY: a fresh private anonymous mapping at an address of the system's choice touches no existing memory.
    let raw = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            asked,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if raw == libc::MAP_FAILED {
        return None;
    }
    let raw = raw.cast::<u8>();
    let head = raw.addr().next_multiple_of(HUGE_PAGE) - raw.addr();
    let tail = asked - head - size;
    // SAFETY: head < HUGE_PAGE and head + size + tail = asked, so every address is inside the mapping just made; the
    // parts unmapped are whole pages that nobody has seen.
    unsafe {
        let start = raw.add(head);
        if head > 0 {
            libc::munmap(raw.cast(), head);
        }
        if tail > 0 {
            libc::munmap(start.add(size).cast(), tail);
        }
        // Refused where huge pages are off: the memory is as good, only slower to translate.
        libc::madvise(start.cast(), size, libc::MADV_HUGEPAGE);
        Some((NonNull::new(start)?, size))
    }
}

impl<T: Plain> Drop for Aligned<T> {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if self.mapped > 0 {
            // SAFETY: exactly the region that `map_huge` left mapped; nothing borrows it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
            return;
        }
        debug_assert_eq!(self.mapped, 0);
        if let Some(layout) = Self::layout(self.len * size_of::<T>()) {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is aligned and holds `len` initialised numbers for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned({} × {} bytes)", self.len, size_of::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Plain + PartialEq + Default + fmt::Debug>(len: usize, one: T) {
        let mut a = Aligned::<T>::zeroed(len).unwrap();
        assert_eq!(a.len(), len);
        assert_eq!(a.as_ptr().addr() % ALIGN, 0);
        assert!(a.iter().all(|x| *x == T::default()));
        a.fill(one);
        assert!(a.iter().all(|x| *x == one));
        assert_eq!(&Aligned::from_slice(&a).unwrap()[..], &a[..]);
    }

    #[test]
    fn buffers_of_every_size_are_aligned_zero_and_writable_to_the_last_element() {
        let huge = HUGE_FROM;
        for len in [0, 1, 63, 64, 65, 4096, huge - 1, huge, huge + 1, 3 * huge + 4097] {
            check::<u8>(len, 7);
        }
        for len in [0, 1, 1000, huge / 4 - 1, huge / 4, huge / 4 + 1] {
            check::<f32>(len, 1.5);
            check::<i32>(len, -1);
        }
        check::<u64>(huge / 8 + 3, u64::MAX);
        check::<u16>(17, 9);
        check::<i8>(17, -9);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn large_buffers_start_on_a_huge_page_and_return_their_memory() {
        let _alone = crate::HEAVY.lock();
        let before = crate::memory::rss_exact().anonymous;
        for _ in 0..8 {
            let mut a = Aligned::<u8>::zeroed(32 << 20).unwrap();
            assert_eq!(a.as_ptr().addr() % HUGE_PAGE, 0);
            a.fill(1);
        }
        // The other tests of this process hold little meanwhile; eight leaked buffers are 256 MB.
        let after = crate::memory::rss_exact().anonymous;
        assert!(after < before + (128 << 20), "{before} {after}");
    }

    #[test]
    fn a_size_that_cannot_be_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 8, 1 << 58] {
            let e = Aligned::<u64>::zeroed(len).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::OutOfMemory, "{len}");
        }
    }
}
