//! A sequence: what the engine must remember between two steps, and nothing of any technique.

use std::time::Duration;

use tamp_base::ids::{SeqId, Token};
use tamp_kv::{Book, PrefixKey};
use tamp_sample::{Chain, FinishReason, Matcher};
use tamp_text::Tokenizer;

use crate::error::Failure;
use crate::intake::coalesce::Prefix;
use crate::outlet::Outlet;
use crate::request::{Answer, Cancel, Timings, Usage, Who};
use crate::reuse::Reuse;

/// One stream of tokens. Its pages are the KV room's; tokens beyond the committed ones wait for a forward pass.
pub(crate) struct Seq {
    pub id: SeqId,
    /// prompt and answer; the last one has not been through the model while the sequence lives
    pub tokens: Vec<Token>,
    /// length of the prompt
    pub prompt: usize,
    /// `tokens` at most
    pub limit: usize,
    pub chain: Chain,
    pub speech: Speech,
    pub outlet: Box<dyn Outlet>,
    pub cancel: Cancel,
    pub timings: Timings,
    pub usage: Usage,
    pub ask: Ask,
}

/// What a request said beside its words.
pub(crate) struct Ask {
    pub who: Who,
    /// where its cached prefixes are
    pub root: PrefixKey,
    /// say why no more of the prompt was cached
    pub explain: bool,
    /// set when an embedding is wanted and no answer
    pub pool: Option<Pool>,
    pub deadline: Option<Duration>,
}

/// The mean over the positions of a sequence, `[d]`. Positions are added in order, so that neither chunks nor the batch
/// around them change a bit of it.
#[derive(Default)]
pub(crate) struct Pool {
    sum: Vec<f64>,
    positions: usize,
}

impl Pool {
    /// Adds the next position.
    pub fn add(&mut self, hidden: &[f32]) {
        self.sum.resize(hidden.len(), 0.0);
        self.sum.iter_mut().zip(hidden).for_each(|(s, &x)| *s += f64::from(x));
        self.positions += 1;
    }

    fn mean(&self) -> Vec<f32> {
        self.sum.iter().map(|s| (s / self.positions.max(1) as f64) as f32).collect()
    }
}

impl Seq {
    /// Takes what is cached of the tokens; the last one is always computed, for what follows it.
    pub fn begin(&mut self, book: &mut Book, reuse: &mut dyn Reuse) -> usize {
        if self.ask.pool.is_some() {
            return 0;
        }
        let first = self.timings.prompt_rows == 0;
        if first && self.ask.explain {
            self.usage.cache_miss = Some(book.explain(&self.ask.root, &self.tokens).to_string());
        }
        let found = reuse.begin(book, self.id, self.ask.root, &self.tokens, self.tokens.len() - 1);
        if first {
            self.usage.cached_tokens = found;
        }
        found
    }

    /// What the coalescer sees; `committed` positions are in memory.
    pub fn prefix(&self, committed: usize) -> Prefix<'_> {
        let ready = self.outlet.ready() && self.ask.pool.is_none();
        Prefix { seq: self.id, root: self.ask.root, tokens: &self.tokens, committed, ready }
    }

    /// The answer so far, as the final one.
    pub fn answer(self, finish_reason: FinishReason, failure: Option<Failure>) -> (Answer, Box<dyn Outlet>) {
        let mut prompt_tokens = self.tokens;
        let tokens = prompt_tokens.split_off(self.prompt);
        let (text, seed) = (self.speech.text, self.chain.params().seed);
        let answer = Answer {
            text,
            tokens,
            prompt_tokens,
            seed,
            finish_reason,
            failure,
            timings: self.timings,
            usage: self.usage,
            embedding: self.ask.pool.filter(|_| finish_reason == FinishReason::Stop).map(|p| p.mean()),
        };
        (answer, self.outlet)
    }
}

/// Tokens of one answer to text: whole characters, nothing of a stop string.
pub(crate) struct Speech {
    /// bytes of a character that is not whole yet
    bytes: Vec<u8>,
    stops: Matcher,
    ignore_eos: bool,
    text: String,
}

impl Speech {
    pub fn new(stops: Matcher, ignore_eos: bool) -> Speech {
        Speech { bytes: Vec::new(), stops, ignore_eos, text: String::new() }
    }

    /// Whether this token ends the answer.
    pub fn ends(&self, tokenizer: &Tokenizer, token: Token) -> bool {
        !self.ignore_eos && tokenizer.is_end(token)
    }

    /// Text that this token lets out, and whether a stop string is complete.
    pub fn say(&mut self, tokenizer: &Tokenizer, token: Token) -> (String, bool) {
        if !tokenizer.is_control(token) {
            self.bytes.extend_from_slice(tokenizer.bytes(token));
        }
        let piece = whole_characters(&mut self.bytes);
        let out = self.stops.push(&piece);
        self.text.push_str(&out);
        (out, self.stops.hit())
    }

    /// Text that was still held back at the end.
    pub fn finish(&mut self) -> String {
        if self.stops.hit() {
            return String::new();
        }
        let mut out = self.stops.push(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        out += &self.stops.finish();
        self.text.push_str(&out);
        out
    }
}

/// Takes the whole characters off the front; what can no longer become one reads as U+FFFD, an unfinished tail stays.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        taken += chunk.valid().len();
        let bad = chunk.invalid();
        let unfinished = std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none());
        if bad.is_empty() || (unfinished && taken + bad.len() == bytes.len()) {
            break;
        }
        out.push(char::REPLACEMENT_CHARACTER);
        taken += bad.len();
    }
    bytes.drain(..taken);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_out_whole_however_their_bytes_arrive() {
        let all: Vec<u8> =
            [b"a", "é漢🚀".as_bytes(), &[0xff, 0xe2, 0x82, b'x', 0x80], "ñ".as_bytes()].concat();
        for step in 1..5 {
            let (mut held, mut out) = (vec![], String::new());
            for part in all.chunks(step) {
                held.extend_from_slice(part);
                out += &whole_characters(&mut held);
            }
            assert!(held.is_empty());
            assert_eq!(out, String::from_utf8_lossy(&all));
        }
        let mut cut = vec![b'a', 0xe2, 0x82];
        assert_eq!(whole_characters(&mut cut), "a");
        assert_eq!(cut, [0xe2, 0x82]);
    }
}
