//! SentencePiece BPE of one text: neighbours whose joined text is a token merge by score, highest first; what is no
//! token at the end falls back to bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::vocab::{Kind, MAX_PIECE, Vocab};

/// A score-driven merge engine; the scores are a table of the vocabulary's file.
#[derive(Debug)]
pub struct Sentence {
    /// the token of each byte
    pub bytes: Box<[Option<u32>; 256]>,
    /// for bytes without a token
    pub unknown: Option<u32>,
}

/// 32-bit little-endian floats, one per token; a missing score counts as 0.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a>(pub &'a [[u8; 4]]);

impl Scores<'_> {
    fn get(&self, id: u32) -> f32 {
        self.0.get(id as usize).map_or(0.0, |b| f32::from_le_bytes(*b))
    }
}

/// The byte tokens of a vocabulary, where they are of that kind.
pub fn byte_tokens(vocab: &Vocab) -> Box<[Option<u32>; 256]> {
    let mut bytes = vocab.byte_tokens();
    for b in bytes.iter_mut() {
        *b = b.filter(|&id| vocab.kind(id) == Kind::Byte);
    }
    bytes
}

struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

struct Merge {
    score: f32,
    left: usize,
    len: usize,
}

impl Ord for Merge {
    fn cmp(&self, o: &Self) -> Ordering {
        self.score.total_cmp(&o.score).then(o.left.cmp(&self.left)).then(self.len.cmp(&o.len))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, o: &Self) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}

impl PartialEq for Merge {
    fn eq(&self, o: &Self) -> bool {
        self.cmp(o).is_eq()
    }
}

impl Eq for Merge {}

const END: usize = usize::MAX;

impl Sentence {
    /// The token of a text. Text that spells a control or byte token is not that token.
    fn token(vocab: &Vocab, text: &str) -> Option<u32> {
        let id = vocab.piece(text.as_bytes())?;
        matches!(vocab.kind(id), Kind::Normal | Kind::UserDefined | Kind::Unused).then_some(id)
    }

    /// Appends the tokens of a text whose spaces are already `▁`.
    pub fn encode(&self, vocab: &Vocab, scores: Scores, text: &str, out: &mut Vec<u32>) {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: if i == 0 { END } else { i - 1 },
                next: i + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
        let mut heap = BinaryHeap::new();
        let offer = |symbols: &[Symbol], heap: &mut BinaryHeap<Merge>, left: usize| {
            let l = &symbols[left];
            if l.next == END {
                return;
            }
            let len = l.len + symbols[l.next].len;
            if len > MAX_PIECE {
                return;
            }
            if let Some(id) = Self::token(vocab, &text[l.start..l.start + len]) {
                heap.push(Merge { score: scores.get(id), left, len });
            }
        };
        for i in 0..symbols.len() {
            offer(&symbols, &mut heap, i);
        }
        while let Some(m) = heap.pop() {
            let (left_len, next) = (symbols[m.left].len, symbols[m.left].next);
            // Stale if either side is gone or has grown since.
            if left_len == 0 || next == END || left_len + symbols[next].len != m.len {
                continue;
            }
            let after = symbols[next].next;
            symbols[m.left].len = m.len;
            symbols[m.left].next = after;
            symbols[next].len = 0;
            if after != END {
                symbols[after].prev = m.left;
            }
            let before = symbols[m.left].prev;
            if before != END {
                offer(&symbols, &mut heap, before);
            }
            offer(&symbols, &mut heap, m.left);
        }
        for s in symbols.iter().filter(|s| s.len > 0) {
            let piece = &text[s.start..s.start + s.len];
            match Self::token(vocab, piece) {
                Some(id) => out.push(id),
                None => {
                    out.extend(piece.bytes().filter_map(|b| self.bytes[b as usize].or(self.unknown)));
                }
            }
        }
    }
}
