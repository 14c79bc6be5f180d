//! The phases of a layer on the CPU. Each is one fork-join; barriers inside it separate "rows made ready" from
//! "tiles multiplied" from "heads finished".

use std::ops::Range;
use std::sync::Mutex;

use tamp_base::ids::Token;

use super::attention;
use super::buf::Buf;
use super::matmul::{grain, multiply, multiply_into};
use super::memory::Pages;
use super::parts::{Quants, Rows};
use super::{Cpu, Vector};
use crate::device::{AttnWeights, Best, FfnWeights, Projection, Rope, RowMap};
use crate::linear::Linear;
use crate::pool::Worker;
use crate::rows::rotate;
use crate::rung::Rung;
use crate::shared::SharedMut;
use crate::tile::ROWS;

/// Looks up tokens, and prepares what depends on the batch alone: angles and attention tasks.
pub fn embed(cpu: &Cpu, table: &Linear, tokens: &[Token], rows: &RowMap, rope: &Rope, buf: &mut Buf) {
    attention::plan(rows, cpu.pool.threads(), buf);
    let d = buf.shape.d;
    let (x, cos, sin) = (Rows::new(&mut buf.x), Rows::new(&mut buf.cos), Rows::new(&mut buf.sin));
    cpu.pool.run(|w| {
        w.share(0, rows.rows(), 1, |range| {
            for r in range {
                // SAFETY: row r is handed out once.
                let (out, c, s) = unsafe {
                    (x.part(r, 0, d), cos.part(r, 0, rope.freq.len()), sin.part(r, 0, rope.freq.len()))
                };
                table.decode_row(tokens[r] as usize, out);
                for (i, f) in rope.freq.iter().enumerate() {
                    let angle = rows.pos[r] as f64 * f;
                    c[i] = (libm::cos(angle) * rope.scale as f64) as f32;
                    s[i] = (libm::sin(angle) * rope.scale as f64) as f32;
                }
            }
        });
    });
}

/// Phase A: norm → quantise → q, k, v → head norms, rope → write k, v.
pub fn project(
    cpu: &Cpu,
    w: &AttnWeights<Cpu>,
    rows: &RowMap,
    layer: usize,
    pages: &mut Pages,
    buf: &mut Buf,
) {
    let n = rows.rows();
    let (d, hd) = (buf.shape.d, w.shape.head_dim);
    let (x, normed) = (Rows::new(&mut buf.x), Rows::new(&mut buf.normed));
    let out = [Rows::new(&mut buf.q), Rows::new(&mut buf.k), Rows::new(&mut buf.v)];
    let (cos, sin) = (Rows::new(&mut buf.cos), Rows::new(&mut buf.sin));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    let parts = [&w.q, &w.k, &w.v];
    let linears = parts.map(|p| &p.w);
    let list = Tiles::new(&linears);
    let writer = pages.writer(layer);
    cpu.pool.run(|worker| {
        list.warm(cpu.rung, worker);
        let norm = Norm { w: &w.norm, eps: w.shape.eps, x, row: &|r| r };
        ready(cpu, worker, n, d, Some(norm), normed, &quants, &linears);
        worker.barrier();
        let inputs = quants.inputs(normed, n);
        list.share(worker, 1, |which, first, count| {
            let p = parts[which];
            // SAFETY: a tile is handed out once.
            unsafe { multiply_into(&p.w, first, count, &inputs, out[which], p.bias.as_ref(), false) };
        });
        worker.barrier();
        let (heads, kv_heads) = (w.shape.heads, w.shape.kv_heads);
        worker.share(2, n * (heads + kv_heads), 8, |range| {
            for unit in range {
                let (r, head) = (unit / (heads + kv_heads), unit % (heads + kv_heads));
                let pairs = w.shape.rope.freq.len();
                // SAFETY: a head of a row is handed out once; angles are only read.
                unsafe {
                    let (c, s) = (cos.part(r, 0, pairs), sin.part(r, 0, pairs));
                    let (rows_of, head, norm) = if head < heads {
                        (out[0], head, &w.q_norm)
                    } else {
                        (out[1], head - heads, &w.k_norm)
                    };
                    let part = rows_of.part(r, head * hd, hd);
                    if let Some(norm) = norm {
                        let p = part.as_mut_ptr();
                        (cpu.rung.scale)(p, (cpu.rung.rms)(p, w.shape.eps, hd), norm.ptr(), hd, p);
                    }
                    rotate(&mut part[..2 * pairs], c, s, w.shape.rope.pairing);
                    if unit % (heads + kv_heads) >= heads {
                        let v = out[2].part(r, head * hd, hd);
                        writer.write(cpu.rung, rows.slot(r), head, part, v);
                    }
                }
            }
        });
    });
}

/// Phase C: attention output projection, added to the residual.
pub fn output(cpu: &Cpu, o: &Projection<Cpu>, n: usize, buf: &mut Buf) {
    let width = buf.shape.q;
    let (x, att) = (Rows::new(&mut buf.x), Rows::new(&mut buf.att));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    add_projection(cpu, o, n, width, att, x, &quants);
}

