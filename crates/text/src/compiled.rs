//! The compiled form of a tokenizer: tables that are read where they lie, so that opening one costs what its special
//! tokens and patterns cost and not what its vocabulary does.
//!
//! ```text
//! 8 bytes "tampTOK\n" · u32 version · u32 ids
//! seed and probe of the texts' table, of the merges' (u64, u32 each) · u32 longest text
//! 12 × (u64 offset, u64 length): rules, added, added after normalizing, texts, their ends, texts as read, their ends,
//!     kinds, texts to ids, merges, scores, byte tokens
//! the sections, each at a multiple of 8
//! ```
//!
//! All numbers are little-endian. The rules are JSON, because they are small and closed sets of words; the tables are
//! flat arrays. Opening checks what is cheap: sections inside the file, lengths that agree, every id in the rules and
//! the special tokens. The rest is checked at each access, where a contradiction reads as an empty text, a missing
//! token or no merge: hostile bytes give an error or wrong tokens, and every token is below the number of ids.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::added::{AddedSet, AddedToken};
use crate::bytes::Bytes;
use crate::error::{Error, brief};
use crate::merge::{Bpe, Start};
use crate::norm::Norm;
use crate::pre::{Cut, Step};
use crate::sentence::{Scores, Sentence};
use crate::slots::{MAX_PROBE, Merge, PairSlots, Shape, TextSlots};
use crate::tokenizer::{Model, Tokenizer};
use crate::vocab::{MAX_TOKENS, Strings, Tables, Vocab};
use crate::word_piece::WordPiece;

/// What this build writes and reads. A change of the tables, the hash or the rules' words is a new version.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"tampTOK\n";

/// Most normalizers and cuts a file may ask for.
pub const MAX_RULES: usize = 32;
/// Most that its compiled form has in one list: a rule of the file may stand for several.
const MAX_LIST: usize = 2 * MAX_RULES;

const RULES: usize = 0;
const ADDED: usize = 1;
const ADDED_NORMAL: usize = 2;
const TEXTS: usize = 3;
const TEXT_ENDS: usize = 4;
const READ: usize = 5;
const READ_ENDS: usize = 6;
const KINDS: usize = 7;
const BY_TEXT: usize = 8;
const MERGES: usize = 9;
const SCORES: usize = 10;
const BYTE_TOKENS: usize = 11;
const SECTIONS: usize = 12;

/// Bytes before the first section.
const HEAD: usize = 8 + 4 + 4 + 2 * 12 + 4 + SECTIONS * 16;

/// The token of each byte, none where there is none.
pub type ByteTokens = Box<[Option<u32>; 256]>;

/// Everything about a tokenizer that is small.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rules {
    /// the algorithm
    pub model: Engine,
    /// before cutting
    #[serde(deserialize_with = "few")]
    pub norms: Vec<Norm>,
    /// cuts into words
    #[serde(deserialize_with = "few")]
    pub cuts: Vec<Cut>,
    /// ids before a text
    pub prefix: Vec<u32>,
    /// start token
    pub bos: Option<u32>,
    /// end token
    pub eos: Option<u32>,
    /// all that end a generation
    pub ends: Vec<u32>,
    /// decoding takes a space off the start
    pub strips_space: bool,
}

/// A list that stops being read at [`MAX_LIST`]: every entry may cost an automaton.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a list of at most {MAX_LIST}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut s: A) -> Result<Vec<T>, A::Error> {
            let mut out = vec![];
            while let Some(v) = s.next_element()? {
                if out.len() == MAX_LIST {
                    return Err(A::Error::invalid_length(MAX_LIST + 1, &self));
                }
                out.push(v);
            }
            Ok(out)
        }
    }
    d.deserialize_seq(Few(PhantomData))
}

/// An algorithm and its switches.
#[derive(Debug, Serialize, Deserialize)]
pub enum Engine {
    /// byte-pair encoding, [`Bpe`]
    Bpe {
        /// from bytes, not characters
        from_bytes: bool,
        /// characters without a token become bytes
        fallback: bool,
        /// [`Bpe::ignore_merges`]
        ignore_merges: bool,
        /// [`Bpe::unknown`]
        unknown: Option<u32>,
        /// [`Bpe::fuse_unknown`]
        fuse_unknown: bool,
    },
    /// SentencePiece, [`Sentence`]
    Sentence {
        /// [`Sentence::unknown`]
        unknown: Option<u32>,
    },
    /// WordPiece
    WordPiece(WordPiece),
}

/// What a tokenizer is compiled from.
pub struct Parts {
    /// the vocabulary
    pub vocab: Tables,
    /// by rank
    pub merges: Vec<Merge>,
    /// per token, or none
    pub scores: Vec<f32>,
    /// the token of each byte, for the engines that use it
    pub byte_tokens: Option<ByteTokens>,
    /// found in the raw text
    pub added: Vec<AddedToken>,
    /// found after normalizing
    pub added_normal: Vec<AddedToken>,
    /// the rest
    pub rules: Rules,
}

