//! Rows of the buffers as several workers see them: each row, or part of one, belongs to one worker at a time.

use super::buf::{Plane, Quant};
use super::matmul::Inputs;
use crate::linear::Linear;
use crate::rows::Codes;
use crate::rung::Rung;
use crate::shared::SharedMut;

/// A plane's floats, shared by row.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: SharedMut<'a, f32>,
    /// floats from one row to the next
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a plane.
    pub fn new(p: &'a mut Plane) -> Self {
        Rows { stride: p.stride, data: SharedMut::new(&mut p.data) }
    }

    /// Start of a row.
    pub fn at(&self, row: usize) -> *mut f32 {
        self.data.at(row * self.stride)
    }

    /// `len` floats of a row.
    ///
    /// # Safety
    /// No other worker holds this part.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, row: usize, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(row * self.stride + at, len) }
    }
}

/// Both quantisations of the batch's rows, shared by row.
pub struct Quants<'a> {
    q32: &'a Quant,
    q256: &'a Quant,
    codes: [SharedCodes; 2],
}

#[derive(Clone, Copy)]
struct SharedCodes {
    first: Codes,
    stride: usize,
    block: usize,
}

// SAFETY: rows are handed out once, so writes through the pointers never overlap.
unsafe impl Sync for SharedCodes {}
// SAFETY: as above.
unsafe impl Send for SharedCodes {}

impl SharedCodes {
    fn new(q: &mut Quant, stride: usize, block: usize) -> Self {
        SharedCodes { first: q.codes(0), stride, block }
    }

    /// Row `r` from column `from` on, a multiple of 256.
    fn at(&self, r: usize, from: usize) -> Codes {
        let at = r * self.stride + from;
        Codes {
            q: self.first.q.wrapping_add(at),
            d: self.first.d.wrapping_add(at / self.block),
            n8: self.first.n8.wrapping_add(at / 32),
            ds: self.first.ds.wrapping_add(at / 32),
            s32: self.first.s32.wrapping_add(at / 32),
            s16: self.first.s16.wrapping_add(at / 16),
        }
    }
}

impl<'a> Quants<'a> {
    /// Both quantisations of a batch.
    pub fn new(q32: &'a mut Quant, q256: &'a mut Quant) -> Self {
        let codes = [SharedCodes::new(q32, q32.stride(), 32), SharedCodes::new(q256, q256.stride(), 256)];
        Quants { q32, q256, codes }
    }

    /// Quantises the 256 columns of row `r` from `from` on, the ways `for_` want it; `x` is where they are.
    pub fn chunk(&self, rung: &Rung, for_: &[&Linear], x: *const f32, r: usize, from: usize) {
        for c in self.codes {
            if for_.iter().any(|w| w.kernel.kind.act_block() == c.block) {
                // SAFETY: rows are a multiple of 256 wide, zero behind their width; this part is this worker's.
                unsafe { (rung.quantise)(x, 256, c.block, c.at(r, from)) };
            }
        }
    }

    /// The rows as a multiplication takes them.
    pub fn inputs(&self, x: Rows<'_>, rows: usize) -> Inputs<'_> {
        Inputs { q32: self.q32, q256: self.q256, x: x.at(0), stride: x.stride, rows }
    }
}
