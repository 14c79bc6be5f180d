//! The device seam: five phases per layer, opaque activations, page ids (DESIGN §4).
//!
//! Everything above this trait handles ids and host metadata only; activations are read through
//! [`Device::read_back`]. The CPU is the first device, a recording mock in tests the second.

use std::sync::Arc;

use tamp_base::ids::{PAGE, PageId, Token};
use tamp_formats::Kind;
use tamp_os::held::Span;

/// Where one position's K and V live: a page of the group and the offset in it, `0..PAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// page of the group's pool
    pub page: PageId,
    /// position within the page
    pub offset: u8,
}

impl Slot {
    /// The slot with index `at` of a sequence's page table.
    pub fn of(table: &[PageId], at: usize) -> Slot {
        Slot { page: table[at / PAGE], offset: (at % PAGE) as u8 }
    }
}

/// A copy of one position's K and V, all layers of the group, `from` → `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// source
    pub from: Slot,
    /// destination
    pub to: Slot,
}

/// The rows of one sequence within a batch, for one KV group.
#[derive(Clone, Debug)]
pub struct SeqRows {
    /// first row in the batch
    pub first: usize,
    /// number of rows
    pub count: usize,
    /// positions `0..committed` sit in the slots of the same index
    pub committed: usize,
    /// where this sequence's page ids start in [`RowMap::table`]
    pub table: usize,
}

/// Sequences of a batch whose first positions sit in the same pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// indices into [`RowMap::seqs`]; one alone when its rows branch
    pub seqs: Vec<u32>,
    /// positions `0..keys` have the same page in the table of each; none has fewer committed
    pub keys: usize,
}

/// What a device must know of a batch's rows; host data, built once per batch and KV group.
///
/// Row `r` of sequence `s` with index `i = r - s.first` writes its K and V into slot `s.committed + i` and attends
/// the positions `0..=pos[r]` of its own path. For a chain slot and position agree; for a tree `path` names the
/// slots of the uncommitted positions.
#[derive(Clone, Debug, Default)]
pub struct RowMap {
    /// `[rows]` position on the row's own path
    pub pos: Vec<u32>,
    /// `[rows]` index into `seqs`
    pub seq: Vec<u32>,
    /// the sequences, in row order
    pub seqs: Vec<SeqRows>,
    /// page ids of all sequences
    pub table: Vec<PageId>,
    /// slot indices of the positions `committed..=pos` of the rows whose path leaves the slot order
    pub path: Vec<u32>,
    /// `[rows]` start of the row's part of `path`; `None` when slot index = position all along
    pub path_at: Vec<Option<u32>>,
    /// sequences that a device may attend for together, where it saves reading; no result depends on it
    pub alike: Vec<Alike>,
}

impl RowMap {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.pos.len()
    }

    /// Where row `r` writes its K and V.
    pub fn slot(&self, r: usize) -> Slot {
        let s = &self.seqs[self.seq[r] as usize];
        Slot::of(&self.table[s.table..], s.committed + (r - s.first))
    }

    /// Slot holding position `p` of row `r`'s path.
    pub fn slot_at(&self, r: usize, p: usize) -> Slot {
        let s = &self.seqs[self.seq[r] as usize];
        let at = match self.path_at[r] {
            Some(start) if p >= s.committed => self.path[start as usize + p - s.committed] as usize,
            _ => p,
        };
        Slot::of(&self.table[s.table..], at)
    }
}

