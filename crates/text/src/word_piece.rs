//! WordPiece as BERT has it: words by white space and punctuation, each the longest tokens from the left.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::vocab::{MAX_PIECE, Vocab};

/// The engine; the vocabulary writes word starts with `▁`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WordPiece {
    /// for a word that the vocabulary cannot say
    pub unknown: Option<u32>,
    /// lower case first
    pub lowercase: bool,
    /// combining marks dropped
    pub strip_accents: bool,
    /// longest token, bytes
    pub longest: usize,
}

impl WordPiece {
    /// Appends the tokens of a text.
    pub fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut word = String::from("▁");
        let flush = |word: &mut String, out: &mut Vec<u32>| {
            if word.len() > '▁'.len_utf8() {
                self.word(vocab, word, out);
                word.truncate('▁'.len_utf8());
            }
        };
        let mut one = |c: char, out: &mut Vec<u32>| {
            if c.is_whitespace() {
                flush(&mut word, out);
            } else if c == '\u{fffd}' || c.is_control() || self.strip_accents && is_combining_mark(c) {
            } else if stands_alone(c) {
                flush(&mut word, out);
                word.push(c);
                flush(&mut word, out);
            } else if self.lowercase {
                word.extend(c.to_lowercase());
            } else {
                word.push(c);
            }
        };
        if self.strip_accents {
            text.nfd().for_each(|c| one(c, out));
        } else {
            text.chars().for_each(|c| one(c, out));
        }
        flush(&mut word, out);
    }

    fn word(&self, vocab: &Vocab, word: &str, out: &mut Vec<u32>) {
        let mark = out.len();
        let mut at = 0;
        while at < word.len() {
            let most = (at + self.longest.min(MAX_PIECE)).min(word.len());
            let found = (at + 1..=most)
                .rev()
                .filter(|&e| word.is_char_boundary(e))
                .find_map(|e| vocab.id(&word.as_bytes()[at..e]).map(|id| (id, e)));
            let Some((id, end)) = found else {
                out.truncate(mark);
                out.extend(self.unknown);
                return;
            };
            out.push(id);
            at = end;
        }
    }
}

/// Punctuation, ASCII symbols and CJK ideographs are words of their own.
fn stands_alone(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c as u32,
            0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
        || is_punctuation(c)
}

/// General category P outside ASCII.
fn is_punctuation(c: char) -> bool {
    // Blocks that hold nearly all of it; exact membership comes from the pattern engine's tables.
    !c.is_alphanumeric() && crate::unicode::is_punctuation(c)
}
