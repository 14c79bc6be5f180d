//! Memory for many matrices: parts of a few large mappings.
//!
//! A small buffer of its own is cleared twice, once by the system and once by the allocator, a 4 KB page at a time. Parts
//! of one mapping share huge pages, and whoever fills a part is the first to touch it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use crate::mem::{ALIGN, Aligned, HUGE_FROM, HUGE_PAGE};

/// Bytes of a mapping. The last huge page of each is used in part only: half a page of sixteen.
const CHUNK: usize = 32 << 20;

/// Hands out zeroed memory that is given back to the system when the last part of a mapping is dropped.
#[derive(Debug, Default)]
pub struct Arena {
    open: Mutex<Option<Open>>,
}

/// The mapping that parts are cut from.
#[derive(Debug)]
struct Open {
    chunk: Arc<Aligned<u8>>,
    /// bytes handed out
    used: usize,
    /// bytes whose pages somebody was told to enter
    entered: usize,
}

/// Bytes of an [`Arena`], at a 64-byte boundary and zero at first.
#[derive(Debug)]
pub struct Part {
    chunk: Arc<Aligned<u8>>,
    at: usize,
    len: usize,
}

/// Huge pages that no part has touched yet.
#[derive(Debug)]
pub struct Cold {
    chunk: Arc<Aligned<u8>>,
    at: usize,
    pages: usize,
}

impl Arena {
    /// `len` zeros, and the pages that should be entered before they are filled: those under them, and then as many as
    /// make `together`, so that as many threads clear one each instead of all waiting for the same one.
    pub fn part(&self, len: usize, together: usize) -> io::Result<(Part, Cold)> {
        // A mapping per part where the system clears it whole at once.
        if len >= HUGE_FROM || cfg!(not(target_os = "linux")) {
            return Ok(whole(Arc::new(Aligned::zeroed(len)?), len));
        }
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        let room = len.next_multiple_of(ALIGN);
        if open.as_ref().is_none_or(|o| o.used + room > CHUNK) {
            let Ok(chunk) = Aligned::zeroed(CHUNK) else {
                return Ok(whole(Arc::new(Aligned::zeroed(len)?), len));
            };
            *open = Some(Open { chunk: Arc::new(chunk), used: 0, entered: 0 });
        }
        let Some(o) = open.as_mut() else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let (at, from) = (o.used, o.entered);
        o.used += room;
        if o.used > o.entered {
            let ahead = from + together * HUGE_PAGE;
            o.entered = o.used.max(ahead).next_multiple_of(HUGE_PAGE).min(CHUNK);
        }
        let pages = (o.entered - from) / HUGE_PAGE;
        Ok((Part { chunk: o.chunk.clone(), at, len }, Cold { chunk: o.chunk.clone(), at: from, pages }))
    }
}

fn whole(chunk: Arc<Aligned<u8>>, len: usize) -> (Part, Cold) {
    (Part { chunk: chunk.clone(), at: 0, len }, Cold { chunk, at: 0, pages: 0 })
}

impl Cold {
    /// How many.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Has the system clear page `i < pages` now; nothing happens where it cannot be asked to. Never changes a byte, so
    /// others may use the memory meanwhile.
    pub fn enter(&self, i: usize) {
        assert!(i < self.pages, "page {i} of {}", self.pages);
        self.chunk.populate(self.at + i * HUGE_PAGE, HUGE_PAGE);
    }
}

impl Deref for Part {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the part lies within the chunk, which lives as long; no other part overlaps it, and nobody reads or
        // writes a chunk but through its parts.
        unsafe { std::slice::from_raw_parts(self.chunk.start().add(self.at), self.len) }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.start().add(self.at), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_zero_disjoint_and_writable_to_the_last_byte() {
        // Not while others count this process' memory.
        let _alone = crate::HEAVY.lock();
        let arena = Arena::default();
        let sizes =
            [0, 1, 63, 64, 65, 4096, HUGE_PAGE - 1, HUGE_PAGE + 1, HUGE_FROM - 1, HUGE_FROM, CHUNK + 5];
        let mut parts = vec![];
        for (i, len) in sizes.iter().cycle().take(60).enumerate() {
            let (mut part, cold) = arena.part(*len, i % 4).unwrap();
            assert_eq!((part.len(), part.as_ptr().addr() % ALIGN), (*len, 0));
            (0..cold.pages()).for_each(|i| cold.enter(i));
            assert!(part.iter().all(|&b| b == 0), "{i}");
            part.fill(i as u8 + 1);
            parts.push(part);
        }
        for (i, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|&b| b == i as u8 + 1), "{i}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_huge_page_is_entered_once_and_before_a_part_on_it_is_filled() {
        let arena = Arena::default();
        let (mut entered, mut end) = (0, 0);
        for i in 0..200 {
            let (part, cold) = arena.part(100_000 + 64 * i, 3).unwrap();
            if part.at == 0 {
                (entered, end) = (0, 0);
            }
            assert!(part.at >= end);
            end = part.at + part.len;
            assert_eq!(cold.at, entered);
            entered += cold.pages() * HUGE_PAGE;
            assert!((end..=CHUNK).contains(&entered), "{entered} of {end}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_given_back_with_the_last_part_of_a_mapping() {
        let _alone = crate::HEAVY.lock();
        let before = crate::memory::rss_exact().anonymous;
        for _ in 0..8 {
            let arena = Arena::default();
            let parts: Vec<_> = (0..10)
                .map(|_| {
                    let mut part = arena.part(HUGE_FROM - 1, 2).unwrap().0;
                    part.fill(1);
                    part
                })
                .collect();
            drop(arena);
            assert!(crate::memory::rss_exact().anonymous > before + (20 << 20));
            drop(parts);
        }
        let after = crate::memory::rss_exact().anonymous;
        assert!(after < before + (40 << 20), "{before} {after}");
    }
}
