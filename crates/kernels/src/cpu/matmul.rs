//! Matrix times rows: tiles are shared over workers, rows go through the kernels a few at a time.

use super::Vector;
use super::buf::Acts;
use super::parts::Rows;
use crate::linear::Linear;
use crate::rung::{GemmFn, WIDEST};
use crate::tile::{Act, Out, ROWS};

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
    pub q32: &'a Acts,
    /// int8 per 256
    pub q256: &'a Acts,
    /// floats
    pub x: &'a Acts,
    /// rows
    pub rows: usize,
}

impl Inputs<'_> {
    /// `t` rows from `r` on as the format of `w` wants them.
    fn acts(&self, w: &Linear, r: usize, t: usize) -> *const Act {
        let acts = match w.kernel.kind.act_block() {
            256 => self.q256,
            32 => self.q32,
            _ => self.x,
        };
        acts.from(r, t)
    }
}

/// Grain of sharing for tiles of `bytes` bytes: even, so that tiles go in pairs.
pub fn grain(bytes: usize) -> usize {
    (STEAL_BYTES / bytes.max(1)).clamp(2, 64).next_multiple_of(2)
}

/// Multiplies tiles `first..first + count` of `w` with all rows into `to`, whose rows have room for whole tiles; biases
/// are padded to whole tiles.
///
/// # Safety
/// These tiles of `to` are this worker's.
pub unsafe fn multiply_into(
    w: &Linear,
    first: usize,
    count: usize,
    inputs: &Inputs<'_>,
    to: Rows<'_>,
    bias: Option<&Vector>,
    add: bool,
) {
    let whole = (w.rows / ROWS).clamp(first, first + count);
    walk(w, first, whole, usize::MAX, inputs, |call| {
        let at = call.tile * ROWS;
        let bias = bias.map_or(std::ptr::null(), |b| b.ptr().wrapping_add(at));
        let to_row = to.at(call.row).wrapping_add(at);
        let out = Out { to: to_row, stride: to.stride, bias, add, turn: call.turn, turns: call.turns };
        // SAFETY: whole tiles lie within a row; the caller's promise.
        unsafe { call.run(&out) };
    });
    // A ragged last tile goes through a copy: the padding behind a row's width stays zero whatever comes out.
    multiply(w, whole, first + count - whole, inputs, |tile, r, values| {
        // SAFETY: the caller's promise.
        let to = unsafe { to.part(r, tile * ROWS, w.rows - tile * ROWS) };
        for (i, to) in to.iter_mut().enumerate() {
            let sum = values[i] + bias.map_or(0.0, |b| b.data[tile * ROWS + i]);
            *to = if add { *to + sum } else { sum };
        }
    });
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
    let mut results = [[[0f32; ROWS]; RUN]; WIDEST];
    walk(w, first, first + count, RUN, inputs, |call| {
        let (to, stride, (turn, turns)) = (results.as_mut_ptr().cast(), RUN * ROWS, (call.turn, call.turns));
        // SAFETY: there is room for RUN tiles of as many rows as any kernel takes.
        unsafe { call.run(&Out { to, stride, bias: std::ptr::null(), add: false, turn, turns }) };
        for i in 0..call.tiles {
            for (j, row) in results[..call.rows].iter().enumerate() {
                sink(call.tile + i, call.row + j, &row[i]);
            }
        }
    });
}

/// One call of a kernel.
struct Call<'a> {
    kernel: GemmFn,
    w: &'a Linear,
    /// first tile
    tile: usize,
    tiles: usize,
    /// first row
    row: usize,
    rows: usize,
    acts: *const Act,
    /// see [`Out::turn`]
    turn: usize,
    turns: usize,
}

impl Call<'_> {
    /// # Safety
    /// `out` has room for the tiles in every row.
    unsafe fn run(&self, out: &Out) {
        let (w, from) = (self.w, self.w.tile(self.tile));
        // SAFETY: the tiles are packed for this kernel and as many as it takes at once, the rows cover their columns,
        // and the rung was available when it was chosen.
        unsafe { (self.kernel)(from, self.tiles, w.supers, self.acts, out) }
    }
}

/// Cuts tiles `first..end` and all rows into kernel calls of at most `run` tiles.
///
/// Few rows: the tiles stream through the cache once. Many rows: blocks of them stay in the second-level cache while a
/// run of tiles that fits the third passes by.
fn walk(w: &Linear, first: usize, end: usize, run: usize, inputs: &Inputs<'_>, mut f: impl FnMut(&Call<'_>)) {
    let widest = w.kernel.widest();
    if inputs.rows <= widest {
        return block(w, (first, end, run), (0, inputs.rows), (0, 1), inputs, &mut f);
    }
    let tiles = (RUN_BYTES / w.tile_bytes().max(1)).next_multiple_of(2).max(2);
    let rows = (BLOCK_BYTES / w.cols.max(1)).max(2 * widest);
    for from in (first..end).step_by(tiles) {
        let to = end.min(from + tiles);
        for row in (0..inputs.rows).step_by(rows) {
            for tile in (from..to).step_by(2) {
                groups(row, inputs.rows.min(row + rows), widest, |at, n, turns| {
                    block(w, (tile, to.min(tile + 2), run), (at, n), turns, inputs, &mut f);
                });
            }
        }
    }
}

/// Cuts rows `from..to` into groups of at most `widest`, as even as can be: `f(first row, rows, (group, groups))`.
fn groups(from: usize, to: usize, widest: usize, mut f: impl FnMut(usize, usize, (usize, usize))) {
    let rows = to - from;
    let count = rows.div_ceil(widest);
    let mut at = from;
    for i in 0..count {
        let n = rows / count + usize::from(i < rows % count);
        f(at, n, (i, count));
        at += n;
    }
}

/// Tiles `from..to`, at most `run` a call, with `rows` rows from `row` on, at most as many as a kernel takes.
fn block(
    w: &Linear,
    (from, to, run): (usize, usize, usize),
    (row, rows): (usize, usize),
    (turn, turns): (usize, usize),
    inputs: &Inputs<'_>,
    f: &mut impl FnMut(&Call<'_>),
) {
    let mut tile = from;
    while tile < to {
        let mut tiles = (to - tile).min(run);
        let kernel = |table: &[Option<GemmFn>], t: usize| table.get(t - 1).copied().flatten();
        let paired = tiles > 1 && inputs.rows > STREAMED && kernel(&w.kernel.paired, rows).is_some();
        let table = if paired { &w.kernel.paired } else { &w.kernel.single };
        if paired {
            tiles -= tiles % 2;
        }
        let mut done = 0;
        while done < rows {
            let mut t = rows - done;
            while t > 1 && kernel(table, t).is_none() {
                t -= 1;
            }
            if let Some(kernel) = kernel(table, t) {
                let acts = inputs.acts(w, row + done, t);
                f(&Call { kernel, w, tile, tiles, row: row + done, rows: t, acts, turn, turns });
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
                groups(5, 5 + rows, widest, |from, n, _| {
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
