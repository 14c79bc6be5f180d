//! What somebody asks for, and what they get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tamp_base::ids::Token;
use tamp_sample::{FinishReason, Logprobs, Params};

use crate::error::Failure;

/// A prompt to continue.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// the prompt's tokens, at least one
    pub prompt: Vec<Token>,
    /// sampling
    pub params: Params,
    /// new tokens at most; `None` = to the end of the context
    pub max_tokens: Option<usize>,
    /// texts that end the answer and are not part of it
    pub stop: Vec<String>,
    /// go on after an end token
    pub ignore_eos: bool,
    /// when the request was received, on the engine's clock; `None` = at submission
    pub received: Option<Duration>,
    /// ends the sequence within one step
    pub cancel: Cancel,
}

/// A switch that ends a sequence; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the sequence at the next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody did.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What happens to a sequence, in order; `Done` is the last event and always comes.
#[derive(Clone, Debug)]
pub enum Event {
    /// a new token
    Token {
        /// its id
        token: Token,
        /// text it completes, often empty: part of a character, or held back as a possible stop string
        text: String,
        /// where the request asked for them
        logprobs: Option<Logprobs>,
    },
    /// text that was held back as a possible stop string, let out at the end
    Text(String),
    /// the whole answer
    Done(Box<Answer>),
}

/// A finished sequence.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// the answer, without end tokens and stop strings
    pub text: String,
    /// its tokens; an end token that ended it is not among them
    pub tokens: Vec<Token>,
    /// the prompt
    pub prompt_tokens: Vec<Token>,
    /// key of the noise
    pub seed: u64,
    /// why it ended
    pub finish_reason: FinishReason,
    /// set when `finish_reason` is `error`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// when things happened
    pub timings: Timings,
}

/// When things happened to a request; nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timings {
    /// receipt, on the engine's clock
    pub received_ns: u64,
    /// receipt → first forward pass with rows of this sequence
    pub queue_ns: u64,
    /// first forward pass → first token
    pub prefill_ns: u64,
    /// receipt → first token; 0 without one
    pub first_token_ns: u64,
    /// receipt → end
    pub total_ns: u64,
    /// prompt tokens that went through the model, preemptions included
    pub prompt_rows: u64,
    /// times the sequence lost its pages and was computed again
    pub preemptions: u64,
    /// for every token after the first, the time since the one before; tokens of one step share its arrival, so the
    /// later ones of an accepted draft say 0. An end token counts: it cost a forward pass
    pub token_ns: Vec<u64>,
}

impl Timings {
    /// Tokens per second after the first token, over all samples; 0 without samples.
    pub fn decode_tok_s(&self) -> f64 {
        let ns: u64 = self.token_ns.iter().sum();
        if ns == 0 { 0.0 } else { self.token_ns.len() as f64 * 1e9 / ns as f64 }
    }
}
