//! Activations and scratch of a batch. Allocated once; nothing is allocated per layer.

use tamp_os::mem::Aligned;

use super::zeroed;
use crate::attend::KEY_CHUNK;
use crate::device::{BufShape, DeviceError, Read};
use crate::rows::Codes;
use crate::tile::Act;

/// Query vectors one attention task handles at most (more only when one row's heads already exceed it).
pub const TASK_VECTORS: usize = 32;
/// Rows whose attention may be split by key chunks; enough to keep many workers busy on few rows.
pub const SPLIT_ROWS: usize = 8;

/// Every row of a buffer as the kernels take it, made once: a call names its first row and no pointer is computed per
/// call.
pub struct Acts(Vec<Act>);

// SAFETY: the pointers lead into buffers that live beside them and never move; who may write there when is the pool's
// order of phases, not this list's.
unsafe impl Send for Acts {}
// SAFETY: as above.
unsafe impl Sync for Acts {}

impl Acts {
    /// Rows `from..from + count`.
    pub fn from(&self, from: usize, count: usize) -> *const Act {
        self.0[from..from + count].as_ptr()
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// A row that is not there in some form.
const NOTHING: Act = Act {
    q: std::ptr::null(),
    d: std::ptr::null(),
    n8: std::ptr::null(),
    ds: std::ptr::null(),
    s32: std::ptr::null(),
    s16: std::ptr::null(),
    x: std::ptr::null(),
};

/// A `[rows, stride]` matrix of floats; the padding behind `width` stays zero.
pub struct Plane {
    /// values
    pub data: Aligned<f32>,
    /// floats from one row to the next, a multiple of 256
    pub stride: usize,
    /// rows for float kernels
    pub acts: Acts,
}

impl Plane {
    fn new(rows: usize, width: usize) -> Result<Self, DeviceError> {
        let stride = width.next_multiple_of(256);
        let data = zeroed::<f32>(rows * stride, "activations")?;
        let row = |r: usize| Act { x: data[r * stride..].as_ptr(), ..NOTHING };
        let acts = Acts((0..rows).map(row).collect());
        Ok(Plane { data, stride, acts })
    }
}

/// Quantised rows for one block size; the sums that its formats do not read stay empty.
pub struct Quant {
    q: Aligned<i8>,
    d: Aligned<f32>,
    n8: Aligned<i32>,
    ds: Aligned<f32>,
    s32: Aligned<i16>,
    s16: Aligned<i16>,
    stride: usize,
    block: usize,
    /// rows for the kernels
    pub acts: Acts,
}

impl Quant {
    fn new(rows: usize, width: usize, block: usize) -> Result<Self, DeviceError> {
        const WHAT: &str = "quantised activations";
        let stride = width.next_multiple_of(256);
        let (small, large) = if block == 32 { (rows * stride, 0) } else { (0, rows * stride) };
        let mut quant = Quant {
            q: zeroed(rows * stride, WHAT)?,
            d: zeroed(rows * stride / block, WHAT)?,
            n8: zeroed(small / 32, WHAT)?,
            ds: zeroed(small / 32, WHAT)?,
            s32: zeroed(large / 32, WHAT)?,
            s16: zeroed(large / 16, WHAT)?,
            stride,
            block,
            acts: Acts(Vec::new()),
        };
        let first = quant.codes();
        let row = |r: usize| {
            let c = first.at(r * stride, block);
            Act { q: c.q, d: c.d, n8: c.n8, ds: c.ds, s32: c.s32, s16: c.s16, ..NOTHING }
        };
        quant.acts = Acts((0..rows).map(row).collect());
        Ok(quant)
    }

    fn bytes(&self) -> usize {
        self.q.len()
            + 4 * (self.d.len() + self.n8.len() + self.ds.len())
            + 2 * (self.s32.len() + self.s16.len())
            + self.acts.bytes()
    }

    /// Codes from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Values per scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Where the first row goes.
    pub fn codes(&mut self) -> Codes {
        Codes {
            q: self.q.as_mut_ptr(),
            d: self.d.as_mut_ptr(),
            n8: self.n8.as_mut_ptr(),
            ds: self.ds.as_mut_ptr(),
            s32: self.s32.as_mut_ptr(),
            s16: self.s16.as_mut_ptr(),
        }
    }
}

/// A row in an attention task.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// the row
    pub row: usize,
    /// index into [`crate::device::RowMap::seqs`]
    pub seq: usize,
    /// slot of its first key chunk's part, when its chunks are split over tasks
    pub part: usize,
}

/// Attention work of one batch: some rows over a run of key chunks.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// its first row in [`Buf::members`]
    pub first: usize,
    /// rows
    pub rows: usize,
    /// first key chunk
    pub chunk: usize,
    /// key chunks
    pub chunks: usize,
    /// chunks below this one lie in the same pages for all its rows
    pub shared: usize,
    /// it makes a part of each row, to be merged with the parts of other tasks
    pub split: bool,
}

