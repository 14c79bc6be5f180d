//! The room `engine.policy`: who takes part in the next forward pass, who gets pages, who gives them up.
//!
//! A policy reserves what it hands out: after [`Policy::choose`] every part's rows are writable. It never loses a
//! sequence: one that gives its pages up is computed again later and says the same. It reads no clock but `now`.
//!
//! A member is an order, in a file of its own; what all do alike is in `pack`.

mod fcfs;
mod pack;
mod priority;
mod sjf;
mod tenant;

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
    /// tokens that its answer still gets, as the room `engine.forecast` has it
    pub expect: Option<usize>,
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
    /// rows that prompts may take of a pass in which answers are under way; at least 1
    pub share: usize,
}

/// The memory as a policy sees it.
pub struct Desk<'a> {
    /// who holds which pages
    pub book: &'a mut Book,
    begin: &'a mut dyn FnMut(&mut Book, SeqId) -> usize,
}

impl<'a> Desk<'a> {
    /// `begin` gives an empty sequence what is cached of its tokens and returns how many that are.
    pub fn new(book: &'a mut Book, begin: &'a mut dyn FnMut(&mut Book, SeqId) -> usize) -> Desk<'a> {
        Desk { book, begin }
    }

    /// Gives a sequence that is about to start what is cached of its tokens, and returns how many that are: the last
    /// known token is always left. To be called before its rows are counted; who does not start then goes back to 0.
    pub fn begin(&mut self, seq: SeqId) -> usize {
        (self.begin)(self.book, seq)
    }
}

/// Chooses who takes part in the next forward pass.
pub trait Policy: Send {
    /// `lines` come in order of arrival.
    fn choose(&mut self, lines: &[Line], desk: &mut Desk<'_>, now: Duration) -> Turn;
    /// Learns what a step really took.
    fn charge(&mut self, _: &[Charge]) {}
    /// Forgets a sequence that ended.
    fn forget(&mut self, _: SeqId) {}
}

/// The members; the default first.
pub static TABLE: Table<dyn Policy, PolicyCtx> =
    Table { room: "engine.policy", rows: &[&fcfs::ENTRY, &priority::ENTRY, &tenant::ENTRY, &sjf::ENTRY] };
