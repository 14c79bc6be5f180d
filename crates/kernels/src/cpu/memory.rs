//! K and V of one group: `[page][layer][head]`, K as `[head_dim][16 keys]`, V as `[16 keys][head_dim]`.
//! Pages are outermost, so memory is touched as the context grows and not all at the first token.

use tamp_base::ids::{PAGE, PageId};
use tamp_formats::Kind;
use tamp_os::mem::Aligned;

use super::zeroed;
use crate::device::{DeviceError, KvShape, Move, Slot};
use crate::rung::Rung;

/// Pages of one KV group.
pub struct Pages {
    shape: KvShape,
    pages: usize,
    size: usize,
    k: Aligned<u8>,
    v: Aligned<u8>,
}

impl Pages {
    /// `pages` pages; memory is taken as pages are written.
    pub fn new(shape: &KvShape, pages: usize) -> Result<Self, DeviceError> {
        let size = match shape.kind {
            Kind::F16 => 2,
            Kind::F32 => 4,
            other => return Err(DeviceError::Unsupported { what: format!("KV pages of {other}") }),
        };
        let bytes = [shape.layers, pages, shape.heads, shape.head_dim, PAGE, size]
            .iter()
            .try_fold(1usize, |a, &b| a.checked_mul(b));
        let bytes = bytes.ok_or(DeviceError::Memory { bytes: usize::MAX, what: "KV pages" })?;
        Ok(Pages { shape: *shape, pages, size, k: zeroed(bytes, "KV pages")?, v: zeroed(bytes, "KV pages")? })
    }

    /// Element format.
    pub fn kind(&self) -> Kind {
        self.shape.kind
    }

    /// Bytes per element.
    pub fn size(&self) -> usize {
        self.size
    }

    /// First byte of a page's head, the same for K and V.
    fn head(&self, layer: usize, page: PageId, head: usize) -> usize {
        let page = page.0 as usize;
        assert!(layer < self.shape.layers && page < self.pages && head < self.shape.heads, "page {page}");
        ((page * self.shape.layers + layer) * self.shape.heads + head)
            * self.shape.head_dim
            * PAGE
            * self.size
    }

    /// K of one head of a page.
    pub fn k(&self, layer: usize, page: PageId, head: usize) -> *const u8 {
        self.k[self.head(layer, page, head)..].as_ptr()
    }

    /// V of one head of a page.
    pub fn v(&self, layer: usize, page: PageId, head: usize) -> *const u8 {
        self.v[self.head(layer, page, head)..].as_ptr()
    }

    /// A writer that several workers use on different slots or heads.
    pub fn writer(&mut self, layer: usize) -> Writer<'_> {
        let (k, v) = (self.k.as_mut_ptr(), self.v.as_mut_ptr());
        Writer { pages: self, layer, k, v }
    }

    /// Bytes of K (and of V) of one page.
    fn half(&self) -> usize {
        self.shape.layers * self.shape.heads * self.shape.head_dim * PAGE * self.size
    }

    /// Appends a page's K, then its V; nothing for a page that is none.
    pub fn read(&self, page: PageId, out: &mut Vec<u8>) {
        let at = page.0 as usize * self.half();
        for part in [&self.k, &self.v] {
            out.extend_from_slice(part.get(at..at + self.half()).unwrap_or(&[]));
        }
    }

    /// Replaces a page by what [`Pages::read`] gave.
    pub fn replace(&mut self, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        let (half, exists) = (self.half(), (page.0 as usize) < self.pages);
        if !exists || bytes.len() != 2 * half {
            let want = if exists { 2 * half } else { 0 };
            return Err(DeviceError::Page { page: page.0, want, got: bytes.len() });
        }
        let at = page.0 as usize * half;
        self.k[at..at + half].copy_from_slice(&bytes[..half]);
        self.v[at..at + half].copy_from_slice(&bytes[half..]);
        Ok(())
    }

    /// Copies positions, all layers, in order.
    pub fn copy(&mut self, moves: &[Move]) {
        let (hd, size) = (self.shape.head_dim, self.size);
        for m in moves {
            for layer in 0..self.shape.layers {
                for head in 0..self.shape.heads {
                    let (from, to) = (self.head(layer, m.from.page, head), self.head(layer, m.to.page, head));
                    let (a, b) = (m.from.offset as usize, m.to.offset as usize);
                    self.v.copy_within(from + a * hd * size..from + (a + 1) * hd * size, to + b * hd * size);
                    for d in 0..hd {
                        let at = from + (d * PAGE + a) * size;
                        self.k.copy_within(at..at + size, to + (d * PAGE + b) * size);
                    }
                }
            }
        }
    }
}

