//! What somebody asks for, and what they get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tamp_base::ids::{Namespace, TenantId, Token};
use tamp_sample::{FinishReason, Logprobs, Params};
use tamp_text::grammar::Grammar;

use crate::budget::Budget;
use crate::error::Failure;

/// Who asks: what scheduling, accounting and the prefix cache know of a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Who {
    /// the caller's row in the operator's list of keys; 0 when there is none
    pub tenant: TenantId,
    /// share of the machine beside the other tenants'; above 0
    pub weight: f32,
    /// of its sequences may run at once, 0 = no bound
    pub most_running: usize,
    /// among equals higher goes first
    pub priority: i32,
    /// tokens that all its requests together may still be answered with; `None` = no bound
    pub budget: Option<Arc<Budget>>,
    /// prefixes are shared within a namespace and never beyond
    pub namespace: Namespace,
}

impl Default for Who {
    fn default() -> Self {
        Who {
            tenant: TenantId(0),
            weight: 1.0,
            most_running: 0,
            priority: 0,
            budget: None,
            namespace: Namespace::default(),
        }
    }
}

/// What is wanted of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// an answer
    #[default]
    Generate,
    /// the mean of the residual stream after the last layer over all positions, pre-norm
    Embed,
}

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
    /// who asks
    pub who: Who,
    /// what is wanted
    pub task: Task,
    /// the answer stays inside it
    pub constraint: Option<Grammar>,
    /// say why no more of the prompt was cached
    pub explain_cache: bool,
    /// on the engine's clock: an answer that is not done by then ends with `finish_reason` `deadline`
    pub deadline: Option<Duration>,
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
    /// what it took
    pub usage: Usage,
    /// [`Task::Embed`]: `[d]`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
}

/// What an answer took from the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// prompt positions that came out of the prefix cache
    pub cached_tokens: usize,
    /// why not more of them did, where the request asked
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_miss: Option<String>,
    /// draft tokens that were tested
    pub draft_tested: u64,
    /// and accepted
    pub draft_accepted: u64,
    /// its part of the engine's busy time
    pub cost: Cost,
}

/// A request's part of the engine's busy time, nanoseconds. Over all requests the parts sum to the time spent in steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// rows of the prompt
    pub prefill_ns: u64,
    /// rows that chose a token
    pub decode_ns: u64,
    /// draft rows that were refused
    pub wasted_ns: u64,
    /// page · milliseconds held
    pub page_ms: u64,
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
