//! Prompts are real text, never random and never repeating themselves (LAB.md).

use tamp_base::ids::Token;
use tamp_text::{Special, Tokenizer};

use crate::BenchError;

/// Hamlet, from act II scene 2 on (public domain), about 6 000 tokens.
pub const PROSE: &str = include_str!("../data/hamlet.txt");

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
