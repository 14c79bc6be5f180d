//! Memory of the sequences: pages with reference counts, page tables, copy-on-write, commit and rewind (DESIGN 5.8).
//!
//! | module | what it holds |
//! |---|---|
//! | [`book`] | the bookkeeping, which knows no device: who holds which page, and which positions must be copied |
//! | [`prefix`] | keys, limits, counts and events of the cache of prefixes, and why it missed |
//! | [`layer`] | where a model layer's K and V live |
//! | [`tier`] | the room `kv.tier`: where cached pages go beside memory |
//! | [`codec`] | the room `kv.codec`: how a stored element is written |
//! | [`pick`] | the room `kv.pick`: which keys a batch's rows read together |
//! | [`Kv`] | the book together with the device's pages |
//!
//! Nobody writes a page outside a forward pass, and a forward pass runs the queued copies before anything else. So a
//! page may be freed and handed on while a copy out of it still waits: the queue keeps its order.
#![forbid(unsafe_code)]

pub mod book;
pub mod codec;
pub mod layer;
pub mod pick;
mod pool;
pub mod prefix;
mod spill;
pub mod tier;

use tamp_base::ids::{PAGE, PageId, SeqId, Token};
use tamp_kernels::device::{DeviceError, KvShape, Move};

pub use book::Book;
pub use layer::LayerView;
pub use prefix::{Hot, KvEvent, Miss, PrefixCounts, PrefixKey, PrefixLimits, Reason};
pub use tamp_kernels::device::Device;
pub use tier::{Tier, TierCounts, TierCtx};

/// What the memory can refuse.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// No free pages; the caller preempts, waits or refuses the request.
    #[error(
        "the KV pool needs {need} pages and has {free} of {total} free; end a sequence or use a smaller --ctx"
    )]
    Full {
        /// pages needed in the fullest group
        need: usize,
        /// pages free there
        free: usize,
        /// pages per group
        total: usize,
    },
    /// A sequence that was never opened or is closed.
    #[error("KV sequence {} is not open", .0.0)]
    Unknown(SeqId),
    /// Fork between reserve and commit.
    #[error("KV sequence {} has {rows} uncommitted rows; commit them before it is forked", .seq.0)]
    Busy {
        /// the sequence
        seq: SeqId,
        /// its reserved rows
        rows: usize,
    },
    /// Kept rows that are no path of the last batch.
    #[error("rows {kept:?} of KV sequence {} are not an ascending path within its {rows} reserved rows", .seq.0)]
    Path {
        /// the sequence
        seq: SeqId,
        /// what was to be kept
        kept: Vec<u32>,
        /// its reserved rows
        rows: usize,
    },
    /// The device could not make the pages.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Page tables of all sequences, and the pages themselves on the device, one pool per KV group.
pub struct Kv<D: Device> {
    book: Book,
    shapes: Vec<KvShape>,
    pages: Vec<D::Pages>,
    tier: Box<dyn Tier>,
}

impl<D: Device> Kv<D> {
    /// Makes `pages_per_group` pages of every group.
    pub fn new(device: &D, groups: &[KvShape], pages_per_group: usize) -> Result<Self, KvError> {
        let pages = groups.iter().map(|g| device.pages(g, pages_per_group)).collect::<Result<Vec<_>, _>>()?;
        let book = Book::new(groups.len(), pages_per_group);
        Ok(Kv { book, shapes: groups.to_vec(), pages, tier: tier::nowhere() })
    }

    /// Opens an empty sequence.
    pub fn open(&mut self) -> SeqId {
        self.book.open()
    }

    /// Ends a sequence and frees the pages nobody else holds. Unknown ids are ignored.
    pub fn close(&mut self, seq: SeqId) {
        self.book.close(seq);
    }

