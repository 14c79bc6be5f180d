//! The room `engine.policy`: who takes part in the next forward pass, who gets pages, who gives them up.
//!
//! A policy reserves what it hands out: after [`Policy::choose`] every part's rows are writable. It never loses a
//! sequence: one that gives its pages up is computed again later and says the same. It reads no clock but `now`.

mod fcfs;

use std::time::Duration;

use tamp_base::card::Table;
use tamp_base::ids::SeqId;
use tamp_kv::Book;

use crate::turn::Turn;

/// What a policy sees of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// the sequence
    pub seq: SeqId,
    /// known tokens: prompt and answer so far
    pub tokens: usize,
    /// somebody takes what it says; when false it must not run
    pub ready: bool,
}

/// What a policy is opened with.
#[derive(Clone, Copy, Debug)]
pub struct PolicyCtx {
    /// rows per forward pass, at most
    pub chunk: usize,
    /// sequences per forward pass, at most; not above `chunk`
    pub batch: usize,
}

/// Chooses who takes part in the next forward pass.
pub trait Policy: Send {
    /// `lines` come in order of arrival.
    fn choose(&mut self, lines: &[Line], book: &mut Book, now: Duration) -> Turn;
}

/// The members; the default first.
pub static TABLE: Table<dyn Policy, PolicyCtx> = Table { room: "engine.policy", rows: &[&fcfs::ENTRY] };