/// Rows whose parts must be merged: `(row, first part, parts)`.
pub type Merge = (usize, usize, usize);

/// Everything a batch needs while it runs.
pub struct Buf {
    /// sizes
    pub shape: BufShape,
    /// residual stream `[rows, d]`
    pub x: Plane,
    /// normed input of a phase `[rows, d]`
    pub normed: Plane,
    /// queries, then attention output `[rows, q]`
    pub q: Plane,
    /// attention output `[rows, q]`
    pub att: Plane,
    /// keys `[rows, kv]`
    pub k: Plane,
    /// values `[rows, kv]`
    pub v: Plane,
    /// gated feed-forward activations `[rows, ff]`
    pub ff: Plane,
    /// int8 per 32
    pub q32: Quant,
    /// int8 per 256
    pub q256: Quant,
    /// `[rows, pairs]` cosines of the batch's positions
    pub cos: Plane,
    /// `[rows, pairs]` sines
    pub sin: Plane,
    /// rows of the attention tasks
    pub members: Vec<Member>,
    /// attention tasks of the batch
    pub tasks: Vec<Task>,
    /// positions per layer that tasks of several sequences do not read again
    pub spared: usize,
    /// parts to merge
    pub merges: Vec<Merge>,
    /// `[parts][heads][head_dim + 2]` weighted values, maximum, sum
    pub parts: Aligned<f32>,
    /// parts that fit
    pub part_room: usize,
    /// per worker: see `scratch_len`
    pub scratch: Aligned<f32>,
    /// floats of scratch per worker
    pub scratch_len: usize,
    /// `[logits][vocab]`
    pub logits: Aligned<f32>,
    /// batch row of each line of `logits`
    pub logit_rows: Vec<usize>,
}

impl Buf {
    /// Makes a buffer for batches within `shape`.
    pub fn new(s: &BufShape, workers: usize) -> Result<Self, DeviceError> {
        let widest = s.d.max(s.q).max(s.ff);
        let part_room = SPLIT_ROWS * s.ctx.div_ceil(KEY_CHUNK);
        // Task state: q, o, merged o for up to max(TASK_VECTORS, heads) vectors of a head each, m and l twice, and
        // a gathered block of K and V. A head is never wider than s.q or s.kv.
        let vectors = TASK_VECTORS.max(s.heads / s.kv_heads.max(1));
        let scratch_len = (vectors * (3 * s.head_dim + 4) + 2 * 64 * s.head_dim).next_multiple_of(64);
        Ok(Buf {
            shape: *s,
            x: Plane::new(s.rows, s.d)?,
            normed: Plane::new(s.rows, s.d)?,
            q: Plane::new(s.rows, s.q)?,
            att: Plane::new(s.rows, s.q)?,
            k: Plane::new(s.rows, s.kv)?,
            v: Plane::new(s.rows, s.kv)?,
            ff: Plane::new(s.rows, s.ff)?,
            q32: Quant::new(s.rows, widest, 32)?,
            q256: Quant::new(s.rows, widest, 256)?,
            cos: Plane::new(s.rows, s.head_dim / 2)?,
            sin: Plane::new(s.rows, s.head_dim / 2)?,
            members: Vec::new(),
            tasks: Vec::new(),
            spared: 0,
            merges: Vec::new(),
            parts: zeroed(part_room * s.heads * (s.head_dim + 2), "attention parts")?,
            part_room,
            scratch: zeroed(workers * scratch_len, "attention scratch")?,
            scratch_len,
            logits: zeroed(s.logits * s.vocab, "logits")?,
            logit_rows: Vec::new(),
        })
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        let planes =
            [&self.x, &self.normed, &self.q, &self.att, &self.k, &self.v, &self.ff, &self.cos, &self.sin];
        let floats = planes.iter().map(|p| p.data.len()).sum::<usize>()
            + self.parts.len()
            + self.scratch.len()
            + self.logits.len();
        let acts = planes.iter().map(|p| p.acts.bytes()).sum::<usize>();
        4 * floats + acts + self.q32.bytes() + self.q256.bytes()
    }

    /// Copies something out.
    pub fn read(&self, what: Read) -> Vec<f32> {
        match what {
            Read::Hidden(r) => self.x.data[r * self.x.stride..][..self.shape.d].to_vec(),
            Read::Logits(r) => match self.logit_rows.iter().position(|&x| x == r) {
                Some(i) => self.logits[i * self.shape.vocab..][..self.shape.vocab].to_vec(),
                None => Vec::new(),
            },
        }
    }
}
