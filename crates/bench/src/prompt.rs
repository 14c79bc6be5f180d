//! Prompts are real text, never random and never repeating themselves (LAB.md). A prompt is pinned by the hash of its
//! token ids, so that two engines, or the same one on two days, can be shown to have had the same.

use tamp_base::ids::Token;
use tamp_text::{Special, Tokenizer};

use crate::BenchError;

/// Hamlet, from act II scene 2 on (public domain), about 6 000 tokens.
pub const PROSE: &str = include_str!("../data/hamlet.txt");

/// A prompt that ships with the program.
pub struct Pinned {
    /// what `--prompts` calls it
    pub name: &'static str,
    /// what it is, in a few words
    pub about: &'static str,
    /// its text
    pub text: &'static str,
    /// tokens of the text that are skipped
    skip: usize,
    /// tokens taken when nobody says how many; `None`: all of the text
    usual: Option<usize>,
}

/// The prompts that ship with the program.
pub const PINNED: [Pinned; 5] = [
    Pinned { name: "short", about: "a greeting", text: "Hello, my name is", skip: 0, usual: None },
    Pinned { name: "prose", about: "32 tokens of Hamlet", text: PROSE, skip: 0, usual: Some(32) },
    Pinned { name: "long", about: "512 tokens of Hamlet", text: PROSE, skip: 32, usual: Some(512) },
    Pinned {
        name: "code-edit",
        about: "a function and a change to make in it: an answer that copies much",
        text: include_str!("../data/code-edit.txt"),
        skip: 0,
        usual: None,
    },
    Pinned {
        name: "chat",
        about: "a conversation: an answer that copies little",
        text: include_str!("../data/chat.txt"),
        skip: 0,
        usual: None,
    },
];

/// A prompt as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// its name
    pub name: String,
    /// its token ids
    pub ids: Vec<Token>,
}

/// The pinned prompt of a name in a model's tokens, cut to `tokens` of them when that is said.
pub fn pinned(tokenizer: &Tokenizer, name: &str, tokens: Option<usize>) -> Result<Prompt, BenchError> {
    let p = PINNED.iter().find(|p| p.name == name).ok_or_else(|| BenchError::Prompt {
        name: name.into(),
        known: PINNED.iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
    })?;
    Ok(Prompt { name: name.into(), ids: cut(tokenizer, p.text, p.skip, tokens.or(p.usual))? })
}

/// A text in a model's tokens: `len` of them from the `skip`-th on, or all from there.
pub fn cut(
    tokenizer: &Tokenizer,
    text: &str,
    skip: usize,
    len: Option<usize>,
) -> Result<Vec<Token>, BenchError> {
    if let Some(len) = len {
        return tokens(tokenizer, text, skip, len);
    }
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    let body = tokenizer.encode(text, Special::Plain, false);
    Ok(bos.into_iter().chain(body.into_iter().skip(skip)).collect())
}

/// blake3 of token ids as little-endian u32, in hex: what a prompt is pinned by.
pub fn hash(ids: &[Token]) -> String {
    let mut h = blake3::Hasher::new();
    for id in ids {
        h.update(&id.to_le_bytes());
    }
    h.finalize().to_hex().to_string()
}

/// The first `len` tokens of a text, from its `skip`-th token on, with BOS where the model wants it.
pub fn tokens(tokenizer: &Tokenizer, text: &str, skip: usize, len: usize) -> Result<Vec<Token>, BenchError> {
    let bos = tokenizer.adds_bos().then(|| tokenizer.bos()).flatten();
    let body = tokenizer.encode(text, Special::Plain, false);
    let want = skip + len.saturating_sub(bos.is_some() as usize);
    if body.len() < want {
        return Err(BenchError::Text { have: body.len(), want });
    }
    Ok(bos.into_iter().chain(body[skip..want].iter().copied()).take(len).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_pinned_by_the_hash_of_its_ids_as_little_endian_words() {
        let want = blake3::hash(&[1, 0, 0, 0, 0x39, 0x30, 0, 0]).to_hex().to_string();
        assert_eq!(hash(&[1, 12345]), want);
        assert_ne!(hash(&[1, 12345]), hash(&[12345, 1]));
    }

    #[test]
    fn pinned_texts_do_not_repeat_themselves() {
        for p in &PINNED {
            let words: Vec<&str> = p.text.split_whitespace().collect();
            let mut seen = std::collections::BTreeSet::new();
            // Sixteen words in a row never come twice, but for the scrap that a change of code keeps.
            let twice = words.windows(16).filter(|w| !seen.insert(w.to_vec())).count();
            assert_eq!(twice, 0, "{}", p.name);
        }
    }
}
