//! Guess and check: draft trees, who proposes them, who accepts them (DESIGN 5.2).
//!
//! | module | what it holds |
//! |---|---|
//! | [`draft`] | a draft is a tree: a token and a parent per node; empty is the empty tree |
//! | [`propose`] | the room `spec.propose` |
//! | [`accept`] | the room `spec.accept` |
//!
//! Plain decoding is speculation with an empty draft: the same forward pass, the same judge.
#![forbid(unsafe_code)]

pub mod accept;
pub mod draft;
pub mod propose;

use tamp_sample::SampleError;

pub use accept::{Acceptor, Exam, Verdict};
pub use draft::Draft;
pub use propose::{Kept, Proposer, SeqView};

/// What judging a sequence can fail with. It ends that sequence, never the step.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The logits chain refused.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The forward pass did not return what the row wanted.
    #[error("the forward pass returned nothing for batch row {row}; this is a bug in the engine")]
    Missing {
        /// the batch row
        row: usize,
    },
}
