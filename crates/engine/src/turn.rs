//! Who takes part in one forward pass, and what came of it.

use tamp_base::ids::SeqId;
use tamp_spec::{SpecError, Verdict};

/// One turn of the engine.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// which of the loaded models runs
    pub model: usize,
    /// the sequences that take part; their pages are reserved
    pub parts: Vec<Part>,
    /// sequences that gave their pages up; they are computed again later
    pub preempted: Vec<SeqId>,
    /// sequences that cannot go on even alone: the pool is too small for them
    pub starved: Vec<SeqId>,
}

/// A sequence's share of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// the sequence
    pub seq: SeqId,
    /// known tokens to run, from the first uncommitted one on
    pub rows: usize,
    /// draft nodes that may follow, at most
    pub draft: usize,
}

/// What came of a sequence's share.
pub(crate) struct Outcome {
    pub seq: SeqId,
    pub verdict: Result<Verdict, SpecError>,
}
