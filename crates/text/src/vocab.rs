//! The token table: text as the file spells it, bytes as a person reads them, kind, and the way back.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::byte_level;
use crate::error::Error;

/// What a token is for, with GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// text
    Normal,
    /// stands for what the vocabulary cannot say
    Unknown,
    /// steers the model; never the result of plain text
    Control,
    /// added by hand; found in plain text before anything else
    UserDefined,
    /// a hole
    Unused,
    /// one byte, for what the vocabulary cannot say
    Byte,
}

impl Kind {
    /// GGUF's `tokenizer.ggml.token_type`.
    pub fn from_gguf(n: i64) -> Self {
        match n {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

/// How a token's text spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// GPT-2's byte alphabet.
    ByteLevel,
    /// SentencePiece's: `▁` is a space, `<0xNN>` of kind [`Kind::Byte`] a byte.
    Sentence,
    /// WordPiece: `▁` starts a word, as GGUF writes it.
    Word,
}

/// Most tokens a vocabulary may have; the largest published one has 262 144.
pub const MAX_TOKENS: usize = 1 << 21;
/// Longest token looked up while merging, bytes; keeps the cost of a long run linear.
pub const MAX_PIECE: usize = 1024;

#[derive(Debug, Default)]
struct Arena {
    data: Vec<u8>,
    ends: Vec<u32>,
}

impl Arena {
    fn get(&self, i: u32) -> &[u8] {
        let i = i as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.data[start as usize..end as usize]
    }

    fn seal(&mut self) -> Result<(), Error> {
        let end = u32::try_from(self.data.len())
            .map_err(|_| Error::Broken("the vocabulary's text is over 4 GiB".into()))?;
        self.ends.push(end);
        Ok(())
    }
}

/// An immutable token table.
#[derive(Debug)]
pub struct Vocab {
    text: Arena,
    bytes: Arena,
    kinds: Vec<Kind>,
    by_text: HashTable<u32>,
    // Keyed hashing: a hostile vocabulary cannot make the table slow.
    hasher: RandomState,
    longest: usize,
}

impl Vocab {
    /// Builds the table; of equal texts the first id wins.
    pub fn new<'a>(
        tokens: impl ExactSizeIterator<Item = (&'a str, Kind)>,
        spelling: Spelling,
    ) -> Result<Self, Error> {
        let n = tokens.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(Error::Broken(format!("it has {n} tokens, expected 1 to {MAX_TOKENS}")));
        }
        let mut v = Self {
            text: Arena::default(),
            bytes: Arena::default(),
            kinds: Vec::with_capacity(n),
            by_text: HashTable::with_capacity(n),
            hasher: RandomState::new(),
            longest: 0,
        };
        for (id, (text, kind)) in tokens.enumerate() {
            v.text.data.extend_from_slice(text.as_bytes());
            v.text.seal()?;
            spell(text, kind, spelling, &mut v.bytes.data);
            v.bytes.seal()?;
            v.kinds.push(kind);
            if kind != Kind::Unused || !text.is_empty() {
                v.index(id as u32, text.as_bytes());
            }
        }
        Ok(v)
    }

    fn index(&mut self, id: u32, text: &[u8]) {
        let Self { text: arena, by_text, hasher, longest, .. } = self;
        *longest = (*longest).max(text.len());
        let hash = hasher.hash_one(text);
        if by_text.find(hash, |&o| arena.get(o) == text).is_none() {
            by_text.insert_unique(hash, id, |&o| hasher.hash_one(arena.get(o)));
        }
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The id of a text as the file spells it.
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.by_text.find(self.hasher.hash_one(text), |&o| self.text.get(o) == text).copied()
    }

    /// The id of a text short enough to be merged.
    pub fn piece(&self, text: &[u8]) -> Option<u32> {
        if text.len() > MAX_PIECE { None } else { self.id(text) }
    }

    /// The text as the file spells it.
    pub fn text(&self, id: u32) -> &[u8] {
        self.text.get(id)
    }

    /// The bytes a person reads; empty for an id out of range.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// The kind; [`Kind::Unused`] for an id out of range.
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// The token of each byte: `<0xNN>` where the vocabulary has it.
    pub fn byte_tokens(&self) -> Box<[Option<u32>; 256]> {
        Box::new(std::array::from_fn(|b| self.id(format!("<0x{b:02X}>").as_bytes())))
    }
}

/// `<0xNN>` → NN.
pub fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

fn spell(text: &str, kind: Kind, spelling: Spelling, out: &mut Vec<u8>) {
    match (kind, spelling) {
        (Kind::Byte, _) if parse_byte(text).is_some() => out.extend(parse_byte(text)),
        (Kind::Control | Kind::Unknown, _) => out.extend_from_slice(text.as_bytes()),
        (Kind::UserDefined, Spelling::ByteLevel) => out.extend_from_slice(text.as_bytes()),
        (_, Spelling::ByteLevel) => {
            if !byte_level::decode(text, out) {
                out.extend_from_slice(text.as_bytes());
            }
        }
        (_, Spelling::Sentence | Spelling::Word) => {
            let mut rest = text;
            while let Some(i) = rest.find('▁') {
                out.extend_from_slice(&rest.as_bytes()[..i]);
                out.push(b' ');
                rest = &rest[i + '▁'.len_utf8()..];
            }
            out.extend_from_slice(rest.as_bytes());
        }
    }
}
