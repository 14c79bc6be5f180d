//! What the engine refuses, and why a sequence failed.

use serde::Serialize;
use tamp_base::card::CardError;
use tamp_base::ids::Token;
use tamp_kv::KvError;
use tamp_model::ModelError;
use tamp_sample::SampleError;

/// A refusal, or a broken engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing to continue.
    #[error("the prompt has no tokens; give at least one")]
    EmptyPrompt,
    /// A token the model does not have.
    #[error(
        "the prompt holds token {token}, and the vocabulary ends at {vocab}; is this the model's own tokenizer?"
    )]
    Token {
        /// the token
        token: Token,
        /// number of ids
        vocab: usize,
    },
    /// The prompt alone fills the context.
    #[error(
        "the prompt has {prompt} tokens, and the context holds {ctx}; shorten the prompt or use a larger --ctx"
    )]
    Prompt {
        /// tokens of the prompt
        prompt: usize,
        /// positions
        ctx: usize,
    },
    /// Prompt and answer do not fit together.
    #[error(
        "{prompt} prompt tokens and {max_tokens} new tokens need {} positions, more than the context of {ctx}; \
         use a smaller --max-tokens or a larger --ctx",
        .prompt.saturating_add(*.max_tokens)
    )]
    TooLong {
        /// tokens of the prompt
        prompt: usize,
        /// tokens asked for
        max_tokens: usize,
        /// positions
        ctx: usize,
    },
    /// The answer could never be held.
    #[error(
        "{tokens} tokens need {need} KV pages, and there are {total}; use a smaller --max-tokens or a larger --ctx"
    )]
    Pool {
        /// prompt and answer
        tokens: usize,
        /// pages they need
        need: usize,
        /// pages per group
        total: usize,
    },
    /// Too many requests wait.
    #[error("{waiting} requests wait already; try again later")]
    Queue {
        /// waiting requests
        waiting: usize,
    },
    /// Memory is short, and newcomers wait outside.
    #[error("this machine is short of memory; try again in {retry_s} s")]
    Short {
        /// seconds
        retry_s: u32,
    },
    /// The engine was dropped.
    #[error("the engine is gone")]
    Gone,
    /// An option out of range.
    #[error("{name} = {got} does not work: {why}")]
    Option {
        /// the option
        name: &'static str,
        /// its value
        got: usize,
        /// the reason and what to do
        why: String,
    },
    /// Nobody could be scheduled although somebody waits.
    #[error("no sequence could be scheduled; this is a bug in the scheduling policy")]
    Stalled,
    /// Sampling parameters.
    #[error(transparent)]
    Params(#[from] SampleError),
    /// A technique, knob or need.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Memory for keys and values.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The forward pass.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model's tokenizer.
    #[error(transparent)]
    Text(#[from] tamp_text::Error),
    /// The weights in use are not those that were opened.
    #[error(transparent)]
    Weights(#[from] tamp_weights::Error),
}

impl EngineError {
    /// Whose fault it is that a request was refused.
    pub fn cause(&self) -> Cause {
        match self {
            EngineError::Queue { .. } | EngineError::Short { .. } => Cause::Resource,
            EngineError::Gone | EngineError::Stalled => Cause::Internal,
            _ => Cause::Request,
        }
    }
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// what was asked for
    Request,
    /// the weights or a kernel
    Model,
    /// memory ran out
    Resource,
    /// a bug
    Internal,
}

/// Why a sequence failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// whose fault it is
    pub cause: Cause,
    /// one sentence
    pub message: String,
}
