//! The room `spec.accept`: which guesses stay.

mod coupling;

use tamp_base::card::Table;
use tamp_base::count::Acts;
use tamp_base::ids::Token;
use tamp_model::batch::{Node, Outputs};
use tamp_sample::{Chain, Choice};

use crate::SpecError;

/// One sequence's rows of a batch, to be judged. Rows `0..=root` are known tokens; the rest is the draft.
pub struct Exam<'a> {
    /// the sequence's rows as they were pushed, parents before children
    pub nodes: &'a [Node],
    /// batch row of `nodes[0]`
    pub first: usize,
    /// the node that holds the sequence's last known token
    pub root: usize,
    /// position of the first token to choose, counted from the start of the prompt
    pub position: usize,
    /// the sequence's chain; judging reads it and advances it along what stays
    pub chain: &'a mut Chain,
}

/// What stays of a draft.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// nodes that become memory, in path order: `0..=root`, then the accepted guesses
    pub kept: Vec<u32>,
    /// the new tokens in order: the accepted guesses, then one that the target chose beyond them
    pub choices: Vec<Choice>,
    /// guesses the target looked at
    pub tested: usize,
}

impl Verdict {
    /// Guesses that were right.
    pub fn accepted(&self) -> usize {
        self.choices.len().saturating_sub(1)
    }
}

/// Decides which guesses stay.
pub trait Acceptor: Send {
    /// Walks the tree from the root and advances the chain along the kept path, and along no other.
    fn judge(&mut self, exam: Exam<'_>, out: &mut Outputs) -> Result<Verdict, SpecError>;
    /// How often it met a draft, kept nothing of it, kept something.
    fn acts(&self) -> Acts;
}

/// What the target itself chooses after `path` at a batch row.
pub fn target_choice(
    chain: &Chain,
    path: &[Token],
    row: usize,
    position: usize,
    out: &mut Outputs,
) -> Result<Choice, SpecError> {
    if chain.needs_full() {
        let logits = out.logits_mut(row).ok_or(SpecError::Missing { row })?;
        return Ok(chain.choose_after(path, logits, position)?);
    }
    let best = out.best(row).ok_or(SpecError::Missing { row })?;
    Ok(chain.take_best(best.token, best.nan, position)?)
}

/// The members; the default first.
pub static TABLE: Table<dyn Acceptor, ()> = Table { room: "spec.accept", rows: &[&coupling::ENTRY] };