/// Phase E: down projection, added to the residual.
pub fn down(cpu: &Cpu, down: &Projection<Cpu>, n: usize, buf: &mut Buf) {
    let width = buf.shape.ff;
    let (x, ff) = (Rows::new(&mut buf.x), Rows::new(&mut buf.ff));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    add_projection(cpu, down, n, width, ff, x, &quants);
}

fn add_projection(
    cpu: &Cpu,
    p: &Projection<Cpu>,
    n: usize,
    width: usize,
    from: Rows<'_>,
    x: Rows<'_>,
    quants: &Quants<'_>,
) {
    let linears = [&p.w];
    let list = Tiles::new(&linears);
    cpu.pool.run(|worker| {
        list.warm(cpu.rung, worker);
        ready(cpu, worker, n, width, None, from, quants, &linears);
        worker.barrier();
        let inputs = quants.inputs(from, n);
        list.share(worker, 1, |_, first, count| {
            // SAFETY: a tile is handed out once.
            unsafe { multiply_into(&p.w, first, count, &inputs, x, p.bias.as_ref(), true) };
        });
    });
}

/// Phase D: norm → quantise → gate, up → silu(gate) · up.
pub fn gate(cpu: &Cpu, w: &FfnWeights<Cpu>, n: usize, buf: &mut Buf) {
    let d = buf.shape.d;
    let (x, normed, ff) = (Rows::new(&mut buf.x), Rows::new(&mut buf.normed), Rows::new(&mut buf.ff));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    let linears = [&w.gate.w];
    let grain = grain(w.gate.w.tile_bytes() + w.up.w.tile_bytes());
    let list = Tiles { grain, ..Tiles::new(&linears) };
    cpu.pool.run(|worker| {
        list.warm(cpu.rung, worker);
        let norm = Norm { w: &w.norm, eps: w.eps, x, row: &|r| r };
        ready(cpu, worker, n, d, Some(norm), normed, &quants, &[&w.gate.w, &w.up.w]);
        worker.barrier();
        let inputs = quants.inputs(normed, n);
        list.share(worker, 1, |_, first, count| {
            // Gate and up of a few tiles after each other, so that the gate's results are still near.
            for tile in (first..first + count).step_by(4) {
                let count = (first + count - tile).min(4);
                // SAFETY: a tile is handed out once.
                unsafe { multiply_into(&w.gate.w, tile, count, &inputs, ff, w.gate.bias.as_ref(), false) };
                multiply(&w.up.w, tile, count, &inputs, |tile, r, values| {
                    let mut up = with_bias(&w.up, tile, values);
                    // Behind the width the gate is zero, but zero weights times NaN are not: nothing but zeros may
                    // stay there for the next batch.
                    up[ROWS.min(w.up.w.rows - tile * ROWS)..].fill(0.0);
                    // SAFETY: rows are a multiple of 256 wide, so 16 values from a tile's start are in bounds; this
                    // worker owns the tile.
                    unsafe { (cpu.rung.silu_mul)(ff.part(r, tile * ROWS, ROWS).as_mut_ptr(), up.as_ptr()) };
                });
            }
        });
    });
}

/// Final norm and head of some rows; best tokens, and logits of the rows in `full`.
pub fn head(
    cpu: &Cpu,
    norm: &Vector,
    eps: f32,
    head: &Linear,
    rows: &[usize],
    full: &[usize],
    buf: &mut Buf,
) -> Vec<Best> {
    let (d, vocab) = (buf.shape.d, head.rows);
    buf.logit_rows.clear();
    buf.logit_rows.extend_from_slice(full);
    let line: Vec<Option<usize>> = rows.iter().map(|r| full.iter().position(|f| f == r)).collect();
    let (x, normed) = (Rows::new(&mut buf.x), Rows::new(&mut buf.normed));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    let logits = SharedMut::new(&mut buf.logits);
    let none = Best { token: 0, logit: f32::NEG_INFINITY, nan: false };
    let best = Mutex::new(vec![none; rows.len()]);
    let linears = [head];
    let list = Tiles::new(&linears);
    cpu.pool.run(|worker| {
        list.warm(cpu.rung, worker);
        // Row i of `normed` is the i-th row asked for.
        let norm = Norm { w: norm, eps, x, row: &|i| rows[i] };
        ready(cpu, worker, rows.len(), d, Some(norm), normed, &quants, &[head]);
        worker.barrier();
        let mut own = vec![none; rows.len()];
        let inputs = quants.inputs(normed, rows.len());
        let mut sink = |tile: usize, i: usize, values: &[f32; ROWS]| {
            let count = ROWS.min(vocab - tile * ROWS);
            if let Some(line) = line[i] {
                // SAFETY: a tile is handed out once.
                let to = unsafe { logits.slice(line * vocab + tile * ROWS, count) };
                to.copy_from_slice(&values[..count]);
            }
            own[i] = best_of(own[i], tile, &values[..count]);
        };
        list.share(worker, 1, |_, first, count| multiply(head, first, count, &inputs, &mut sink));
        let mut all = best.lock().unwrap_or_else(|e| e.into_inner());
        for (a, b) in all.iter_mut().zip(own) {
            better(a, b);
        }
    });
    best.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// The best of a tile and of what was found before. Most tiles hold nothing better: a look at their maximum, which the
/// compiler makes vectors of, spares the search.
fn best_of(mut best: Best, tile: usize, values: &[f32]) -> Best {
    let (mut top, mut nan) = (f32::NEG_INFINITY, false);
    for &v in values {
        top = if v > top { v } else { top };
        nan |= v.is_nan();
    }
    best.nan |= nan;
    if top >= best.logit {
        for (j, &v) in values.iter().enumerate() {
            better(&mut best, Best { token: (tile * ROWS + j) as Token, logit: v, nan: false });
        }
    }
    best
}

/// Keeps the larger logit, of equals the lower id; independent of the order of calls.
fn better(a: &mut Best, b: Best) {
    let nan = a.nan || b.nan;
    if b.logit > a.logit || (b.logit == a.logit && b.token < a.token) {
        *a = b;
    }
    a.nan = nan;
}

/// The tiles of several matrices as one list.
struct Tiles<'a> {
    linears: &'a [&'a Linear],
    count: usize,
    grain: usize,
}