impl Parts {
    /// Compiles, and opens what was compiled.
    pub fn open(self) -> Result<Tokenizer, Error> {
        Tokenizer::from_compiled(Bytes::from(self.write()?))
    }

    fn write(self) -> Result<Vec<u8>, Error> {
        let (merges, pairs) = PairSlots::build(&self.merges)?;
        let v = self.vocab;
        let mut scores = Vec::with_capacity(self.scores.len() * 4);
        self.scores.iter().for_each(|s| scores.extend_from_slice(&s.to_le_bytes()));
        let tokens = self.byte_tokens.iter().flat_map(|t| t.iter());
        let byte_tokens = tokens.flat_map(|t| t.unwrap_or(u32::MAX).to_le_bytes()).collect();
        let rules = serde_json::to_vec(&self.rules).map_err(|e| Error::Compiled(e.to_string()))?;
        let (added, normal) = (AddedSet::new(self.added)?.write(), AddedSet::new(self.added_normal)?.write());
        let sections: [Vec<u8>; SECTIONS] = [
            rules,
            added,
            normal,
            v.texts,
            v.text_ends,
            v.read,
            v.read_ends,
            v.kinds,
            v.by_text,
            merges,
            scores,
            byte_tokens,
        ];
        let total = sections.iter().fold(HEAD, |at, s| at.next_multiple_of(8) + s.len());
        let mut out = Vec::with_capacity(total);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(sections[KINDS].len() as u32).to_le_bytes());
        for s in [v.shape, pairs] {
            out.extend_from_slice(&s.seed.to_le_bytes());
            out.extend_from_slice(&s.probe.to_le_bytes());
        }
        out.extend_from_slice(&u32::try_from(v.longest).unwrap_or(u32::MAX).to_le_bytes());
        let mut at = HEAD;
        for s in &sections {
            at = at.next_multiple_of(8);
            out.extend_from_slice(&(at as u64).to_le_bytes());
            out.extend_from_slice(&(s.len() as u64).to_le_bytes());
            at += s.len();
        }
        for s in &sections {
            out.resize(out.len().next_multiple_of(8), 0);
            out.extend_from_slice(s);
        }
        Ok(out)
    }
}

/// An open compiled form: where its sections are.
#[derive(Debug)]
pub struct Compiled {
    bytes: Bytes,
    sections: [Range<usize>; SECTIONS],
    ids: usize,
    longest: usize,
    texts: Shape,
    pairs: Shape,
}

/// The tables of a vocabulary, ready to be read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// texts, bytes, kinds
    pub vocab: Vocab<'a>,
    /// of byte-pair encoding
    pub merges: PairSlots<'a>,
    /// of SentencePiece
    pub scores: Scores<'a>,
}

/// Reads the head, which is of a fixed size.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (a, b) = self.0.split_first_chunk().ok_or_else(|| broken("it ends inside its head"))?;
        self.0 = b;
        Ok(*a)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_le_bytes)
    }

    fn shape(&mut self) -> Result<Shape, Error> {
        let shape = Shape { seed: self.u64()?, probe: self.u32()? };
        if shape.probe > MAX_PROBE {
            return Err(broken(&format!("a table asks for {} probes, at most {MAX_PROBE}", shape.probe)));
        }
        Ok(shape)
    }
}

fn broken(what: &str) -> Error {
    Error::Compiled(what.into())
}

impl Compiled {
    fn open(bytes: Bytes) -> Result<Self, Error> {
        let all = bytes.as_slice();
        let mut h = Head(all);
        if &h.take()? != MAGIC {
            return Err(broken("it does not start as one"));
        }
        let version = h.u32()?;
        if version != VERSION {
            return Err(Error::Unsupported {
                what: "compiled form",
                name: format!("version {version}"),
                known: format!("version {VERSION}; make it again from the model's own file"),
            });
        }
        let ids = h.u32()? as usize;
        if ids == 0 || ids > MAX_TOKENS {
            return Err(broken(&format!("it has {ids} tokens, expected 1 to {MAX_TOKENS}")));
        }
        let (texts, pairs) = (h.shape()?, h.shape()?);
        let longest = h.u32()? as usize;
        let mut sections: [Range<usize>; SECTIONS] = Default::default();
        for (i, s) in sections.iter_mut().enumerate() {
            let (at, len) = (h.u64()?, h.u64()?);
            *s = usize::try_from(at)
                .ok()
                .zip(at.checked_add(len).and_then(|e| usize::try_from(e).ok()))
                .map(|(at, end)| at..end)
                .filter(|r| all.get(r.clone()).is_some())
                .ok_or_else(|| {
                    broken(&format!("section {i} is {len} bytes at {at}, of {} bytes in all", all.len()))
                })?;
        }
        let exact = [(TEXT_ENDS, 4 * ids), (READ_ENDS, 4 * ids), (KINDS, ids)];
        if let Some((i, want)) = exact.into_iter().find(|&(i, want)| sections[i].len() != want) {
            let got = sections[i].len();
            return Err(broken(&format!("section {i} has {got} bytes for {ids} tokens, expected {want}")));
        }
        let c = Self { bytes, sections, ids, longest, texts, pairs };
        let fits = c.section(BY_TEXT).len().is_multiple_of(4)
            && PairSlots::fits(c.section(MERGES))
            && c.section(SCORES).len().is_multiple_of(4);
        if !fits {
            return Err(broken("a table ends inside an entry"));
        }
        Ok(c)
    }

