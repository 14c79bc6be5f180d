//! Budgets of tokens, reserved before a step may spend them (the room `engine.gate`).
//!
//! A request's own budget is its `max_tokens`. A caller's is a [`Budget`] that all its requests share. Before a step
//! every sequence that will choose reserves one token, and then, of what is left, one for each draft it may get
//! accepted; what a step did not say goes back before the next one. So a budget can be spent to the last token and
//! never beyond, however many tokens a step brings.

pub(crate) mod think;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind, Table};
use tamp_base::count::Acts;
use tamp_base::ids::SeqId;
use tamp_kv::Device;
use tamp_sample::FinishReason;
use tamp_spec::Draft;

use crate::Engine;
use crate::turn::Turn;

pub use think::Think;

/// Tokens that somebody may still be answered with; shared by all its requests, on any thread.
#[derive(Debug, Default)]
pub struct Budget {
    /// neither said nor reserved; below 0 when overdrawn softly
    free: AtomicI64,
    reserved: AtomicU64,
    spent: AtomicU64,
}

/// Two budgets are the same when they are one.
impl PartialEq for Budget {
    fn eq(&self, other: &Budget) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Budget {
    /// A budget of `tokens`.
    pub fn new(tokens: u64) -> Budget {
        Budget { free: AtomicI64::new(i64::try_from(tokens).unwrap_or(i64::MAX)), ..Budget::default() }
    }

    /// Takes up to `want` tokens, of which `below` may be beyond the budget, and says how many.
    pub fn reserve(&self, want: usize, below: usize) -> usize {
        let (mut got, below) = (0, i64::try_from(below).unwrap_or(i64::MAX));
        // Noted as reserved before it is taken, so that nobody sees a budget spent that may get something back.
        self.reserved.fetch_add(want as u64, Ordering::AcqRel);
        let most = i64::try_from(want).unwrap_or(i64::MAX);
        let _ = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| {
            got = most.min(free.max(0).saturating_add(below));
            (got > 0).then(|| free - got)
        });
        self.reserved.fetch_sub(want as u64 - got as u64, Ordering::AcqRel);
        got as usize
    }

    /// Of `reserved` tokens `said` were said; the others are free again.
    pub fn settle(&self, reserved: usize, said: usize) {
        let said = said.min(reserved);
        self.free.fetch_add((reserved - said) as i64, Ordering::AcqRel);
        self.spent.fetch_add(said as u64, Ordering::AcqRel);
        self.reserved.fetch_sub(reserved as u64, Ordering::AcqRel);
    }

    /// Adds tokens, as when a new day begins.
    pub fn add(&self, tokens: u64) {
        self.free.fetch_add(i64::try_from(tokens).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    /// Tokens neither said nor reserved; below 0 when answers were let end softly.
    pub fn free(&self) -> i64 {
        self.free.load(Ordering::Acquire)
    }

    /// Tokens said.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Acquire)
    }

    /// Nothing is left, and nothing can come back.
    pub fn is_spent(&self) -> bool {
        let none = || self.reserved.load(Ordering::Acquire) == 0;
        none() && self.free() <= 0 && none()
    }
}

/// Decides how far below nothing a budget may go.
pub trait Gate: Send {
    /// Tokens that an answer which has said `said` tokens, `over` of them beyond the budget, may still overdraw.
    fn below(&self, said: usize, over: usize) -> usize;
}

/// The members; the default first.
pub static TABLE: Table<dyn Gate, ()> = Table { room: "engine.gate", rows: &[&TOKENBUDGET, &NONE] };

static TOKENBUDGET: Entry<dyn Gate, ()> = Entry {
    card: Card {
        name: "tokenbudget",
        aka: "TokenBudgetGate (wave 21/22)",
        about: "tokens are reserved before the step that says them; an answer ends when its caller's budget is spent",
        paper: "",
        claim: "token budget overshoot: hard 0 overshoot",
        effect: Effect::Service,
        needs: &[],
        knobs: &[
            Knob {
                name: "mode",
                about: "hard: never a token beyond the budget; soft: an answer under way may end, within `slack`",
                kind: KnobKind::Choice(&["hard", "soft"]),
                default: "hard",
            },
            Knob {
                name: "slack",
                about: "tokens beyond the budget that each answer under way may have when soft",
                kind: KnobKind::Int(0, 1 << 20),
                default: "32",
            },
        ],
    },
    open: |_, knobs| {
        let slack = if knobs.choice("mode") == "soft" { knobs.int("slack").max(0) as usize } else { 0 };
        Ok(Box::new(Bounded { slack }))
    },
};

static NONE: Entry<dyn Gate, ()> = Entry {
    card: Card {
        name: "none",
        aka: "",
        about: "budgets are counted and bind nobody",
        paper: "",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[],
    },
    open: |_, _| Ok(Box::new(Open)),
};

struct Bounded {
    slack: usize,
}

impl Gate for Bounded {
    fn below(&self, said: usize, over: usize) -> usize {
        if said == 0 { 0 } else { self.slack.saturating_sub(over) }
    }
}

struct Open;

impl Gate for Open {
    fn below(&self, _: usize, _: usize) -> usize {
        usize::MAX
    }
}

/// What a sequence has reserved.
struct Grant {
    budget: Arc<Budget>,
    tokens: usize,
    /// tokens of the answer when it was granted
    said: usize,
    /// the first of `tokens` is beyond the budget
    beyond: bool,
}

/// What the gate says to a sequence that wants to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// go on
    Go,
    /// others hold what is left, and may give it back
    Wait,
    /// nothing is left
    Spent,
}

