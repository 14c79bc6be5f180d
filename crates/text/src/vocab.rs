//! The token table: text as the file spells it, bytes as a person reads them, kind, and the way back.

use crate::byte_level;
use crate::error::Error;
use crate::slots::{Shape, TextSlots};

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

    /// The same as a byte.
    fn to_gguf(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
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

/// Strings one after the other, and where each ends.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    data: &'a [u8],
    ends: &'a [[u8; 4]],
}

impl<'a> Strings<'a> {
    /// `ends` holds a 32-bit little-endian end per string.
    pub fn new(data: &'a [u8], ends: &'a [u8]) -> Self {
        Self { data, ends: ends.as_chunks().0 }
    }

    /// Empty for an index out of range, and where the ends contradict the data.
    fn get(&self, i: u32) -> &'a [u8] {
        let i = i as usize;
        let Some(end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { [0; 4] } else { self.ends[i - 1] };
        self.data.get(u32::from_le_bytes(start) as usize..u32::from_le_bytes(*end) as usize).unwrap_or(&[])
    }
}

/// A token table being read, wherever its bytes are. Every answer is safe whatever they hold: ids are in range, texts
/// are inside the data.
#[derive(Clone, Copy, Debug)]
pub struct Vocab<'a> {
    /// as the file spells it
    pub texts: Strings<'a>,
    /// as a person reads it
    pub read: Strings<'a>,
    /// GGUF's number of the kind, one byte per token
    pub kinds: &'a [u8],
    /// texts to ids
    pub by_text: TextSlots<'a>,
    /// longest text in `by_text`, bytes
    pub longest: usize,
}

impl<'a> Vocab<'a> {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The id of a text as the file spells it.
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.by_text.find(text, |id| (id as usize) < self.kinds.len() && self.texts.get(id) == text)
    }

    /// The id of a text short enough to be merged.
    pub fn piece(&self, text: &[u8]) -> Option<u32> {
        if text.len() > MAX_PIECE { None } else { self.id(text) }
    }

    /// The text as the file spells it.
    pub fn text(&self, id: u32) -> &'a [u8] {
        self.texts.get(id)
    }

    /// The bytes a person reads; empty for an id out of range.
    pub fn bytes(&self, id: u32) -> &'a [u8] {
        self.read.get(id)
    }

    /// The kind; [`Kind::Unused`] for an id out of range.
    pub fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).map_or(Kind::Unused, |&k| Kind::from_gguf(i64::from(k)))
    }

    /// The token of each byte: `<0xNN>` where the vocabulary has it.
    pub fn byte_tokens(&self) -> Box<[Option<u32>; 256]> {
        Box::new(std::array::from_fn(|b| self.id(format!("<0x{b:02X}>").as_bytes())))
    }
}

/// A token table's bytes, section by section, as [`Vocab`] reads them.
#[derive(Debug, Default)]
pub struct Tables {
    /// texts as the file spells them
    pub texts: Vec<u8>,
    /// where each ends
    pub text_ends: Vec<u8>,
    /// texts as a person reads them
    pub read: Vec<u8>,
    /// where each ends
    pub read_ends: Vec<u8>,
    /// GGUF's number of each kind
    pub kinds: Vec<u8>,
    /// texts to ids
    pub by_text: Vec<u8>,
    /// of `by_text`
    pub shape: Shape,
    /// longest text in `by_text`, bytes
    pub longest: usize,
}

impl Tables {
    /// Builds the table; of equal texts the first id wins.
    pub fn new<'a>(
        tokens: impl ExactSizeIterator<Item = (&'a str, Kind)>,
        spelling: Spelling,
    ) -> Result<Self, Error> {
        let n = tokens.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(Error::Broken(format!("it has {n} tokens, expected 1 to {MAX_TOKENS}")));
        }
        let mut t = Self {
            text_ends: Vec::with_capacity(n * 4),
            read_ends: Vec::with_capacity(n * 4),
            kinds: Vec::with_capacity(n),
            ..Self::default()
        };
        let seal = |data: &Vec<u8>, ends: &mut Vec<u8>| {
            let end = u32::try_from(data.len())
                .map_err(|_| Error::Broken("the vocabulary's text is over 4 GiB".into()))?;
            ends.extend_from_slice(&end.to_le_bytes());
            Ok::<_, Error>(())
        };
        for (text, kind) in tokens {
            t.texts.extend_from_slice(text.as_bytes());
            seal(&t.texts, &mut t.text_ends)?;
            spell(text, kind, spelling, &mut t.read);
            seal(&t.read, &mut t.read_ends)?;
            t.kinds.push(kind.to_gguf());
            t.longest = t.longest.max(text.len());
        }
        let v = t.view();
        // A hole is no token.
        let wanted = |id| v.kind(id) != Kind::Unused || !v.text(id).is_empty();
        let (by_text, shape) = TextSlots::build(n, wanted, |id| v.text(id))?;
        (t.by_text, t.shape) = (by_text, shape);
        Ok(t)
    }

    /// For reading.
    pub fn view(&self) -> Vocab<'_> {
        Vocab {
            texts: Strings::new(&self.texts, &self.text_ends),
            read: Strings::new(&self.read, &self.read_ends),
            kinds: &self.kinds,
            by_text: TextSlots::new(&self.by_text, self.shape),
            longest: self.longest,
        }
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
