//! Matrix times rows: tiles are shared over workers, rows go through the kernels up to eight at a time.

use super::buf::Quant;
use crate::linear::Linear;
use crate::rung::WIDEST;
use crate::tile::{Act, ROWS};

/// Tiles a worker takes at once when stealing: about this many weight bytes (5–10 µs at 10–40 GB/s).
const STEAL_BYTES: usize = 128 << 10;
/// Consecutive tiles per kernel call.
const RUN: usize = 4;
/// Up to this many rows memory bounds the product, and one stream of weights per worker is read faster than two
/// (decode of a 135M model: 1.14 times as fast).
const STREAMED: usize = 4;
/// Codes of the rows that a run of tiles is multiplied with: half of a second-level cache.
const BLOCK_BYTES: usize = 512 << 10;
/// Weights of such a run.
const RUN_BYTES: usize = 1 << 20;

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

/// Grain of sharing for tiles of `bytes` bytes: even, so that tiles go in pairs.
pub fn grain(bytes: usize) -> usize {
    (STEAL_BYTES / bytes.max(1)).clamp(2, 64).next_multiple_of(2)
}

/// Multiplies tiles `first..first + count` of `w` with all rows and hands every result of 16 outputs to
/// `sink(tile, row, values)`.
///
/// Few rows: runs of tiles stream through the cache once. Many rows: blocks of them stay in the second-level cache
/// while a run of tiles that fits the third passes by.
pub fn multiply(
    w: &Linear,
    first: usize,
    count: usize,
    inputs: &Inputs<'_>,
    mut sink: impl FnMut(usize, usize, &[f32; ROWS]),
) {
    let end = first + count;
    let widest = w.kernel.widest();
    if inputs.rows <= widest {
        return block(w, first, end, 0, inputs.rows, inputs, &mut sink);
    }
    let tiles = (RUN_BYTES / w.tile_bytes().max(1)).next_multiple_of(2).max(2);
    let rows = (BLOCK_BYTES / w.cols.max(1)).max(2 * widest);
    for from in (first..end).step_by(tiles) {
        let to = end.min(from + tiles);
        for row in (0..inputs.rows).step_by(rows) {
            let mut tile = from;
            while tile < to {
                let next = to.min(tile + 2);
                groups(row, inputs.rows.min(row + rows), widest, |at, n| {
                    block(w, tile, next, at, n, inputs, &mut sink);
                });
                tile = next;
            }
        }
    }
}

/// Cuts rows `from..to` into groups of at most `widest`, as even as can be.
fn groups(from: usize, to: usize, widest: usize, mut f: impl FnMut(usize, usize)) {
    let rows = to - from;
    let count = rows.div_ceil(widest);
    let mut at = from;
    for i in 0..count {
        let n = rows / count + usize::from(i < rows % count);
        f(at, n);
        at += n;
    }
}

/// Tiles `from..to` with `rows` rows from `row` on, at most as many as a kernel takes.
fn block(
    w: &Linear,
    from: usize,
    to: usize,
    row: usize,
    rows: usize,
    inputs: &Inputs<'_>,
    sink: &mut impl FnMut(usize, usize, &[f32; ROWS]),
) {
    let mut out = [[0f32; ROWS]; RUN * WIDEST];
    let mut tile = from;
    while tile < to {
        let mut tiles = (to - tile).min(RUN);
        let paired = tiles > 1 && rows > STREAMED && w.kernel.paired[0].is_some();
        let table = if paired { &w.kernel.paired } else { &w.kernel.single };
        if paired {
            tiles -= tiles % 2;
        }
        let mut done = 0;
        while done < rows {
            let mut t = rows - done;
            while t > 1 && table.get(t - 1).copied().flatten().is_none() {
                t -= 1;
            }
            let acts: [Act; WIDEST] = std::array::from_fn(|i| inputs.act(w, row + done + i.min(t - 1)));
            if let Some(kernel) = table[t - 1] {
                // SAFETY: the tiles are packed for this kernel and as many as it takes at once, the rows cover their
                // columns, `out` has room for RUN × WIDEST results, and the rung was available when it was chosen.
                unsafe { kernel(w.tile(tile), tiles, w.supers, acts.as_ptr(), out.as_mut_ptr().cast()) };
            }
            for i in 0..tiles {
                for j in 0..t {
                    sink(tile + i, row + done + j, &out[i * t + j]);
                }
            }
            done += t;
        }
        tile += tiles;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_every_row_once_and_differ_by_one_at_most() {
        for widest in 1..8 {
            for rows in 1..70 {
                let (mut at, mut sizes) = (5, vec![]);
                groups(5, 5 + rows, widest, |from, n| {
                    assert_eq!(from, at);
                    at += n;
                    sizes.push(n);
                });
                assert_eq!(at, 5 + rows);
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert!(*most <= widest && most - least <= 1, "{sizes:?}");
            }
        }
    }
}