impl<'a> Tiles<'a> {
    fn new(linears: &'a [&'a Linear]) -> Self {
        let count: usize = linears.iter().map(|w| w.tiles()).sum();
        let bytes: usize = linears.iter().map(|w| w.bytes()).sum();
        Tiles { linears, count, grain: grain(bytes / count.max(1)) }
    }

    /// The parts of `range` by matrix: `f(which, first tile, tiles)`.
    fn each(&self, range: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let mut start = 0;
        for (which, w) in self.linears.iter().enumerate() {
            let (a, b) = (range.start.max(start), range.end.min(start + w.tiles()));
            if a < b {
                f(which, a - start, b - a);
            }
            start += w.tiles();
        }
    }

    /// Hands every tile out once: `f(which, first tile, tiles)`.
    fn share(&self, worker: &Worker<'_>, ticket: usize, mut f: impl FnMut(usize, usize, usize)) {
        worker.share(ticket, self.count, self.grain, |range| self.each(range, &mut f));
    }

    /// Asks for the first lines of this worker's tiles, so that they come while its rows are made ready. A small
    /// model's matrix is read in a few microseconds, of which a cold start takes one.
    fn warm(&self, rung: &Rung, worker: &Worker<'_>) {
        let own = worker.own(self.count, self.grain);
        self.each(own.start..own.end.min(own.start + 1), |which, tile, _| {
            let w = self.linears[which];
            (rung.warm)(w.tile(tile), (w.tiles() - tile) * w.tile_bytes());
        });
    }
}

/// RMSNorm of rows of `x`: row `i` of the result comes from row `row(i)`.
struct Norm<'a> {
    w: &'a Vector,
    eps: f32,
    x: Rows<'a>,
    row: &'a dyn Fn(usize) -> usize,
}

/// Makes `n` rows of `at` ready for `linears`: normed if asked, then quantised. Few rows are cut into chunks of 256
/// columns, so that no worker waits for another's long row; each then sums the squares of a whole row for itself.
#[allow(clippy::too_many_arguments)]
fn ready(
    cpu: &Cpu,
    worker: &Worker<'_>,
    n: usize,
    width: usize,
    norm: Option<Norm<'_>>,
    at: Rows<'_>,
    quants: &Quants<'_>,
    linears: &[&Linear],
) {
    let chunks = width.div_ceil(256);
    let grain = if n >= 2 * worker.count() { chunks } else { 1 };
    let mut known = (usize::MAX, 0.0);
    worker.share(0, n * chunks, grain, |range| {
        for unit in range {
            let (i, from) = (unit / chunks, unit % chunks * 256);
            let to = at.at(i).wrapping_add(from);
            if let Some(norm) = &norm {
                let x = norm.x.at((norm.row)(i));
                // SAFETY: the chunk is handed out once, `x` is only read; widths are multiples of 16.
                unsafe {
                    if known.0 != i {
                        known = (i, (cpu.rung.rms)(x, norm.eps, width));
                    }
                    let len = 256.min(width - from);
                    (cpu.rung.scale)(x.add(from), known.1, norm.w.ptr().add(from), len, to);
                }
            }
            quants.chunk(cpu.rung, linears, to, i, from);
        }
    });
}

/// A tile's results with its bias; vectors are padded with zeros to whole tiles.
fn with_bias(p: &Projection<Cpu>, tile: usize, values: &[f32; ROWS]) -> [f32; ROWS] {
    let mut out = *values;
    if let Some(b) = &p.bias {
        for (o, b) in out.iter_mut().zip(&b.data[tile * ROWS..]) {
            *o += b;
        }
    }
    out
}
