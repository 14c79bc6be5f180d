//! What stands beside the loop: who is told of it, what it gives up when memory runs short, whose keys are
//! read together.

use std::sync::Arc;
use std::time::Duration;

use tamp_base::card::{Card, CardError};
use tamp_base::ids::SeqId;
use tamp_base::settings::Settings;
use tamp_base::span::Collector;
use tamp_kv::pick::{self, Pick};
use tamp_kv::{Device, KvEvent};

use crate::Engine;
use crate::policy::Line;
use crate::pressure::{self, Actions, Facts, Pressure};
use crate::rows::Rows;
use crate::trace::{self, Trace};

/// A room and the card that was chosen for it.
type Chosen = (&'static str, &'static Card);

/// State beside the loop; no sequence's.
pub(crate) struct Aside {
    pub trace: Box<dyn Trace>,
    pub pick: Box<dyn Pick>,
    pressure: Box<dyn Pressure>,
    /// holds until asked again
    pub eased: Actions,
    /// when the turn under way began
    began: Duration,
    /// most pages that were ever in use: those were written once and stay resident
    peak: usize,
}

impl Aside {
    /// Opens its rooms; their cards are for the plan.
    pub fn open(settings: &Settings) -> Result<(Aside, [Chosen; 3]), CardError> {
        let (trace, trace_card) = trace::TABLE.open(&(), settings)?;
        let (pressure, pressure_card) = pressure::TABLE.open(&(), settings)?;
        let (pick, pick_card) = pick::TABLE.open(&(), settings)?;
        let cards = [
            (trace::TABLE.room, trace_card),
            (pressure::TABLE.room, pressure_card),
            (pick::TABLE.room, pick_card),
        ];
        let aside =
            Aside { trace, pick, pressure, eased: Actions::default(), began: Duration::ZERO, peak: 0 };
        Ok((aside, cards))
    }

    /// The turn is over.
    pub fn turned(&mut self, now: Duration) {
        self.trace.turn(self.began, now);
    }
}

impl<D: Device> Engine<D> {
    /// A turn begins: asks what to give up, and gives it up. `lines`: all sequences, in order of arrival. Returns those
    /// that gave their pages up.
    pub(crate) fn ease(&mut self, lines: &mut [Line], now: Duration) -> Vec<SeqId> {
        self.aside.began = now;
        let (total, room) = (self.kv.total(), self.kv.room());
        // Cached pages are to be had, yet they are memory in use until they are dropped.
        let held = (total - room + self.kv.book_mut().prefix_counts().cached).min(total);
        self.aside.peak = self.aside.peak.max(held);
        let holds = |l: &Line, kv: &tamp_kv::Kv<D>| kv.len(l.seq) > 0;
        let running = lines.iter().filter(|l| holds(l, &self.kv)).count();
        let page = (self.kv.bytes() / total.max(1)) as u64;
        let idle = (self.aside.peak - held) as u64 * page;
        let waiting = lines.len() - running;
        self.aside.eased = self.aside.pressure.look(now, &mut || Facts {
            used: tamp_os::memory::rss().anonymous,
            available: tamp_os::memory::available(),
            idle,
            page,
            pages_free: room,
            pages_total: total,
            running,
            waiting,
        });
        if self.aside.eased.evict_pages > 0 {
            self.kv.book_mut().drop_prefixes(self.aside.eased.evict_pages);
        }
        let most = self.aside.eased.most_running;
        if most == 0 {
            return Vec::new();
        }
        let mut gone = Vec::new();
        // The youngest first: it has the least to lose.
        for line in lines.iter_mut().rev() {
            let over = running - gone.len() > most;
            if over && holds(line, &self.kv) && self.kv.book_mut().rewind(line.seq, 0) == 0 {
                gone.push(line.seq);
            }
        }
        let fresh = lines.iter_mut().filter(|l| self.kv.len(l.seq) == 0);
        fresh.skip(most.saturating_sub(running - gone.len())).for_each(|l| l.held = true);
        gone
    }

    /// Tells of the rows of a turn as they are laid.
    pub(crate) fn tell_laid(&mut self, rows: &Rows) {
        for laid in &rows.parts {
            let Some(seq) = self.seqs.get(&laid.seq) else { continue };
            let committed = self.kv.len(laid.seq);
            let t = &seq.timings;
            let prompt = seq.prompt.saturating_sub(committed).min(laid.rows);
            self.aside.trace.laid(trace::Laid {
                trace: seq.ask.trace,
                rows: laid.nodes.len(),
                prompt,
                draft: laid.nodes.len() - laid.rows,
                received: (t.prompt_rows == prompt as u64 && prompt > 0)
                    .then(|| Duration::from_nanos(t.received_ns)),
            });
        }
    }

    /// Replaces what watches memory, for experiments and tests that bring their own.
    pub fn with_pressure(mut self, pressure: Box<dyn Pressure>) -> Self {
        self.aside.pressure = pressure;
        self
    }

    /// Keeps up to `most` changes of the set of cached pages from now on; 0 keeps none.
    pub fn listen_kv(&mut self, most: usize) {
        self.kv.book_mut().listen(most);
    }

    /// Changes since the last call, oldest first; `Cleared` stands for those that nobody took in time.
    pub fn take_kv_events(&mut self) -> Vec<KvEvent> {
        self.kv.book_mut().take_events()
    }

    /// Where spans are kept, when they are.
    pub fn spans(&self) -> Option<Arc<Collector>> {
        self.aside.trace.collector()
    }
}
