//! The room `engine.trace`: who is told what the engine does, and when.
//!
//! A trace never fails and never waits. It is told of every turn in the order `laid` (once per sequence), `kept` (once
//! per sequence), `turn`; and of single spans at any time. It changes nothing.

mod none;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use tamp_base::card::Table;
use tamp_base::span::{Collector, Span};

/// A sequence's rows in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laid {
    /// the number its request brought
    pub trace: u64,
    /// rows, drafts included
    pub rows: usize,
    /// of these rows of the prompt
    pub prompt: usize,
    /// of these drafts
    pub draft: usize,
    /// its first rows: when the request was received
    pub received: Option<Duration>,
}

/// Is told what happens.
pub trait Trace: Send {
    /// A sequence's rows are laid into the batch of this turn.
    fn laid(&mut self, _: Laid) {}
    /// What came of it: tokens that stay.
    fn kept(&mut self, _trace: u64, _tokens: usize) {}
    /// The turn is over; `start`: before the policy was asked.
    fn turn(&mut self, _start: Duration, _end: Duration) {}
    /// Something else took time.
    fn span(&mut self, _: Span) {}
    /// Where the spans are, when they are kept.
    fn collector(&self) -> Option<Arc<Collector>> {
        None
    }
}

/// The members; the default first.
pub static TABLE: Table<dyn Trace, ()> = Table { room: "engine.trace", rows: &[&none::ENTRY, &spans::ENTRY] };
