//! What an engine has done so far, and whether its books balance.

use serde::Serialize;
use tamp_base::count::{Acts, Work};
use tamp_kv::Device;

use crate::cost::{self, Rates};
use crate::{Engine, forecast, pressure};

/// What an engine has done so far, and how it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// work of the model
    pub work: Work,
    /// the proposer
    pub propose: Acts,
    /// the acceptor
    pub accept: Acts,
    /// times a sequence gave its pages up
    pub preemptions: u64,
    /// sequences that ended
    pub finished: u64,
    /// sequences that hold pages
    pub running: usize,
    /// sequences that wait for their first pages
    pub waiting: usize,
    /// sequences that began, and those that found a cached prefix
    pub reuse: Acts,
    /// looks of an idle engine at what will be wanted, and prefixes it fetched or computed
    pub idle: Acts,
    /// newcomers, and those that waited for a common prefix
    pub coalesce: Acts,
    /// batches, and those in which sequences had their keys read together
    pub pick: Acts,
    /// prompt positions looked for in the prefix cache
    pub prefix_asked: u64,
    /// and found
    pub prefix_hits: u64,
    /// pages the prefix cache holds, per group
    pub pages_cached: usize,
    /// KV pages to be had in the fullest group: free, or held by the prefix cache alone
    pub pages_free: usize,
    /// KV pages per group
    pub pages_total: usize,
    /// time in steps; the costs of all sequences sum to it
    pub busy_ns: u64,
    /// what steps take; a guess while `busy_ns` is 0
    pub rates: Rates,
    /// how well that foretells steps
    pub cost: cost::Score,
    /// how well answers' lengths are foretold
    pub forecast: forecast::Score,
    /// the gate of budgets: asked, let through, held back
    pub gate: Acts,
    /// what is given up for want of memory
    pub eased: pressure::Actions,
}

impl<D: Device> Engine<D> {
    /// Counters and the present state.
    pub fn stats(&self) -> Stats {
        let running = self.seqs.keys().filter(|&&id| self.kv.len(id) > 0).count();
        let prefixes = self.kv.book().prefix_counts();
        Stats {
            work: self.run.work,
            propose: self.proposer.acts(),
            accept: self.accept.acts(),
            preemptions: self.preemptions,
            finished: self.finished,
            running,
            waiting: self.seqs.len() - running,
            reuse: self.reuse.acts(),
            idle: self.idle.acts(),
            coalesce: self.coalesce.acts(),
            prefix_asked: prefixes.asked,
            prefix_hits: prefixes.hits,
            pages_cached: prefixes.cached,
            pages_free: self.kv.room(),
            pages_total: self.kv.total(),
            busy_ns: self.meter.busy_ns(),
            rates: self.meter.rates(),
            cost: self.meter.score(),
            forecast: self.forecast.score(),
            gate: self.gates.acts(),
            eased: self.aside.eased,
            pick: self.aside.pick.acts(),
        }
    }

    /// Whether the books balance; run after every step in tests and when idle.
    pub fn integrity(&self) -> Result<(), String> {
        self.kv.integrity()?;
        for (id, seq) in &self.seqs {
            let (known, committed) = (seq.tokens.len(), self.kv.len(*id));
            if committed >= known || known > seq.limit {
                return Err(format!(
                    "sequence {}: {committed} committed, {known} known, limit {}",
                    id.0, seq.limit
                ));
            }
        }
        if self.seqs.is_empty() && self.kv.room() != self.kv.total() {
            return Err(format!("idle, and {} of {} pages are free", self.kv.room(), self.kv.total()));
        }
        Ok(())
    }
}
