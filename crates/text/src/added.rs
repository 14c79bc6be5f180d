//! Tokens that are found in the text before the model splits it: control tokens, and tokens added by hand.

use crate::error::Error;

/// Longest such token, bytes. The search looks this far at each place where one may start.
pub const MAX_ADDED: usize = 512;

/// One added token.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedToken {
    /// what is searched for
    pub text: String,
    /// what it becomes
    pub id: u32,
    /// a control token: not parsed in plain text
    pub special: bool,
    /// swallows white space to its left
    pub lstrip: bool,
    /// swallows white space to its right
    pub rstrip: bool,
    /// only between characters that are not part of a word
    pub single_word: bool,
}

/// A set of added tokens, sorted by text; of several that start at one place the longest wins.
#[derive(Debug)]
pub struct AddedSet {
    tokens: Vec<AddedToken>,
    first: [bool; 256],
}

/// A part of the text.
#[derive(Debug, PartialEq)]
pub enum Part<'a> {
    /// for the model
    Text(&'a str),
    /// already a token
    Token(u32),
}

impl AddedSet {
    /// Sorts and checks.
    pub fn new(mut tokens: Vec<AddedToken>) -> Result<Self, Error> {
        tokens.retain(|t| !t.text.is_empty());
        if let Some(t) = tokens.iter().find(|t| t.text.len() > MAX_ADDED) {
            return Err(Error::Broken(format!(
                "the special token {} has {} bytes, at most {MAX_ADDED} are allowed",
                t.id,
                t.text.len()
            )));
        }
        tokens.sort_by(|a, b| a.text.cmp(&b.text).then(a.id.cmp(&b.id)));
        tokens.dedup_by(|b, a| a.text == b.text);
        let mut first = [false; 256];
        for t in &tokens {
            first[t.text.as_bytes()[0] as usize] = true;
        }
        Ok(Self { tokens, first })
    }

    /// The set's bytes: their number; id, flags and length of each, 32 bits little-endian; the texts.
    pub fn write(&self) -> Vec<u8> {
        let mut out = (self.tokens.len() as u32).to_le_bytes().to_vec();
        for t in &self.tokens {
            let flags = [t.special, t.lstrip, t.rstrip, t.single_word];
            let flags = flags.iter().rev().fold(0, |n, &f| n << 1 | u32::from(f));
            for v in [t.id, flags, t.text.len() as u32] {
                out.extend_from_slice(&v.to_le_bytes());
            }
        }
        self.tokens.iter().for_each(|t| out.extend_from_slice(t.text.as_bytes()));
        out
    }

    /// A set from its bytes; every id below `ids`.
    pub fn read(bytes: &[u8], ids: usize) -> Option<Result<Self, Error>> {
        let (n, rest) = bytes.split_first_chunk()?;
        let n = u32::from_le_bytes(*n) as usize;
        let (entries, mut texts) = rest.split_at_checked(n.checked_mul(12)?)?;
        let mut tokens = Vec::with_capacity(n);
        for e in entries.as_chunks::<4>().0.as_chunks::<3>().0 {
            let [id, flags, len] = e.map(u32::from_le_bytes);
            let (text, after) = texts.split_at_checked(len as usize)?;
            texts = after;
            if id as usize >= ids {
                return None;
            }
            let flag = |i: u32| flags >> i & 1 != 0;
            tokens.push(AddedToken {
                // Matches must end between characters.
                text: std::str::from_utf8(text).ok()?.into(),
                id,
                special: flag(0),
                lstrip: flag(1),
                rstrip: flag(2),
                single_word: flag(3),
            });
        }
        texts.is_empty().then(|| Self::new(tokens))
    }

    /// The longest token that starts here, skipping the special ones unless `special`.
    fn longest_at(&self, at: &[u8], special: bool) -> Option<&AddedToken> {
        let (mut lo, mut hi) = (0, self.tokens.len());
        let mut best = None;
        for (d, &b) in at.iter().enumerate().take(MAX_ADDED) {
            // All of lo..hi share the first d bytes; a text of exactly d bytes sorts first.
            let range = &self.tokens[lo..hi];
            let byte = |t: &AddedToken| t.text.as_bytes().get(d).copied();
            let from = range.partition_point(|t| byte(t) < Some(b));
            let to = range.partition_point(|t| byte(t) <= Some(b));
            (lo, hi) = (lo + from, lo + to);
            let Some(t) = self.tokens[lo..hi].first() else { break };
            if t.text.len() == d + 1 && (special || !t.special) {
                best = Some(t);
            }
        }
        best
    }

    /// Cuts the text at the tokens of the set, left to right.
    pub fn split<'a>(&self, text: &'a str, special: bool, mut emit: impl FnMut(Part<'a>)) {
        let bytes = text.as_bytes();
        // `done`: everything before it is given out.
        let (mut done, mut i) = (0, 0);
        while i < bytes.len() {
            if !self.first[bytes[i] as usize] {
                i += 1;
                continue;
            }
            let Some(t) = self.longest_at(&bytes[i..], special) else {
                i += 1;
                continue;
            };
            // A token's text is whole characters, and so is ours: the match ends on a boundary.
            let end = i + t.text.len();
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            if t.single_word
                && (text[..i].chars().next_back().is_some_and(is_word)
                    || text[end..].chars().next().is_some_and(is_word))
            {
                i = end;
                continue;
            }
            let left = if t.lstrip { text[done..i].trim_end() } else { &text[done..i] };
            if !left.is_empty() {
                emit(Part::Text(left));
            }
            emit(Part::Token(t.id));
            done = end;
            if t.rstrip {
                done = text.len() - text[end..].trim_start().len();
            }
            i = done;
        }
        if done < text.len() {
            emit(Part::Text(&text[done..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[(&str, bool)]) -> AddedSet {
        let t = texts.iter().enumerate().map(|(i, &(text, special))| AddedToken {
            text: text.into(),
            id: i as u32,
            special,
            lstrip: false,
            rstrip: text.ends_with('>'),
            single_word: text == "word",
        });
        AddedSet::new(t.collect()).unwrap()
    }

    fn parts<'a>(s: &AddedSet, text: &'a str, special: bool) -> Vec<Part<'a>> {
        let mut out = vec![];
        s.split(text, special, |p| out.push(p));
        out
    }

    #[test]
    fn the_longest_token_wins_and_plain_text_keeps_control_words() {
        use Part::{Text, Token};
        let s = set(&[("<a>", true), ("<a>b", true), ("  ", false), ("    ", false), ("word", false)]);
        assert_eq!(parts(&s, "x<a>by<a>  z", true), [Text("x"), Token(1), Text("y"), Token(0), Text("z")]);
        assert_eq!(parts(&s, "x<a>b", false), [Text("x<a>b")]);
        assert_eq!(parts(&s, "       q", false), [Token(3), Token(2), Text(" q")]);
        assert_eq!(parts(&s, "words word", false), [Text("words "), Token(4)]);
    }
}