    /// A second sequence with the same past. Pages are shared; a partial tail is copied at the first write.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, KvError> {
        self.book.fork(seq)
    }

    /// Committed positions; 0 for an unknown sequence.
    pub fn len(&self, seq: SeqId) -> usize {
        self.book.len(seq)
    }

    /// No sequence is open.
    pub fn is_empty(&self) -> bool {
        self.book.is_empty()
    }

    /// Makes slots `len..len + rows` writable for this sequence alone, all or nothing. Calling it again before the
    /// commit changes the number of rows.
    pub fn reserve(&mut self, seq: SeqId, rows: usize) -> Result<(), KvError> {
        self.book.reserve(seq, rows)
    }

    /// Pages that [`Kv::reserve`] would take from the pool.
    pub fn need(&self, seq: SeqId, rows: usize) -> usize {
        self.book.need(seq, rows)
    }

    /// Pages to be had, in the fullest group: free ones, and those that only the prefix tree holds.
    pub fn room(&self) -> usize {
        self.book.room()
    }

    /// Pages per group.
    pub fn total(&self) -> usize {
        self.book.total()
    }

    /// Page ids of a sequence in a group: page `i` holds slots `i * PAGE..(i + 1) * PAGE`.
    pub fn table(&self, seq: SeqId, group: usize) -> &[PageId] {
        self.book.table(seq, group)
    }

    /// Page tables of a sequence, group by group.
    pub fn tables(&self, seq: SeqId) -> impl Iterator<Item = &[PageId]> {
        (0..self.groups()).map(move |g| self.table(seq, g))
    }

    /// Ends the uncommitted batch of a sequence. `kept` are indices of its rows in that batch, in path order; they
    /// end up in slots `len..len + kept.len()`, and pages that are no longer needed are given back. An empty `kept`
    /// forgets the batch.
    pub fn commit(&mut self, seq: SeqId, kept: &[u32]) -> Result<(), KvError> {
        self.book.commit(seq, kept)
    }

    /// Forgets positions from `len` on and returns the length it could honour. Pages shared with others stay theirs.
    pub fn rewind(&mut self, seq: SeqId, len: usize) -> usize {
        self.book.rewind(seq, len)
    }

    /// [`Book::publish`]
    pub fn publish(&mut self, seq: SeqId, root: PrefixKey, tokens: &[Token]) -> usize {
        self.book.publish(seq, root, tokens)
    }

    /// [`Book::matched`]
    pub fn matched(&self, root: &PrefixKey, tokens: &[Token]) -> usize {
        self.book.matched(root, tokens)
    }

    /// [`Book::adopt`]
    pub fn adopt(&mut self, seq: SeqId, root: PrefixKey, tokens: &[Token], most: usize) -> usize {
        self.book.adopt(seq, root, tokens, most)
    }

    /// [`Book::explain`]
    pub fn explain(&self, root: &PrefixKey, tokens: &[Token]) -> Miss {
        self.book.explain(root, tokens)
    }

    /// Queued copies of a group, in order; the forward pass runs them before anything else.
    pub fn take_moves(&mut self, group: usize) -> Vec<Move> {
        self.book.take_moves(group)
    }

    /// The device's pages of a group.
    pub fn pages(&self, group: usize) -> &D::Pages {
        &self.pages[group]
    }

    /// The device's pages of a group, to write.
    pub fn pages_mut(&mut self, group: usize) -> &mut D::Pages {
        &mut self.pages[group]
    }

    /// Where a model layer's K and V live. Groups hold consecutive layers.
    pub fn layer(&self, layer: usize) -> LayerView {
        LayerView::of(&self.shapes, layer)
    }

    /// The bookkeeping: limits, counts, events and the hottest entries of the prefix cache.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The bookkeeping, for policies that decide who holds pages.
    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.shapes.len()
    }

    /// Geometry of the groups.
    pub fn shapes(&self) -> &[KvShape] {
        &self.shapes
    }

    /// Bytes of one position's K and V, all groups and layers.
    pub fn position_bytes(&self) -> usize {
        self.shapes.iter().map(|s| s.page_bytes() / PAGE).sum()
    }

    /// Whether the books balance; run after every step in tests and when idle.
    pub fn integrity(&self) -> Result<(), String> {
        self.book.integrity()
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        self.book.total() * self.shapes.iter().map(KvShape::page_bytes).sum::<usize>()
    }

    /// Positions that all pages together can hold.
    pub fn capacity(&self) -> usize {
        self.book.total() * PAGE
    }
}
