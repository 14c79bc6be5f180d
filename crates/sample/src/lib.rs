//! From logits to a token: counter noise, the logits chain, stop rules.
//!
//! | module | what it holds |
//! |---|---|
//! | [`noise`] | Gumbel noise as a function of (seed, choice, position, token) |
//! | [`params`] | what a request may ask of the chain, checked |
//! | [`chain`] | the ordered stages and the choice; its state lives with its sequence |
//! | [`dry`] | which tokens would prolong a repeated sequence |
//! | [`stop`] | stop strings, and why a sequence ended |
#![forbid(unsafe_code)]

pub mod chain;
pub mod dry;
mod filter;
mod mirostat;
pub mod noise;
pub mod params;
pub mod stop;

use tamp_base::ids::Token;

pub use chain::{Chain, Choice, Logprobs};
pub use params::Params;
pub use stop::{FinishReason, Matcher};

/// What sampling can refuse.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A parameter out of its range.
    #[error("{field} = {got} is out of range; expected {want}")]
    Range {
        /// the field
        field: &'static str,
        /// what was given
        got: String,
        /// what is accepted
        want: String,
    },
    /// A logit is NaN or +∞, so no choice means anything.
    #[error(
        "the model gave the logit {logit} for token {token} at position {position}; the weights or a kernel are broken"
    )]
    Logit {
        /// the token
        token: Token,
        /// its logit
        logit: f32,
        /// position of the token to choose
        position: usize,
    },
    /// The head reported a NaN without naming a token.
    #[error("the model gave a NaN logit at position {position}; the weights or a kernel are broken")]
    Nan {
        /// position of the token to choose
        position: usize,
    },
    /// The constraint cannot go on.
    #[error("no token can be chosen at position {position}: {why}")]
    Constraint {
        /// position of the token to choose
        position: usize,
        /// what the grammar says
        why: String,
    },
    /// Every token is ruled out.
    #[error("no token is allowed at position {position}: every logit is -inf")]
    Empty {
        /// position of the token to choose
        position: usize,
    },
}
