//! The tokenizer: text to tokens and back.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::added::{AddedSet, Part};
use crate::compiled::{Compiled, View};
use crate::merge::{Bpe, Scratch};
use crate::norm::Norm;
use crate::pre::{self, Step};
use crate::sentence::Sentence;
use crate::vocab::{Kind, Vocab};
use crate::word_piece::WordPiece;

/// Whether words that spell control tokens become those tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They do: for rendered templates and trusted prompts.
    Parse,
    /// They stay text: for what a user typed.
    Plain,
}

/// The algorithm behind a vocabulary.
#[derive(Debug)]
pub(crate) enum Model {
    Bpe(Bpe),
    Sentence(Sentence),
    WordPiece(WordPiece),
}

/// Text to tokens and back. Immutable; share it between threads.
///
/// The tables of the vocabulary are read where they are: in memory when the tokenizer was built from a model's
/// metadata, in a mapped file when it was compiled before. There is one form of them, so both give the same tokens.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) tables: Compiled,
    pub(crate) model: Model,
    /// found in the raw text
    pub(crate) added: AddedSet,
    /// found after normalizing
    pub(crate) added_normal: AddedSet,
    pub(crate) norms: Vec<Norm>,
    pub(crate) steps: Vec<Step>,
    /// what the model wants before the text
    pub(crate) prefix: Vec<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) ends: BTreeSet<u32>,
    /// a space that encoding put before the text and decoding takes away again
    pub(crate) strips_space: bool,
}

impl Tokenizer {
    /// Tokens of a text. `bos`: put the start token first if the model asks for one.
    pub fn encode(&self, text: &str, special: Special, bos: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 4 + 4);
        if bos {
            out.extend_from_slice(&self.prefix);
        }
        let mut scratch = Scratch::default();
        let view = self.tables.view();
        let special = special == Special::Parse;
        let mut first = true;
        self.added.split(text, special, |part| {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text(t) => self.encode_part(&view, t, first, special, &mut scratch, &mut out),
            }
            first = false;
        });
        out
    }

    fn encode_part(
        &self,
        v: &View,
        text: &str,
        first: bool,
        special: bool,
        s: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        let text = self.norms.iter().fold(Cow::Borrowed(text), |t, n| n.apply(t, first));
        self.added_normal.split(&text, special, |part| match part {
            Part::Token(id) => out.push(id),
            Part::Text(t) => match &self.model {
                Model::Sentence(m) => m.encode(&v.vocab, v.scores, t, out),
                Model::WordPiece(m) => m.encode(&v.vocab, t, out),
                Model::Bpe(m) => {
                    pre::words(&self.steps, t, &mut |word| m.encode(&v.vocab, &v.merges, word, s, out));
                }
            },
        });
    }

    /// Whether [`Tokenizer::encode`] with `bos` puts something first.
    pub fn adds_bos(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Bytes of a whole text; `special` shows control tokens. Ids out of range give nothing.
    ///
    /// A space that [`Tokenizer::encode`] put before the text is taken away from the start. For text that continues a prompt use
    /// [`crate::Detokenizer`], which keeps it.
    pub fn decode(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(ids.len() * 4);
        let vocab = self.vocab();
        let mut strip = self.strips_space;
        for &id in ids {
            let b = vocab.bytes(id);
            if is_control(&vocab, id) {
                if special {
                    out.extend_from_slice(b);
                    strip = false;
                }
                continue;
            }
            out.extend_from_slice(if strip { b.strip_prefix(b" ").unwrap_or(b) } else { b });
            strip = false;
        }
        out
    }

    fn vocab(&self) -> Vocab<'_> {
        self.tables.view().vocab
    }

    /// What a token reads as; control tokens as they are spelled. Empty for an id out of range.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.vocab().bytes(id)
    }

    /// Number of token ids.
    #[allow(clippy::len_without_is_empty)] // A tokenizer without tokens cannot be built.
    pub fn len(&self) -> usize {
        self.tables.ids()
    }

    /// The start token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a model that produces this token is done: end of text, of turn, of message.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// All tokens that end a generation.
    pub fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        self.ends.iter().copied()
    }

    /// Whether a token steers the model instead of saying something.
    pub fn is_control(&self, id: u32) -> bool {
        is_control(&self.vocab(), id)
    }

    /// The token spelled like this in the model's file (`<|im_end|>`, `Ġthe`, `▁the`).
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.vocab().id(piece.as_bytes())
    }

    /// How the model's file spells a token.
    pub fn piece(&self, id: u32) -> &str {
        std::str::from_utf8(self.vocab().text(id)).unwrap_or("")
    }
}

fn is_control(vocab: &Vocab, id: u32) -> bool {
    matches!(vocab.kind(id), Kind::Control | Kind::Unknown)
}

/// Names of tokens that end a turn; files often declare only one of several.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Every token that ends a generation: the declared ones and, of the control tokens, those of a known name.
pub(crate) fn end_tokens(vocab: &Vocab, declared: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let mut ends: BTreeSet<u32> = declared.into_iter().collect();
    let find = |name: &str| {
        vocab
            .id(name.as_bytes())
            .filter(|&id| matches!(vocab.kind(id), Kind::Control | Kind::UserDefined | Kind::Unknown))
    };
    ends.extend(END_NAMES.iter().filter_map(|n| find(n)));
    // In the harmony format `<|end|>` ends a message of several, not the turn.
    if let (Some(end), Some(_), Some(_)) = (find("<|end|>"), find("<|return|>"), find("<|call|>")) {
        ends.remove(&end);
    }
    ends
}
