//! The phases of a layer on the CPU. Each is one fork-join; barriers inside it separate "rows made ready" from
//! "tiles multiplied" from "heads finished".

use std::sync::Mutex;

use tamp_base::ids::{PAGE, PageId, Token};

use super::buf::{Buf, Plane, Quant, SPLIT_ROWS, TASK_VECTORS, Task};
use super::matmul::{Inputs, grain, multiply};
use super::memory::Pages;
use super::{Cpu, Vector};
use crate::attend::{Block, KEY_BLOCK, KEY_CHUNK, QUERIES};
use crate::device::{AttnShape, AttnWeights, Best, FfnWeights, Projection, Rope, RowMap, Slot};
use crate::linear::Linear;
use crate::pool::Worker;
use crate::rows::rotate;
use crate::rung::Rung;
use crate::shared::SharedMut;
use crate::tile::ROWS;

/// A plane's floats, shared by row.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: SharedMut<'a, f32>,
    stride: usize,
}

impl<'a> Rows<'a> {
    fn new(p: &'a mut Plane) -> Self {
        Rows { stride: p.stride, data: SharedMut::new(&mut p.data) }
    }

    fn at(&self, row: usize) -> *mut f32 {
        self.data.at(row * self.stride)
    }

    /// # Safety
    /// No other worker holds this part.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, row: usize, at: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(row * self.stride + at, len) }
    }
}

/// Both quantisations of the batch's rows, shared by row.
struct Quants<'a> {
    q32: &'a Quant,
    q256: &'a Quant,
    codes: [SharedCodes; 2],
}

#[derive(Clone, Copy)]
struct SharedCodes {
    first: crate::rows::Codes,
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

    fn row(&self, r: usize) -> crate::rows::Codes {
        let at = r * self.stride;
        crate::rows::Codes {
            q: self.first.q.wrapping_add(at),
            d: self.first.d.wrapping_add(at / self.block),
            s32: self.first.s32.wrapping_add(at / 32),
            s16: self.first.s16.wrapping_add(at / 16),
        }
    }
}

impl<'a> Quants<'a> {
    fn new(q32: &'a mut Quant, q256: &'a mut Quant) -> Self {
        let codes = [SharedCodes::new(q32, q32.stride(), 32), SharedCodes::new(q256, q256.stride(), 256)];
        Quants { q32, q256, codes }
    }

    /// Quantises row `r`, `width` floats at `x` (zero up to the next 256), the ways `for_` want it.
    fn row(&self, rung: &Rung, for_: &[&Linear], x: *const f32, width: usize, r: usize) {
        for c in self.codes {
            if for_.iter().any(|w| w.kernel.kind.act_block() == c.block) {
                // Whole superblocks of 64 columns, so that a ragged tail multiplies zeros.
                let n = width.next_multiple_of(c.block.max(64));
                // SAFETY: rows are `stride` wide, a multiple of 256, zero behind `width`; row r is this worker's.
                unsafe { (rung.quantise)(x, n, c.block, c.row(r)) };
            }
        }
    }