/// Writes K and V of single positions.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pages: &'a Pages,
    layer: usize,
    k: *mut u8,
    v: *mut u8,
}

// SAFETY: `write` promises that workers touch different (slot, head) pairs.
unsafe impl Send for Writer<'_> {}
// SAFETY: as above.
unsafe impl Sync for Writer<'_> {}

impl Writer<'_> {
    /// Stores one head's K and V of a position.
    ///
    /// # Safety
    /// No other worker writes the same slot and head at the same time; heads are a multiple of 16 wide.
    pub unsafe fn write(&self, rung: &Rung, slot: Slot, head: usize, k: &[f32], v: &[f32]) {
        let base = self.pages.head(self.layer, slot.page, head);
        let (hd, at) = (self.pages.shape.head_dim, slot.offset as usize);
        assert!(k.len() == hd && v.len() == hd && at < PAGE);
        // SAFETY: `head` checked the page, offsets stay within one head of it; disjoint by the caller's promise.
        unsafe {
            match self.pages.shape.kind {
                Kind::F32 => {
                    let (kp, vp) = (self.k.add(base).cast::<f32>(), self.v.add(base).cast::<f32>());
                    for d in 0..hd {
                        *kp.add(d * PAGE + at) = k[d];
                        *vp.add(at * hd + d) = v[d];
                    }
                }
                _ => {
                    let (kp, vp) = (self.k.add(base).cast::<u16>(), self.v.add(base).cast::<u16>());
                    (rung.to_half)(v.as_ptr(), hd, vp.add(at * hd));
                    let mut halves = [0u16; 16];
                    for (i, k) in k.chunks_exact(16).enumerate() {
                        (rung.to_half)(k.as_ptr(), 16, halves.as_mut_ptr());
                        for (j, h) in halves.iter().enumerate() {
                            *kp.add((16 * i + j) * PAGE + at) = *h;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_read_here_and_written_there_is_the_same_to_every_head() {
        for kind in [Kind::F16, Kind::F32] {
            let shape = KvShape { layers: 3, heads: 2, head_dim: 32, kind };
            let (mut a, mut b) = (Pages::new(&shape, 4).unwrap(), Pages::new(&shape, 6).unwrap());
            let rung = crate::rung::find("portable").unwrap();
            for (layer, head, at) in
                (0..3).flat_map(|l| (0..2).flat_map(move |h| (0..PAGE).map(move |at| (l, h, at))))
            {
                let row = |n: usize| -> Vec<f32> { (0..32).map(|d| (n * 100 + d) as f32 / 7.0).collect() };
                let n = (layer * 2 + head) * PAGE + at;
                let slot = Slot { page: PageId(2), offset: at as u8 };
                // SAFETY: one thread; heads are 32 wide.
                unsafe { a.writer(layer).write(rung, slot, head, &row(n), &row(n + 1000)) };
            }
            let mut bytes = vec![9];
            a.read(PageId(2), &mut bytes);
            assert_eq!(bytes.len() - 1, shape.page_bytes());
            b.replace(PageId(5), &bytes[1..]).unwrap();
            let half = 32 * PAGE * a.size();
            for (layer, head) in (0..3).flat_map(|l| (0..2).map(move |h| (l, h))) {
                let part = |p: *const u8| {
                    // SAFETY: a head of a page has `head_dim` times 16 elements, of K as of V.
                    unsafe { std::slice::from_raw_parts(p, half) }.to_vec()
                };
                assert_eq!(part(a.k(layer, PageId(2), head)), part(b.k(layer, PageId(5), head)));
                assert_eq!(part(a.v(layer, PageId(2), head)), part(b.v(layer, PageId(5), head)));
                assert!(part(b.k(layer, PageId(4), head)).iter().all(|&x| x == 0));
            }
            assert!(b.replace(PageId(6), &bytes[1..]).is_err(), "no such page");
            assert!(b.replace(PageId(0), &bytes).is_err(), "a byte too many");
        }
    }
}
