//! Byte-pair encoding of one word: merges by rank, in O(n log n) whatever the word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::byte_level;
use crate::slots::{Merge, PairSlots};
use crate::vocab::Vocab;

/// A symbol that no token spells.
const NONE: u32 = u32::MAX;
/// A symbol swallowed by its left neighbour.
const DEAD: u32 = u32::MAX - 1;
const END: u32 = u32::MAX;

/// What the merging starts from.
#[derive(Debug)]
pub enum Start {
    /// Bytes; their tokens in the byte alphabet.
    Bytes(Box<[Option<u32>; 256]>),
    /// Characters; what is not a token falls back to byte tokens where there are some.
    Chars(Option<Box<[Option<u32>; 256]>>),
}

/// A merge engine; the merges are a table of the vocabulary's file.
#[derive(Debug)]
pub struct Bpe {
    /// what the merging starts from
    pub start: Start,
    /// words that are tokens are taken whole
    pub ignore_merges: bool,
    /// for what no token spells
    pub unknown: Option<u32>,
    /// one unknown token for a run of them
    pub fuse_unknown: bool,
}

/// Buffers reused from word to word.
#[derive(Default)]
pub struct Scratch {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<u64>>,
    text: String,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// The byte alphabet's tokens in a vocabulary.
pub fn byte_tokens(vocab: &Vocab) -> Box<[Option<u32>; 256]> {
    Box::new(std::array::from_fn(|b| {
        let mut buf = [0; 4];
        vocab.id(byte_level::CHARS[b].encode_utf8(&mut buf).as_bytes())
    }))
}

/// Reads merges as files spell them.
pub struct Merges<'v> {
    vocab: &'v Vocab<'v>,
    list: Vec<Merge>,
    buf: Vec<u8>,
}

impl<'v> Merges<'v> {
    /// An empty list with room.
    pub fn with_capacity(vocab: &'v Vocab<'v>, merges: usize) -> Self {
        Self { vocab, list: Vec::with_capacity(merges), buf: vec![] }
    }

    /// Adds the merge of this rank; false if a part or the result is not a token.
    pub fn add(&mut self, rank: u32, left: &str, right: &str) -> bool {
        self.buf.clear();
        self.buf.extend_from_slice(left.as_bytes());
        self.buf.extend_from_slice(right.as_bytes());
        let id = |text: &[u8]| self.vocab.id(text);
        let (Some(left), Some(right), Some(merged)) =
            (id(left.as_bytes()), id(right.as_bytes()), id(&self.buf))
        else {
            return false;
        };
        self.list.push(Merge { left, right, merged, rank });
        true
    }

    /// What was added, by rank.
    pub fn list(self) -> Vec<Merge> {
        self.list
    }
}

impl Bpe {
    /// Appends the tokens of one word.
    pub fn encode(&self, vocab: &Vocab, merges: &PairSlots, word: &str, s: &mut Scratch, out: &mut Vec<u32>) {
        if self.ignore_merges {
            let whole = match self.start {
                Start::Bytes(_) => {
                    s.text.clear();
                    byte_level::encode(word.as_bytes(), &mut s.text);
                    vocab.piece(s.text.as_bytes())
                }
                Start::Chars(_) => vocab.piece(word.as_bytes()),
            };
            if let Some(id) = whole {
                out.push(id);
                return;
            }
        }
        s.symbols.clear();
        match &self.start {
            Start::Bytes(t) => s.symbols.extend(word.bytes().map(|b| symbol(t[b as usize]))),
            Start::Chars(fallback) => {
                let mut buf = [0; 4];
                for c in word.chars() {
                    let utf8 = c.encode_utf8(&mut buf).as_bytes();
                    match (vocab.id(utf8), fallback) {
                        (None, Some(t)) if utf8.iter().all(|&b| t[b as usize].is_some()) => {
                            s.symbols.extend(utf8.iter().map(|&b| symbol(t[b as usize])));
                        }
                        (id, _) => s.symbols.push(symbol(id)),
                    }
                }
            }
        }
        merge(merges, vocab.len(), s);
        let mut after_unknown = false;
        for sym in &s.symbols {
            match sym.id {
                DEAD => continue,
                NONE => {
                    if !(after_unknown && self.fuse_unknown) {
                        out.extend(self.unknown);
                    }
                    after_unknown = true;
                    continue;
                }
                id => out.push(id),
            }
            after_unknown = false;
        }
    }
}

/// Merges until nothing does. A pair whose result is no id below `ids` does not merge.
fn merge(merges: &PairSlots, ids: usize, s: &mut Scratch) {
    let find = |l, r| merges.find(l, r).filter(|m| (m.1 as usize) < ids);
    let offer = |s: &mut Scratch, left: u32, right: u32| {
        let (l, r) = (s.symbols[left as usize].id, s.symbols[right as usize].id);
        if let Some((rank, _)) = find(l, r) {
            s.heap.push(Reverse(u64::from(rank) << 32 | u64::from(left)));
        }
    };
    let n = s.symbols.len();
    s.heap.clear();
    for i in 0..n {
        s.symbols[i].prev = if i == 0 { END } else { i as u32 - 1 };
        s.symbols[i].next = if i + 1 == n { END } else { i as u32 + 1 };
    }
    for i in 1..n {
        offer(s, i as u32 - 1, i as u32);
    }
    while let Some(Reverse(entry)) = s.heap.pop() {
        let (rank, at) = ((entry >> 32) as u32, entry as u32);
        let left = s.symbols[at as usize];
        // An entry is stale if the pair that made it is gone; a rank belongs to one pair only.
        if left.id >= DEAD || left.next == END {
            continue;
        }
        let right = s.symbols[left.next as usize];
        let Some((r, merged)) = find(left.id, right.id) else { continue };
        if r != rank {
            continue;
        }
        s.symbols[left.next as usize].id = DEAD;
        s.symbols[at as usize] = Symbol { id: merged, prev: left.prev, next: right.next };
        if right.next != END {
            s.symbols[right.next as usize].prev = at;
            offer(s, at, right.next);
        }
        if left.prev != END {
            offer(s, left.prev, at);
        }
    }
}

fn symbol(id: Option<u32>) -> Symbol {
    Symbol { id: id.unwrap_or(NONE), prev: END, next: END }
}