    fn inputs(&self, x: Rows<'_>, rows: usize) -> Inputs<'_> {
        Inputs { q32: self.q32, q256: self.q256, x: x.at(0), stride: x.stride, rows }
    }
}

/// Looks up tokens, and prepares what depends on the batch alone: angles and attention tasks.
pub fn embed(cpu: &Cpu, table: &Linear, tokens: &[Token], rows: &RowMap, rope: &Rope, buf: &mut Buf) {
    plan_attention(rows, cpu.pool.threads(), buf);
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

/// Cuts the batch into attention tasks: runs of rows of one sequence, split by key chunks when rows are few.
fn plan_attention(rows: &RowMap, workers: usize, buf: &mut Buf) {
    let per_head = buf.shape.heads / buf.shape.kv_heads;
    let together = (TASK_VECTORS / per_head).max(1);
    buf.tasks.clear();
    buf.merges.clear();
    let mut parts = 0;
    let split = workers > 1 && rows.rows() <= SPLIT_ROWS;
    for (seq, s) in rows.seqs.iter().enumerate() {
        let mut row = s.first;
        while row < s.first + s.count {
            let mut n = 1;
            while n < together
                && row + n < s.first + s.count
                && rows.path_at[row].is_none()
                && rows.path_at[row + n].is_none()
            {
                n += 1;
            }
            let chunks = (rows.pos[row + n - 1] as usize + 1).div_ceil(KEY_CHUNK);
            if split && chunks > 1 && parts + n * chunks <= buf.part_room {
                for r in row..row + n {
                    let chunks = (rows.pos[r] as usize + 1).div_ceil(KEY_CHUNK);
                    for chunk in 0..chunks {
                        buf.tasks.push(Task {
                            seq,
                            row: r,
                            rows: 1,
                            chunk,
                            chunks: 1,
                            part: Some(parts + chunk),
                        });
                    }
                    buf.merges.push((r, parts, chunks));
                    parts += chunks;
                }
            } else {
                buf.tasks.push(Task { seq, row, rows: n, chunk: 0, chunks, part: None });
            }
            row += n;
        }
    }
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
    let writer = pages.writer(layer);
    cpu.pool.run(|worker| {
        worker.share(0, n, 1, |range| {
            for r in range {
                norm_row(cpu.rung, &w.norm, w.shape.eps, d, x, normed, r);
                quants.row(cpu.rung, &linears, normed.at(r), d, r);
            }
        });
        worker.barrier();
        let inputs = quants.inputs(normed, n);
        tiles(worker, 1, &linears, &inputs, |which, tile, r, values| {
            // SAFETY: a tile is handed out once.
            unsafe { store(parts[which], out[which], tile, r, values) };
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
                        (cpu.rung.rms_norm)(p, norm.ptr(), w.shape.eps, hd, p);
                    }
                    rotate(&mut part[..2 * pairs], c, s, w.shape.rope.pairing);
                    if unit % (heads + kv_heads) >= heads {
                        let v = out[2].part(r, head * hd, hd);
                        writer.write(rows.slot(r), head, part, v);
                    }
                }
            }
        });
    });
}

/// Phase B: attention of every row over its own path.
pub fn attend(cpu: &Cpu, shape: &AttnShape, rows: &RowMap, layer: usize, pages: &Pages, buf: &mut Buf) {
    let (hd, kv_heads) = (shape.head_dim, shape.kv_heads);
    let per_head = shape.heads / kv_heads;
    let q = Rows::new(&mut buf.q);
    let att = Rows::new(&mut buf.att);
    let parts = SharedMut::new(&mut buf.parts);
    let scratch = SharedMut::new(&mut buf.scratch);
    let len = buf.scratch_len;
    let (tasks, merges) = (&buf.tasks, &buf.merges);
    cpu.pool.run(|worker| {
        // SAFETY: each worker has its own scratch.
        let scratch = unsafe { scratch.slice(worker.index() * len, len) };
        worker.share(0, tasks.len() * kv_heads, 1, |range| {
            for unit in range {
                let (task, head) = (&tasks[unit / kv_heads], unit % kv_heads);
                let job = AttendJob { rung: cpu.rung, shape, rows, layer, pages, task, head };
                job.run(q, att, parts, scratch);
            }
        });
        if merges.is_empty() {
            return;
        }
        worker.barrier();
        worker.share(1, merges.len() * shape.heads, 1, |range| {
            for unit in range {
                let ((row, first, count), h) = (merges[unit / shape.heads], unit % shape.heads);
                let line = hd + 2;
                // SAFETY: a row's head is handed out once; parts are read by it alone.
                unsafe {
                    let at = |i: usize| parts.slice(((first + i) * shape.heads + h) * line, line);
                    let own = at(0);
                    let (mut m, mut l) = (own[hd], own[hd + 1]);
                    for i in 1..count {
                        let other = at(i);
                        let (m2, l2) = (other[hd], other[hd + 1]);
                        (cpu.rung.merge)(&mut m, &mut l, own.as_mut_ptr(), m2, l2, other.as_ptr(), hd);
                    }
                    (cpu.rung.finish)(l, own.as_ptr(), hd, att.part(row, h * hd, hd).as_mut_ptr());
                }
            }
        });
    });
    debug_assert!(per_head * kv_heads == shape.heads);
}

/// One task on one KV head.
struct AttendJob<'a> {
    rung: &'static Rung,
    shape: &'a AttnShape,
    rows: &'a RowMap,
    layer: usize,
    pages: &'a Pages,
    task: &'a Task,
    head: usize,
}

