//! The room `engine.idle`: what an engine does when nobody asks for anything. Whatever it is, it ends within one step
//! when somebody does.

mod none;
mod warmup;

use std::time::Duration;

use tamp_base::card::Table;
use tamp_base::count::Acts;
use tamp_kv::{Device, Hot};

use crate::Engine;
use crate::request::Request;

/// Decides what is computed before anybody asks.
pub trait Idle: Send {
    /// The next prefix to have in memory. `hot` looks up the prefixes asked for most, most wanted first; `missing` says
    /// how many positions of one would have to be computed or fetched.
    fn next(
        &mut self,
        now: Duration,
        hot: &mut dyn FnMut(usize) -> Vec<Hot>,
        missing: &dyn Fn(&Hot) -> usize,
    ) -> Option<Hot>;
    /// asked: looks at the list; acted: prefixes begun
    fn acts(&self) -> Acts;
}

/// The members, null first.
pub static TABLE: Table<dyn Idle, ()> = Table { room: "engine.idle", rows: &[&none::ENTRY, &warmup::ENTRY] };

/// Pages handed to the tier per idle look: a few milliseconds of copying, after which somebody may be there.
const SPILL: usize = 8;

impl<D: Device> Engine<D> {
    /// To be called when a step had nothing to do: keeps cached pages, and computes what will be wanted.
    pub fn idle(&mut self) {
        self.keep_pages(SPILL);
        if !self.seqs.is_empty() {
            return;
        }
        let (kv, now) = (&self.kv, self.clock.now());
        let missing = |h: &Hot| h.tokens.len().saturating_sub(kv.matched(&h.root, &h.tokens));
        let Some(hot) = self.idle.next(now, &mut |n| kv.hot(n), &missing) else { return };
        if hot.tokens.is_empty() || hot.tokens.len() >= self.ctx {
            return;
        }
        // The chain of a default request refuses nothing.
        let _ = self.admit_warm(hot.root, Request { prompt: hot.tokens, ..Request::default() });
    }

    /// Hands up to `most` cached pages to a slower memory, as far as it takes them without a wait.
    pub fn keep_pages(&mut self, most: usize) {
        let device = self.models[0].device().clone();
        self.kv.spill_idle(&*device, most);
    }

    /// Saves what is cached before the process ends, for so long at most; whether all of it was saved.
    pub fn flush(&mut self, within: Duration) -> bool {
        let device = self.models[0].device().clone();
        self.kv.flush(&*device, within)
    }
}
