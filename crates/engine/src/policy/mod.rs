//! The room `engine.policy`: who takes part in the next forward pass, who gets pages, who gives them up.
//!
//! A policy reserves what it hands out: after [`Policy::choose`] every part's rows are writable. It never loses a
//! sequence: one that gives its pages up is computed again later and says the same. It reads no clock but `now`.

mod fcfs;

use std::time::Duration;

use tamp_base::card::Table;
use tamp_base::ids::{SeqId, TenantId};
use tamp_kv::Book;

use crate::turn::Turn;

/// What a policy sees of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// the sequence
    pub seq: SeqId,
    /// known tokens: prompt and answer so far
    pub tokens: usize,
    /// of these the prompt
    pub prompt: usize,
    /// known tokens at most
    pub limit: usize,
    /// somebody takes what it says; when false it must not run
    pub ready: bool,
    /// waits for pages that another sequence is about to make; must not start yet
    pub held: bool,
    /// whose it is
    pub tenant: TenantId,
    /// the tenant's share
    pub weight: f32,
    /// of the tenant's sequences may run at once, 0 = no bound
    pub most_running: usize,
    /// higher goes first
    pub priority: i32,
    /// receipt, on the engine's clock
    pub received: Duration,
    /// must be done by then
    pub deadline: Option<Duration>,
}

/// What a sequence took in a step, told after it.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// the sequence
    pub seq: SeqId,
    /// whose it is
    pub tenant: TenantId,
    /// the tenant's share
    pub weight: f32,
    /// prompt rows computed
    pub prefill: usize,
    /// rows that chose a token, drafts included
    pub decode: usize,
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
    /// Learns what a step really took.
    fn charge(&mut self, _: &[Charge]) {}
    /// Forgets a sequence that ended.
    fn forget(&mut self, _: SeqId) {}
}

/// The members; the default first.
pub static TABLE: Table<dyn Policy, PolicyCtx> = Table { room: "engine.policy", rows: &[&fcfs::ENTRY] };