impl AttendJob<'_> {
    fn run(&self, q: Rows<'_>, att: Rows<'_>, parts: SharedMut<'_, f32>, scratch: &mut [f32]) {
        let (hd, task) = (self.shape.head_dim, self.task);
        let per_head = self.shape.heads / self.shape.kv_heads;
        let n = task.rows * per_head;
        let (queries, rest) = scratch.split_at_mut(n * hd);
        let (o, rest) = rest.split_at_mut(n * hd);
        let (total, rest) = rest.split_at_mut(n * hd);
        let (m, rest) = rest.split_at_mut(n);
        let (l, rest) = rest.split_at_mut(n);
        let (total_m, rest) = rest.split_at_mut(n);
        let (total_l, gathered) = rest.split_at_mut(n);
        for i in 0..n {
            let (r, h) = (task.row + i / per_head, self.head * per_head + i % per_head);
            // SAFETY: queries are only read in this phase.
            let from = unsafe { q.part(r, h * hd, hd) };
            for (to, v) in queries[i * hd..][..hd].iter_mut().zip(from) {
                *to = *v * self.shape.scale;
            }
        }
        total_l.fill(0.0);
        let last = self.rows.pos[task.row + task.rows - 1] as usize;
        for chunk in task.chunk..task.chunk + task.chunks {
            m.fill(f32::NEG_INFINITY);
            l.fill(0.0);
            o.fill(0.0);
            for key in (chunk * KEY_CHUNK..((chunk + 1) * KEY_CHUNK).min(last + 1)).step_by(KEY_BLOCK) {
                let (k, v) = self.block(key, last, gathered);
                for i in (0..n).step_by(QUERIES) {
                    let count = QUERIES.min(n - i);
                    let mut seen = [0; QUERIES];
                    for (j, s) in seen[..count].iter_mut().enumerate() {
                        let pos = self.rows.pos[task.row + (i + j) / per_head] as usize;
                        *s = (pos + 1).saturating_sub(key).min(KEY_BLOCK);
                    }
                    if seen == [0; QUERIES] {
                        continue;
                    }
                    let block = Block {
                        q: queries[i * hd..].as_ptr(),
                        n: count,
                        head_dim: hd,
                        seen,
                        k,
                        v,
                        m: m[i..].as_mut_ptr(),
                        l: l[i..].as_mut_ptr(),
                        o: o[i * hd..].as_mut_ptr(),
                    };
                    let f = if self.pages.size() == 4 { self.rung.attend_f32 } else { self.rung.attend_f16 };
                    // SAFETY: the state holds `count` queries of `hd` floats from i on; `block` gave pages that hold
                    // every key that is seen.
                    unsafe { f(&block) };
                }
            }
            for i in 0..n {
                if l[i] == 0.0 && m[i] == f32::NEG_INFINITY {
                    continue; // the row ends before this chunk
                }
                let (part, whole) = (&o[i * hd..][..hd], &mut total[i * hd..][..hd]);
                if total_l[i] == 0.0 {
                    whole.copy_from_slice(part);
                    (total_m[i], total_l[i]) = (m[i], l[i]);
                } else {
                    let (tm, tl) = (&mut total_m[i], &mut total_l[i]);
                    // SAFETY: both hold `hd` floats.
                    unsafe { (self.rung.merge)(tm, tl, whole.as_mut_ptr(), m[i], l[i], part.as_ptr(), hd) };
                }
            }
        }
        for i in 0..n {
            let (r, h) = (task.row + i / per_head, self.head * per_head + i % per_head);
            let whole = &total[i * hd..][..hd];
            // SAFETY: this row's head, and its part, belong to this task alone.
            unsafe {
                match task.part {
                    Some(part) => {
                        let to = parts.slice((part * self.shape.heads + h) * (hd + 2), hd + 2);
                        to[..hd].copy_from_slice(whole);
                        (to[hd], to[hd + 1]) = (total_m[i], total_l[i]);
                    }
                    None => {
                        let to = att.part(r, h * hd, hd);
                        (self.rung.finish)(total_l[i], whole.as_ptr(), hd, to.as_mut_ptr());
                    }
                }
            }
        }
    }

    /// The four pages of the block of keys from `key` on: in place when slots follow positions, else gathered into
    /// position order.
    fn block(&self, key: usize, last: usize, gathered: &mut [f32]) -> ([*const u8; 4], [*const u8; 4]) {
        let seq = &self.rows.seqs[self.task.seq];
        let end = (key + KEY_BLOCK).min(last + 1);
        if self.rows.path_at[self.task.row].is_some() && end > seq.committed {
            return self.gather(key, end, gathered);
        }
        let table = &self.rows.table[seq.table..];
        // Past the end the last page stands in; its keys are not seen.
        let page = |i: usize| table[(key / PAGE + i).min((end - 1) / PAGE)];
        let ptr = |f: &dyn Fn(PageId) -> *const u8| [f(page(0)), f(page(1)), f(page(2)), f(page(3))];
        (ptr(&|p| self.pages.k(self.layer, p, self.head)), ptr(&|p| self.pages.v(self.layer, p, self.head)))
    }

    fn gather(&self, key: usize, end: usize, to: &mut [f32]) -> ([*const u8; 4], [*const u8; 4]) {
        let (hd, size) = (self.shape.head_dim, self.pages.size());
        let half = KEY_BLOCK * hd * size;
        let page = PAGE * hd * size;
        assert!(2 * half <= std::mem::size_of_val(to), "gather scratch");
        let base = to.as_mut_ptr().cast::<u8>();
        for p in key..end {
            let Slot { page: from, offset } = self.rows.slot_at(self.task.row, p);
            let (i, lane, at) = (p - key, (p - key) % PAGE, offset as usize);
            let (k, v) =
                (self.pages.k(self.layer, from, self.head), self.pages.v(self.layer, from, self.head));
            // SAFETY: offsets stay within a head of a page on one side and within the asserted room on the other.
            unsafe {
                let kt = base.add(i / PAGE * page);
                for d in 0..hd {
                    let (src, dst) = (k.add((d * PAGE + at) * size), kt.add((d * PAGE + lane) * size));
                    std::ptr::copy_nonoverlapping(src, dst, size);
                }
                let vt = base.add(half + i * hd * size);
                std::ptr::copy_nonoverlapping(v.add(at * hd * size), vt, hd * size);
            }
        }
        let at = |from: usize, i: usize| base.wrapping_add(from + i * page).cast_const();
        (std::array::from_fn(|i| at(0, i)), std::array::from_fn(|i| at(half, i)))
    }
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
    cpu.pool.run(|worker| {
        worker.share(0, n, 1, |range| {
            for r in range {
                quants.row(cpu.rung, &[&p.w], from.at(r), width, r);
            }
        });
        worker.barrier();
        tiles(worker, 1, &[&p.w], &quants.inputs(from, n), |_, tile, r, values| {
            let count = ROWS.min(p.w.rows - tile * ROWS);
            // SAFETY: a tile is handed out once.
            let to = unsafe { x.part(r, tile * ROWS, count) };
            for (i, v) in to.iter_mut().enumerate() {
                *v += values[i] + bias(p, tile * ROWS + i);
            }
        });
    });
}

