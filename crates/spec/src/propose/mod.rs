//! The room `spec.propose`: who guesses the next tokens.
//!
//! A proposer may be wrong, late or silent; the tokens of the answer are the same. It keeps its own state, keyed by
//! sequence, and releases it in [`Proposer::forget`]. What it needs of the core stands on its card.

mod none;

use tamp_base::card::Table;
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, Token};
use tamp_sample::Chain;

use crate::Draft;

/// What a proposer sees of a sequence that is about to choose its next token.
pub struct SeqView<'a> {
    /// the sequence
    pub seq: SeqId,
    /// prompt and answer so far; the last token has not been through the model yet
    pub tokens: &'a [Token],
    /// the sequence's logits chain, noise included
    pub chain: &'a Chain,
    /// draft nodes that fit into this turn, at most
    pub rows: usize,
    /// tokens that may still follow, at most
    pub depth: usize,
}

/// What became of a sequence's draft.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// the sequence
    pub seq: SeqId,
    /// the new tokens: accepted guesses and the one the target chose itself
    pub tokens: &'a [Token],
    /// guesses the target looked at
    pub tested: usize,
    /// guesses that were right
    pub accepted: usize,
}

/// Guesses the next tokens.
pub trait Proposer: Send {
    /// One draft per sequence, in order; empty where it has no guess.
    fn propose(&mut self, seqs: &[SeqView<'_>]) -> Vec<Draft>;
    /// What became of the drafts of this turn.
    fn learn(&mut self, kept: &[Kept<'_>]);
    /// The sequence ended; its state may go.
    fn forget(&mut self, seq: SeqId);
    /// How often it was asked, declined and acted.
    fn acts(&self) -> Acts;
}

/// The members; the null technique first.
pub static TABLE: Table<dyn Proposer, ()> = Table { room: "spec.propose", rows: &[&none::ENTRY] };
