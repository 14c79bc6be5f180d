//! The budget of a thought: after so many tokens the end of thinking is said for the model, and the answer begins.
//!
//! What is said for it are known tokens like a prompt's, so they go through the model in the next pass and nothing has
//! to go back: drafts are so short that no guess can be accepted beyond the last token of the thought.

use std::collections::BTreeMap;

use tamp_base::ids::{SeqId, Token};
use tamp_sample::FinishReason;
use tamp_text::Tokenizer;

use super::Gates;
use crate::error::EngineError;
use crate::request::Event;
use crate::seq::Seq;

/// Tokens that end a thought, at most.
const MOST_CLOSE: usize = 64;

/// How long an answer may think.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Think {
    /// the token after which the model thinks
    pub open: Token,
    /// what ends a thought; the first token says that it ended, all of them end it when time is up
    pub close: Vec<Token>,
    /// the prompt ends inside a thought
    pub inside: bool,
    /// tokens between the two, in all thoughts of the answer together
    pub most: usize,
}

impl Think {
    /// Whether the tokens are the model's.
    pub(crate) fn check(&self, vocab: usize) -> Result<(), EngineError> {
        let got = self.close.len();
        if got == 0 || got > MOST_CLOSE {
            let why = format!("a thought ends with 1 to {MOST_CLOSE} tokens");
            return Err(EngineError::Option { name: "think.close", got, why });
        }
        match self.close.iter().chain([&self.open]).find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(EngineError::Token { token, vocab }),
            None => Ok(()),
        }
    }
}

struct Thought {
    think: Think,
    inside: bool,
    tokens: usize,
}

/// The thoughts of all sequences that have a bound on them.
#[derive(Default)]
pub(super) struct Thoughts(BTreeMap<SeqId, Thought>);

impl Thoughts {
    pub fn open(&mut self, seq: SeqId, think: Think) {
        self.0.insert(seq, Thought { inside: think.inside, tokens: 0, think });
    }

    pub fn forget(&mut self, seq: SeqId) {
        self.0.remove(&seq);
    }

    /// Guesses that may be accepted, so that the bound is never met in the middle of them. Beyond the bound, where a
    /// thought may end its line, one token at a time.
    pub fn depth(&self, seq: SeqId) -> usize {
        let inside = self.0.get(&seq).filter(|t| t.inside);
        inside.map_or(usize::MAX, |t| t.think.most.saturating_sub(t.tokens + 1))
    }

    /// The same for guesses among which a thought begins; `None` inside one, or without a bound.
    pub fn after_opening(&self, seq: SeqId) -> Option<usize> {
        self.0.get(&seq).filter(|t| !t.inside).map(|t| t.think.most.saturating_sub(t.tokens))
    }

    /// Whether a token begins a thought.
    pub fn opens(&self, seq: SeqId, token: Token) -> bool {
        self.0.get(&seq).is_some_and(|t| t.think.open == token)
    }

    /// A token was said. What must be said next, when the thought is to end: at the bound plus `slack`, or before that
    /// at the end of a line.
    pub fn said(&mut self, seq: SeqId, token: Token, ends_line: bool, slack: usize) -> Option<Vec<Token>> {
        let t = self.0.get_mut(&seq)?;
        if t.inside && t.think.close.first() == Some(&token) {
            t.inside = false;
        } else if t.inside {
            t.tokens += 1;
        } else if token == t.think.open {
            t.inside = true;
        }
        let over = t.tokens.checked_sub(t.think.most).filter(|_| t.inside)?;
        (over >= slack || ends_line).then(|| {
            t.inside = false;
            t.think.close.clone()
        })
    }
}

impl Gates {
    /// After a token was said: says what ends the thought, if it must end. Why the answer ends, if it does with that.
    pub(crate) fn end_thought(
        &mut self,
        seq: &mut Seq,
        tokenizer: &Tokenizer,
        token: Token,
    ) -> Option<FinishReason> {
        let ends_line = tokenizer.bytes(token).ends_with(b"\n");
        let slack = Some(self.gate.below(1, 0)).filter(|&s| s < usize::MAX)?;
        let mut close = self.thoughts.said(seq.id, token, ends_line, slack)?;
        // These tokens are the caller's too. What the budget no longer has is not said, and the next turn ends it.
        if let Some(grant) = self.grants.get_mut(&seq.id) {
            let said = (seq.tokens.len() - seq.prompt).saturating_sub(grant.said);
            let have = grant.tokens.saturating_sub(said);
            let got = grant.budget.reserve(close.len().saturating_sub(have), 0);
            grant.tokens += got;
            close.truncate(have + got);
        }
        for token in close {
            seq.chain.advance(token);
            seq.tokens.push(token);
            seq.timings.token_ns.push(0);
            let (text, stopped) = seq.speech.say(tokenizer, token);
            seq.outlet.give(Event::Token { token, text, logprobs: None });
            if stopped {
                return Some(FinishReason::Stop);
            }
            if seq.tokens.len() >= seq.limit {
                return Some(FinishReason::Length);
            }
        }
        None
    }
}