/// Rotary embedding as data: `angle(pos, i) = pos * freq[i]`, both components scaled by `scale` (YaRN's attention
/// factor; 1 otherwise).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[rotated dims / 2]` radians per position
    pub freq: Vec<f64>,
    /// magnitude of cos and sin
    pub scale: f32,
    /// which elements form a pair
    pub pairing: Pairing,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i + 1)`: GGUF llama, llama2.c
    Interleaved,
    /// `(i, i + d/2)`: Hugging Face, GGUF qwen
    Half,
}

/// Geometry of one KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// layers that store into this group
    pub layers: usize,
    /// KV heads
    pub heads: usize,
    /// elements per head
    pub head_dim: usize,
    /// element format: `F16`, or `F32` as the oracle
    pub kind: Kind,
}

impl KvShape {
    /// Bytes of one page, K and V, all layers.
    pub fn page_bytes(&self) -> usize {
        let element = if self.kind == Kind::F32 { 4 } else { 2 };
        2 * self.layers * self.heads * self.head_dim * PAGE * element
    }
}

/// A matrix with its optional bias.
pub struct Projection<D: Device + ?Sized> {
    /// `[rows, cols]`
    pub w: D::Linear,
    /// `[rows]`
    pub bias: Option<D::Vector>,
}

/// Weights of phases A to C.
pub struct AttnWeights<D: Device + ?Sized> {
    /// `[d]` RMSNorm before the projections
    pub norm: D::Vector,
    /// `[heads * head_dim, d]`
    pub q: Projection<D>,
    /// `[kv_heads * head_dim, d]`
    pub k: Projection<D>,
    /// `[kv_heads * head_dim, d]`
    pub v: Projection<D>,
    /// `[d, heads * head_dim]`
    pub o: Projection<D>,
    /// `[head_dim]` RMSNorm of each query head (qwen3)
    pub q_norm: Option<D::Vector>,
    /// `[head_dim]` RMSNorm of each key head
    pub k_norm: Option<D::Vector>,
    /// geometry and constants
    pub shape: AttnShape,
}

/// Geometry and constants of an attention layer.
#[derive(Clone, Debug)]
pub struct AttnShape {
    /// query heads
    pub heads: usize,
    /// KV heads; divides `heads`
    pub kv_heads: usize,
    /// elements per head
    pub head_dim: usize,
    /// score multiplier, usually `1/sqrt(head_dim)`
    pub scale: f32,
    /// epsilon of every norm of the layer
    pub eps: f32,
    /// rotary embedding
    pub rope: Arc<Rope>,
}

/// Weights of phases D and E.
pub struct FfnWeights<D: Device + ?Sized> {
    /// `[d]` RMSNorm before the projections
    pub norm: D::Vector,
    /// `[ff, d]`
    pub gate: Projection<D>,
    /// `[ff, d]`
    pub up: Projection<D>,
    /// `[d, ff]`
    pub down: Projection<D>,
    /// epsilon of the norm
    pub eps: f32,
}

/// The largest logit of a row; ties go to the lowest id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// token id
    pub token: Token,
    /// its logit
    pub logit: f32,
    /// a logit of this row was NaN: the sequence must fail
    pub nan: bool,
}

/// What to read from a batch's activations.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// `[vocab]` logits of the row, after [`Device::head`] was asked for them
    Logits(usize),
    /// `[d]` residual stream of the row
    Hidden(usize),
}

/// Sizes a batch buffer is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufShape {
    /// rows per batch at most
    pub rows: usize,
    /// residual width
    pub d: usize,
    /// query width, `heads * head_dim`
    pub q: usize,
    /// key (and value) width
    pub kv: usize,
    /// query heads
    pub heads: usize,
    /// KV heads
    pub kv_heads: usize,
    /// elements per head
    pub head_dim: usize,
    /// feed-forward width
    pub ff: usize,
    /// vocabulary
    pub vocab: usize,
    /// rows of a batch whose full logits may be asked for
    pub logits: usize,
    /// longest context, positions
    pub ctx: usize,
}

/// Anything a device can refuse.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Memory could not be had.
    #[error("could not allocate {bytes} bytes for {what}; use a smaller --ctx or a smaller model")]
    Memory {
        /// how much
        bytes: usize,
        /// what for
        what: &'static str,
    },
    /// A tensor that does not fit its description.
    #[error("tensor of {rows}×{cols} {kind} needs {want} bytes, got {got}")]
    Size {
        /// output rows
        rows: usize,
        /// input columns
        cols: usize,
        /// format
        kind: Kind,
        /// expected bytes
        want: usize,
        /// given bytes
        got: usize,
    },
    /// A packed matrix nobody here can read.
    #[error(
        "the layout `{layout}` is none of those this tamp reads ({known}); convert the model again: \
         tamp convert MODEL OUT.tamp"
    )]
    Layout {
        /// its name
        layout: String,
        /// those that can be read
        known: String,
    },
    /// Bytes that are no page of this geometry, or a page that is none.
    #[error("page {page} of this KV group takes {want} bytes, got {got}")]
    Page {
        /// the page
        page: u32,
        /// bytes of a page; 0 when the group has no such page
        want: usize,
        /// given bytes
        got: usize,
    },
    /// A format or width without a kernel.
    #[error("no kernel for {what}")]
    Unsupported {
        /// what was asked
        what: String,
    },
}

/// Arithmetic over a batch of rows, one call per phase. A phase is one fork-join over the device's workers.
///
/// Contract: a row's result depends on nothing but its own path (DESIGN 5.1): not on the other rows, the number of
/// rows, workers, or the order of calls.
pub trait Device: Send + Sync {
    /// activations and scratch of a batch
    type Buf: Send;
    /// a weight matrix
    type Linear: Send + Sync;
    /// a small f32 vector: norm weights, biases
    type Vector: Send + Sync;
    /// K and V of one group
    type Pages: Send;
    /// a pending read
    type Ticket;

    /// Takes a matrix of `rows × cols` in a file format.
    fn linear(&self, kind: Kind, rows: usize, cols: usize, bytes: &[u8])
    -> Result<Self::Linear, DeviceError>;
    /// Name of the layout that [`Device::packed`] gives a matrix of a format in.
    fn layout(&self, kind: Kind) -> &'static str;
    /// A matrix as the device holds it, for a bundle.
    fn packed<'a>(&self, w: &'a Self::Linear) -> &'a [u8];
    /// Takes a matrix that was packed before. In the device's own layout it is used where it lies; another one that
    /// the device can undo is rebuilt; any other is refused.
    fn adopt(
        &self,
        kind: Kind,
        rows: usize,
        cols: usize,
        layout: &str,
        bytes: Span,
    ) -> Result<Self::Linear, DeviceError>;
    /// Matrices taken so far, in either way: a run that moves this has not used what it had.
    fn made(&self) -> u64;
    /// Takes a vector.
    fn vector(&self, data: &[f32]) -> Result<Self::Vector, DeviceError>;
    /// Makes activations and scratch.
    fn buf(&self, shape: &BufShape) -> Result<Self::Buf, DeviceError>;
    /// Makes `pages` pages of a KV group.
    fn pages(&self, shape: &KvShape, pages: usize) -> Result<Self::Pages, DeviceError>;

    /// `x[r] = table[token[r]]`, for the rows that carry a token
    fn embed(&self, table: &Self::Linear, tokens: &[Token], rows: &RowMap, rope: &Rope, buf: &mut Self::Buf);
    /// norm → q, k, v → rope → write k, v into `layer` of the group
    fn phase_a(
        &self,
        w: &AttnWeights<Self>,
        rows: &RowMap,
        layer: usize,
        pages: &mut Self::Pages,
        buf: &mut Self::Buf,
    );
    /// attend
    fn phase_b(
        &self,
        shape: &AttnShape,
        rows: &RowMap,
        layer: usize,
        pages: &Self::Pages,
        buf: &mut Self::Buf,
    );
    /// output projection, residual add
    fn phase_c(&self, w: &AttnWeights<Self>, rows: &RowMap, buf: &mut Self::Buf);
    /// norm → gate, up → silu(gate) · up
    fn phase_d(&self, w: &FfnWeights<Self>, rows: &RowMap, buf: &mut Self::Buf);
    /// down projection, residual add
    fn phase_e(&self, w: &FfnWeights<Self>, rows: &RowMap, buf: &mut Self::Buf);
    /// Final norm and head of the named rows; the best token of each, and for the rows in `full` the logits stay in
    /// the buffer for [`Read::Logits`]. `full` is a subset of `rows`.
    fn head(
        &self,
        norm: &Self::Vector,
        eps: f32,
        head: &Self::Linear,
        rows: &[usize],
        full: &[usize],
        buf: &mut Self::Buf,
    ) -> Vec<Best>;
    /// Copies positions within a group, in order.
    fn copy_pages(&self, pages: &mut Self::Pages, moves: &[Move]);
    /// Name of the order in which [`Device::read_page`] gives a page's bytes: it changes whenever that does, so that pages
    /// which outlive a process are never read in another order.
    fn page_layout(&self) -> &'static str;
    /// Appends a page's bytes, all layers, to `out`: [`KvShape::page_bytes`] of them, in an order of the device's own.
    fn read_page(&self, pages: &Self::Pages, page: PageId, out: &mut Vec<u8>);
    /// Replaces a page by what [`Device::read_page`] gave for another of the same geometry.
    fn write_page(&self, pages: &mut Self::Pages, page: PageId, bytes: &[u8]) -> Result<(), DeviceError>;
    /// Starts reading something back.
    fn read_back(&self, buf: &Self::Buf, what: Read) -> Self::Ticket;
    /// Finishes a read: the values replace `out`'s contents.
    fn wait(&self, ticket: Self::Ticket, out: &mut Vec<f32>);

    /// Positions whose K and V, in each layer, the batch embedded last does not read again because rows that
    /// [`RowMap::alike`] names attend to them together.
    fn spared(&self, _: &Self::Buf) -> usize {
        0
    }

    /// Bytes a batch's activations and scratch take once fully used.
    fn buf_bytes(&self, buf: &Self::Buf) -> usize;
    /// Bytes a matrix occupies, and so costs to read once.
    fn linear_bytes(&self, w: &Self::Linear) -> usize;
    /// Name of the kernel that multiplies this matrix, for the plan: observed, never intended.
    fn linear_kernel(&self, w: &Self::Linear) -> String;
    /// Name of the device and its instruction set.
    fn name(&self) -> String;
}
