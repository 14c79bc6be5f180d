//! Matrix times rows: tiles are shared over workers, rows go through the kernels up to eight at a time.

use super::buf::Quant;
use crate::linear::Linear;
use crate::rung::WIDEST;
use crate::tile::{Act, ROWS};

/// Tiles a worker takes at once when stealing: about this many weight bytes (5–10 µs at 10–40 GB/s).
const STEAL_BYTES: usize = 128 << 10;
/// Consecutive tiles per kernel call.
const RUN: usize = 4;

/// The rows a matrix is multiplied with: quantised both ways, and as floats.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// int8 per 32
    pub q32: &'a Quant,
    /// int8 per 256
    pub q256: &'a Quant,
    /// `[rows]` floats
    pub x: *const f32,
    /// floats from row to row
    pub stride: usize,
    /// rows
    pub rows: usize,
}

// SAFETY: plain pointers into buffers that nobody writes while the multiplication runs.
unsafe impl Sync for Inputs<'_> {}
// SAFETY: as above.
unsafe impl Send for Inputs<'_> {}

impl Inputs<'_> {
    /// Row `r` as the format of `w` wants it.
    fn act(&self, w: &Linear, r: usize) -> Act {
        let quant = if w.kernel.kind.act_block() == 256 { self.q256 } else { self.q32 };
        quant.act(r, self.x.wrapping_add(r * self.stride))
    }
}

/// Grain of sharing for tiles of `bytes` bytes.
pub fn grain(bytes: usize) -> usize {
    (STEAL_BYTES / bytes.max(1)).clamp(1, 64)
}

/// Multiplies tiles `first..first + count` of `w` with all rows and hands every result of 16 outputs to
/// `sink(tile, row, values)`.
pub fn multiply(
    w: &Linear,
    first: usize,
    count: usize,
    inputs: &Inputs<'_>,
    mut sink: impl FnMut(usize, usize, &[f32; ROWS]),
) {
    let mut out = [[0f32; ROWS]; RUN * WIDEST];
    // Few rows: long runs of tiles stream the weights. Many rows: one tile stays in cache for all of them.
    let run = if inputs.rows <= WIDEST { RUN } else { 1 };
    let mut tile = first;
    while tile < first + count {
        let tiles = run.min(first + count - tile);
        let mut row = 0;
        while row < inputs.rows {
            let left = (inputs.rows - row).min(WIDEST);
            let mut t = left;
            while t > 1 && w.kernel.by_width[t - 1].is_none() {
                t -= 1;
            }
            let acts: [Act; WIDEST] = std::array::from_fn(|i| inputs.act(w, row + i.min(t - 1)));
            if let Some(kernel) = w.kernel.by_width[t - 1] {
                // SAFETY: the tiles are packed for this kernel, the rows cover their columns, `out` has room for
                // RUN × WIDEST results, and the rung was available when it was chosen.
                unsafe { kernel(w.tile(tile), tiles, w.supers, acts.as_ptr(), out.as_mut_ptr().cast()) };
            }
            for i in 0..tiles {
                for j in 0..t {
                    sink(tile + i, row + j, &out[i * t + j]);
                }
            }
            row += t;
        }
        tile += tiles;
    }
}
