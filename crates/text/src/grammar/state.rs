//! Where one sequence stands in its grammar.

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::{Grammar, sentence};
use crate::error::Error;
use crate::tokenizer::Special;

/// Most tokens of a forced run.
const LONGEST_RUN: usize = 64;

/// The tokens that may come next.
#[derive(Clone)]
pub struct Mask(SimpleVob);

impl Mask {
    /// Whether a token may come next.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// How many tokens may come next.
    pub fn count(&self) -> usize {
        self.0.num_set()
    }

    /// Sets the logits of all other tokens to -inf, also those beyond the vocabulary.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.0.as_slice();
        for (i, part) in logits.chunks_mut(32).enumerate() {
            match words.get(i).copied().unwrap_or(0) {
                u32::MAX => {}
                0 => part.fill(f32::NEG_INFINITY),
                word => part
                    .iter_mut()
                    .enumerate()
                    .filter(|(bit, _)| word >> bit & 1 == 0)
                    .for_each(|(_, x)| *x = f32::NEG_INFINITY),
            }
        }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} of {} tokens)", self.count(), self.0.len())
    }
}

/// Where one sequence stands in its grammar. It advances along committed tokens; questions about a draft pass its path and leave
/// it as it was.
pub struct State {
    grammar: Grammar,
    matcher: Matcher,
    /// committed tokens, end tokens not among them
    tokens: Vec<u32>,
    /// an end token is committed
    ended: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("tokens", &self.tokens.len()).field("ended", &self.ended).finish()
    }
}

impl Clone for State {
    /// Shares nothing that changes.
    fn clone(&self) -> Self {
        Self {
            grammar: self.grammar.clone(),
            matcher: self.matcher.deep_clone(),
            tokens: self.tokens.clone(),
            ended: self.ended,
        }
    }
}

impl State {
    pub(super) fn new(grammar: Grammar) -> Self {
        let matcher = grammar.inner.start.deep_clone();
        Self { grammar, matcher, tokens: Vec::new(), ended: false }
    }

    /// The tokens that may come after the committed ones and then `path`. End tokens are among them exactly when the text so
    /// far is complete; after an end token, and where nothing can follow, they are the only ones.
    ///
    /// # Errors
    /// One sentence: the path leaves the grammar, no token of the vocabulary continues the text, or the bound of work for
    /// one mask is reached.
    pub fn mask(&mut self, path: &[u32]) -> Result<Mask, Error> {
        let ended = self.ended || path.iter().any(|&t| self.is_end(t));
        self.after(path, |s| {
            if ended || s.matcher.is_stopped() {
                return Ok(Mask(s.ends()));
            }
            s.matcher.compute_mask().map(Mask).map_err(|e| sentence(&e))
        })
    }

    /// Takes a committed token in.
    ///
    /// # Errors
    /// The token is not allowed here; the state stays as it was.
    pub fn advance(&mut self, token: u32) -> Result<(), Error> {
        if self.is_end(token) {
            if !self.may_end(&[])? {
                return Err(self.off(token));
            }
            self.ended = true;
            return Ok(());
        }
        if self.ended {
            return Err(self.off(token));
        }
        match self.matcher.try_consume_tokens(&[token]) {
            Ok(1) => {
                self.tokens.push(token);
                Ok(())
            }
            Ok(_) => Err(self.off(token)),
            Err(e) => {
                self.rebuild();
                Err(Error::Parser(sentence(&e)))
            }
        }
    }

    /// Whether the text after `path` is complete.
    pub fn may_end(&mut self, path: &[u32]) -> Result<bool, Error> {
        let ended = self.ended || path.iter().any(|&t| self.is_end(t));
        self.after(path, |s| {
            Ok(ended || s.matcher.is_stopped() || s.matcher.is_accepting().map_err(|e| sentence(&e))?)
        })
    }

    /// Whether nothing but an end token can follow the committed tokens, so that the answer is over.
    pub fn must_end(&self) -> bool {
        self.ended || (self.matcher.is_stopped() && !self.matcher.is_error())
    }

    /// Tokens that spell the text which the grammar forces after `path`, as a guess: the same text may be cut into tokens
    /// otherwise, and the last of them may be the beginning of a longer one. Empty where nothing is forced.
    pub fn forced(&mut self, path: &[u32]) -> Result<Vec<u32>, Error> {
        if self.ended || path.iter().any(|&t| self.is_end(t)) {
            return Ok(Vec::new());
        }
        let bytes = self.after(path, |s| {
            if s.matcher.is_stopped() {
                return Ok(Vec::new());
            }
            // Forcing moves the parser; the clone shares only its lexer's memory.
            Ok(s.matcher.clone().compute_ff_bytes())
        })?;
        let text = bytes.utf8_chunks().next().map_or("", |c| c.valid());
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizer = std::sync::Arc::clone(&self.grammar.inner.tokenizer);
        let mut run = tokenizer.encode(text, Special::Plain, false);
        // An encoder that begins every text with a space writes one that the grammar does not want.
        let spelled: Vec<u8> = run.iter().flat_map(|&t| tokenizer.bytes(t)).copied().collect();
        if spelled != text.as_bytes() {
            run = self.greedy(text.as_bytes());
        }
        run.truncate(LONGEST_RUN);
        let fits = self.after(path, |s| s.matcher.validate_tokens(&run).map_err(|e| sentence(&e)))?;
        run.truncate(fits);
        Ok(run)
    }

    fn greedy(&self, bytes: &[u8]) -> Vec<u32> {
        self.matcher.tok_env().map_or_else(|_| Vec::new(), |env| env.tok_trie().greedy_tokenize(bytes))
    }

    fn ends(&self) -> SimpleVob {
        self.matcher.tok_env().map_or_else(|_| SimpleVob::new(), |env| env.tok_trie().eos_token_set())
    }

    fn is_end(&self, token: u32) -> bool {
        self.grammar.inner.tokenizer.is_end(token)
    }

    /// Asks after a path and goes back.
    fn after<T>(
        &mut self,
        path: &[u32],
        ask: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, Error> {
        let path: &[u32] = match path.iter().position(|&t| self.is_end(t)) {
            Some(end) => &path[..end],
            None => path,
        };
        let mut moved = 0;
        if !self.ended && !path.is_empty() {
            moved = match self.matcher.try_consume_tokens(path) {
                Ok(n) => n,
                Err(e) => {
                    self.rebuild();
                    return Err(Error::Parser(sentence(&e)));
                }
            };
        }
        let answer = if moved < path.len() && !self.ended {
            Err(self.off(path[moved]))
        } else {
            ask(self).map_err(Error::Parser)
        };
        // A matcher that failed cannot go back.
        if self.matcher.is_error() || (moved > 0 && self.matcher.rollback(moved).is_err()) {
            self.rebuild();
        }
        answer
    }

    /// A fresh parser at the committed tokens.
    fn rebuild(&mut self) {
        self.matcher = self.grammar.inner.start.deep_clone();
        // It took them before; should it not now, every later question says so.
        let _ = self.matcher.consume_tokens(&self.tokens);
    }

    fn off(&self, token: u32) -> Error {
        Error::OffGrammar { token, text: self.grammar.inner.tokenizer.piece(token).into() }
    }
}