/// The gate with its books.
pub struct Gates {
    gate: Box<dyn Gate>,
    grants: BTreeMap<SeqId, Grant>,
    /// tokens beyond their budget, of live sequences that have any
    over: BTreeMap<SeqId, usize>,
    thoughts: think::Thoughts,
    acts: Acts,
}

impl Gates {
    /// Nobody has reserved anything yet.
    pub fn new(gate: Box<dyn Gate>) -> Gates {
        Gates {
            gate,
            grants: BTreeMap::new(),
            over: BTreeMap::new(),
            thoughts: think::Thoughts::default(),
            acts: Acts::default(),
        }
    }

    /// A sequence begins that has a bound on its thoughts.
    pub fn think(&mut self, seq: SeqId, think: Think) {
        self.thoughts.open(seq, think);
    }

    /// Settles what a sequence said since it was granted. To be told for each before the next turn.
    pub fn settle(&mut self, seq: SeqId, said: usize) {
        if let Some(g) = self.grants.remove(&seq) {
            let new = said.saturating_sub(g.said);
            g.budget.settle(g.tokens, new);
            if g.beyond && new > 0 {
                *self.over.entry(seq).or_default() += 1;
            }
        }
    }

    /// A sequence ended, having said `said` tokens.
    pub fn forget(&mut self, seq: SeqId, said: usize) {
        self.settle(seq, said);
        self.over.remove(&seq);
        self.thoughts.forget(seq);
    }

    /// Asks for the one token that a choosing sequence brings at least. One that only reads its prompt reserves
    /// nothing, and does not begin when nothing is left.
    pub fn ask(&mut self, seq: SeqId, budget: &Arc<Budget>, chooses: bool, said: usize) -> Pass {
        self.acts.asked += 1;
        let below = self.gate.below(said, self.over.get(&seq).copied().unwrap_or(0));
        let got = if chooses {
            let tokens = budget.reserve(1, below);
            if tokens > 0 {
                let beyond = budget.free() < 0;
                self.grants.insert(seq, Grant { budget: budget.clone(), tokens, said, beyond });
            }
            tokens > 0
        } else {
            budget.free() > 0 || below > 0
        };
        match got {
            true => self.acts.declined += 1,
            false => self.acts.acted += 1,
        }
        match (got, budget.is_spent()) {
            (true, _) => Pass::Go,
            (false, false) => Pass::Wait,
            (false, true) => Pass::Spent,
        }
    }

    /// After everybody has its one token: how many draft tokens of `want` a sequence may get accepted. Drafts overdraw
    /// no more than one that has not begun may.
    pub fn drafts(&mut self, seq: SeqId, want: usize) -> usize {
        let Some(g) = self.grants.get_mut(&seq) else { return want };
        let got = g.budget.reserve(want, self.gate.below(0, 0));
        g.tokens += got;
        got
    }

    /// Draft tokens that a sequence may get accepted in this turn.
    pub fn depth(&self, seq: SeqId) -> usize {
        let granted = self.grants.get(&seq).map_or(usize::MAX, |g| g.tokens.saturating_sub(1));
        // A gate that binds nobody binds no thought either.
        let thought = if self.gate.below(1, 0) == usize::MAX { usize::MAX } else { self.thoughts.depth(seq) };
        granted.min(thought)
    }

    /// Shortens a draft in which a thought begins, so that it cannot end beyond its bound.
    pub fn clip(&self, seq: SeqId, draft: &mut Draft, vocab: usize) {
        if let Some(depth) = self.thoughts.after_opening(seq)
            && draft.nodes().iter().any(|n| self.thoughts.opens(seq, n.token))
        {
            draft.clip(draft.len(), depth, vocab);
        }
    }

    /// asked, let through, held back
    pub fn acts(&self) -> Acts {
        self.acts
    }
}

impl<D: Device> Engine<D> {
    /// Gives back what the last turn reserved and did not say.
    pub(crate) fn settle(&mut self) {
        let granted: Vec<SeqId> = self.gates.grants.keys().copied().collect();
        for id in granted {
            let said = self.seqs.get(&id).map_or(0, |s| s.known().said);
            self.gates.settle(id, said);
        }
    }

    /// Holds the parts of a turn to their callers' budgets; ends the answers of those that have spent theirs.
    pub(crate) fn gate(&mut self, turn: &mut Turn) {
        let mut stays = Vec::with_capacity(turn.parts.len());
        for part in std::mem::take(&mut turn.parts) {
            let chooses = self.chooses(&part);
            let Some(seq) = self.seqs.get(&part.seq) else { continue };
            let pass = match &seq.ask.who.budget {
                Some(budget) => self.gates.ask(part.seq, budget, chooses, seq.known().said),
                None => Pass::Go,
            };
            match pass {
                Pass::Go => stays.push(part),
                Pass::Wait => {
                    let len = self.kv.len(part.seq);
                    self.kv.rewind(part.seq, len);
                }
                Pass::Spent => self.finish(part.seq, FinishReason::Length, None),
            }
        }
        for part in &stays {
            let depth = self.seqs.get(&part.seq).map_or(0, |s| s.limit.saturating_sub(s.tokens.len() + 1));
            self.gates.drafts(part.seq, part.draft.min(depth));
        }
        turn.parts = stays;
    }
}

#[cfg(test)]
mod tests;
