//! Rows of the buffers as several workers see them: each row, or part of one, belongs to one worker at a time.

use super::buf::{Acts, Plane, Quant};
use super::matmul::Inputs;
use crate::linear::Linear;
use crate::rows::Codes;
use crate::rung::Rung;
use crate::shared::SharedMut;

/// A plane's floats, shared by row.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: SharedMut<'a, f32>,
    acts: &'a Acts,
    /// floats from one row to the next
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a plane.
    pub fn new(p: &'a mut Plane) -> Self {
        Rows { stride: p.stride, data: SharedMut::new(&mut p.data), acts: &p.acts }
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
    acts: [&'a Acts; 2],
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
    fn new(q: &mut Quant) -> Self {
        SharedCodes { first: q.codes(), stride: q.stride(), block: q.block() }
    }
}

impl<'a> Quants<'a> {
    /// Both quantisations of a batch.
    pub fn new(q32: &'a mut Quant, q256: &'a mut Quant) -> Self {
        let codes = [SharedCodes::new(q32), SharedCodes::new(q256)];
        Quants { acts: [&q32.acts, &q256.acts], codes }
    }

    /// Quantises the 256 columns of row `r` from `from` on, the ways `for_` want it; `x` is where they are.
    pub fn chunk(&self, rung: &Rung, for_: &[&Linear], x: *const f32, r: usize, from: usize) {
        for c in &self.codes {
            if for_.iter().any(|w| w.kernel.kind.act_block() == c.block) {
                // SAFETY: rows are a multiple of 256 wide, zero behind their width; this part is this worker's.
                unsafe { (rung.quantise)(x, 256, c.block, c.first.at(r * c.stride + from, c.block)) };
            }
        }
    }

    /// The rows as a multiplication takes them.
    pub fn inputs(&self, x: Rows<'a>, rows: usize) -> Inputs<'a> {
        Inputs { q32: self.acts[0], q256: self.acts[1], x: x.acts, rows }
    }
}