/// Phase D: norm → quantise → gate, up → silu(gate) · up.
pub fn gate(cpu: &Cpu, w: &FfnWeights<Cpu>, n: usize, buf: &mut Buf) {
    let d = buf.shape.d;
    let (x, normed, ff) = (Rows::new(&mut buf.x), Rows::new(&mut buf.normed), Rows::new(&mut buf.ff));
    let quants = Quants::new(&mut buf.q32, &mut buf.q256);
    cpu.pool.run(|worker| {
        worker.share(0, n, 1, |range| {
            for r in range {
                norm_row(cpu.rung, &w.norm, w.eps, d, x, normed, r);
                quants.row(cpu.rung, &[&w.gate.w, &w.up.w], normed.at(r), d, r);
            }
        });
        worker.barrier();
        let inputs = quants.inputs(normed, n);
        let both = w.gate.w.tile_bytes() + w.up.w.tile_bytes();
        worker.share(1, w.gate.w.tiles(), grain(both), |range| {
            for tile in range {
                multiply(&w.gate.w, tile, 1, &inputs, |tile, r, values| {
                    // SAFETY: a tile is handed out once.
                    unsafe { store(&w.gate, ff, tile, r, values) };
                });
                multiply(&w.up.w, tile, 1, &inputs, |tile, r, values| {
                    let up: [f32; ROWS] = std::array::from_fn(|i| values[i] + bias(&w.up, tile * ROWS + i));
                    // SAFETY: rows are a multiple of 256 wide, so 16 values from a tile's start are in bounds; this
                    // worker owns the tile. Behind the width gate and up are zero, and so is the product.
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
    cpu.pool.run(|worker| {
        worker.share(0, rows.len(), 1, |range| {
            for i in range {
                // Row i of `normed` is the i-th row asked for.
                // SAFETY: it is handed out once; `x` is only read.
                unsafe { (cpu.rung.rms_norm)(x.at(rows[i]), norm.ptr(), eps, d, normed.at(i)) };
                quants.row(cpu.rung, &[head], normed.at(i), d, i);
            }
        });
        worker.barrier();
        let mut own = vec![none; rows.len()];
        tiles(worker, 1, &[head], &quants.inputs(normed, rows.len()), |_, tile, i, values| {
            let count = ROWS.min(vocab - tile * ROWS);
            if let Some(line) = line[i] {
                // SAFETY: a tile is handed out once.
                let to = unsafe { logits.slice(line * vocab + tile * ROWS, count) };
                to.copy_from_slice(&values[..count]);
            }
            for (j, &v) in values[..count].iter().enumerate() {
                better(&mut own[i], Best { token: (tile * ROWS + j) as Token, logit: v, nan: v.is_nan() });
            }
        });
        let mut all = best.lock().unwrap_or_else(|e| e.into_inner());
        for (a, b) in all.iter_mut().zip(own) {
            better(a, b);
        }
    });
    best.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// Keeps the larger logit, of equals the lower id; independent of the order of calls.
fn better(a: &mut Best, b: Best) {
    let nan = a.nan || b.nan;
    if b.logit > a.logit || (b.logit == a.logit && b.token < a.token) {
        *a = b;
    }
    a.nan = nan;
}

/// Shares the tiles of several matrices as one list: `sink(which, tile, row, values)`.
fn tiles(
    worker: &Worker<'_>,
    ticket: usize,
    linears: &[&Linear],
    inputs: &Inputs<'_>,
    mut sink: impl FnMut(usize, usize, usize, &[f32; ROWS]),
) {
    let all: usize = linears.iter().map(|w| w.tiles()).sum();
    let bytes: usize = linears.iter().map(|w| w.bytes()).sum();
    worker.share(ticket, all, grain(bytes / all.max(1)), |range| {
        let mut start = 0;
        for (which, w) in linears.iter().enumerate() {
            let (a, b) = (range.start.max(start), range.end.min(start + w.tiles()));
            if a < b {
                multiply(w, a - start, b - a, inputs, |tile, r, values| sink(which, tile, r, values));
            }
            start += w.tiles();
        }
    });
}

fn norm_row(rung: &Rung, w: &Vector, eps: f32, d: usize, x: Rows<'_>, out: Rows<'_>, r: usize) {
    // SAFETY: row r belongs to this worker; both rows hold at least d floats, d is a multiple of 16.
    unsafe { (rung.rms_norm)(x.at(r), w.ptr(), eps, d, out.at(r)) }
}

fn bias(p: &Projection<Cpu>, i: usize) -> f32 {
    p.bias.as_ref().and_then(|b| b.data.get(i)).copied().unwrap_or(0.0)
}

/// Writes a tile's results, bias added, into its row.
///
/// # Safety
/// This worker owns the tile.
unsafe fn store(p: &Projection<Cpu>, to: Rows<'_>, tile: usize, r: usize, values: &[f32; ROWS]) {
    let count = ROWS.min(p.w.rows - tile * ROWS);
    // SAFETY: the caller's promise.
    let to = unsafe { to.part(r, tile * ROWS, count) };
    match &p.bias {
        Some(b) => {
            for (i, v) in to.iter_mut().enumerate() {
                *v = values[i] + b.data[tile * ROWS + i];
            }
        }
        None => to.copy_from_slice(&values[..count]),
    }
}
