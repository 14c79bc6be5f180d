//! Disjoint writes into one buffer from several workers.

use std::marker::PhantomData;

/// A slice that several workers write in parts that do not overlap.
#[derive(Clone, Copy)]
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise disjoint parts.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Takes the slice for the lifetime of the handle.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No other worker holds an overlapping part at the same time.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at <= self.len && len <= self.len - at, "part {at}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// Pointer to an element, for kernels; in bounds like [`SharedMut::slice`].
    pub fn at(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "element {at} of {}", self.len);
        self.start.wrapping_add(at)
    }
}