    fn section(&self, i: usize) -> &[u8] {
        self.bytes.as_slice().get(self.sections[i].clone()).unwrap_or(&[])
    }

    /// Number of ids.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// The tables. Take it once per text, not per token.
    pub fn view(&self) -> View<'_> {
        let all = self.bytes.as_slice();
        let section = |i: usize| all.get(self.sections[i].clone()).unwrap_or(&[]);
        View {
            vocab: Vocab {
                texts: Strings::new(section(TEXTS), section(TEXT_ENDS)),
                read: Strings::new(section(READ), section(READ_ENDS)),
                kinds: section(KINDS),
                by_text: TextSlots::new(section(BY_TEXT), self.texts),
                longest: self.longest,
            },
            merges: PairSlots::new(section(MERGES), self.pairs),
            scores: Scores(section(SCORES).as_chunks().0),
        }
    }

    /// The token of each byte; none where the file says nothing.
    fn byte_tokens(&self) -> ByteTokens {
        let all = self.section(BYTE_TOKENS).as_chunks().0;
        Box::new(std::array::from_fn(|b| {
            all.get(b).map(|t| u32::from_le_bytes(*t)).filter(|&t| (t as usize) < self.ids)
        }))
    }

    fn added(&self, section: usize) -> Result<AddedSet, Error> {
        AddedSet::read(self.section(section), self.ids)
            .ok_or_else(|| broken(&format!("section {section} is not a list of special tokens")))?
    }
}

impl Rules {
    /// Every id it names.
    fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        let unknown = match &self.model {
            Engine::Bpe { unknown, .. } | Engine::Sentence { unknown } => *unknown,
            Engine::WordPiece(w) => w.unknown,
        };
        let one = [self.bos, self.eos, unknown];
        self.prefix.iter().chain(&self.ends).copied().chain(one.into_iter().flatten())
    }
}

impl Tokenizer {
    /// The tokenizer as one block of bytes that [`Tokenizer::from_compiled`] opens in place.
    pub fn compile(&self) -> Vec<u8> {
        self.tables.bytes.as_slice().to_vec()
    }

    /// Opens a compiled tokenizer without copying its tables: the cost is that of its special tokens and patterns,
    /// whatever the size of the vocabulary. Bytes that are not what [`Tokenizer::compile`] wrote end in an error or in
    /// wrong tokens below [`Tokenizer::len`]; whoever stores them keeps a hash.
    pub fn from_compiled(bytes: Bytes) -> Result<Self, Error> {
        let tables = Compiled::open(bytes)?;
        let rules: Rules = serde_json::from_slice(tables.section(RULES))
            .map_err(|e| broken(&format!("its rules cannot be read: {}", brief(&e.to_string(), 200))))?;
        if let Some(id) = rules.ids().find(|&id| id as usize >= tables.ids) {
            return Err(broken(&format!("its rules name token {id} of {}", tables.ids)));
        }
        let model = match rules.model {
            Engine::Bpe { from_bytes, fallback, ignore_merges, unknown, fuse_unknown } => {
                let start = match (from_bytes, fallback) {
                    (true, _) => Start::Bytes(tables.byte_tokens()),
                    (false, true) => Start::Chars(Some(tables.byte_tokens())),
                    (false, false) => Start::Chars(None),
                };
                Model::Bpe(Bpe { start, ignore_merges, unknown, fuse_unknown })
            }
            Engine::Sentence { unknown } => {
                Model::Sentence(Sentence { bytes: tables.byte_tokens(), unknown })
            }
            Engine::WordPiece(w) => Model::WordPiece(w),
        };
        Ok(Self {
            model,
            added: tables.added(ADDED)?,
            added_normal: tables.added(ADDED_NORMAL)?,
            norms: rules.norms,
            steps: rules.cuts.iter().map(Step::new).collect::<Result<_, _>>()?,
            prefix: rules.prefix,
            bos: rules.bos,
            eos: rules.eos,
            ends: rules.ends.into_iter().collect(),
            strips_space: rules.strips_space,
            tables,
        })
    }
}
