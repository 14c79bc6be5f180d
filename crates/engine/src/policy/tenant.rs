//! Virtual token counters: every tenant is charged what its rows really took, divided by its weight, and the least
//! served goes first. One that comes back after a pause starts at the least counter of those that are there, so that
//! nobody saves service up.

use std::collections::BTreeMap;
use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};
use tamp_base::ids::TenantId;

use super::pack::{Order, Pack};
use super::{Charge, Line, Policy, PolicyCtx};

pub(super) static ENTRY: Entry<dyn Policy, PolicyCtx> = Entry {
    card: Card {
        name: "tenant",
        aka: "TenantScheduler (wave 21/22)",
        about: "the tenant that was served least for its weight goes first, by the rows it really took; the most served \
                gives way when pages or places run out",
        paper: "arXiv 2401.00588",
        claim: "multi-tenant fairness: weight-proportional",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[
            Knob {
                name: "prompt",
                about: "charge for a row of a prompt",
                kind: KnobKind::Float(0.001, 1000.0),
                default: "1",
            },
            Knob {
                name: "answer",
                about: "charge for a row that chooses a token",
                kind: KnobKind::Float(0.001, 1000.0),
                default: "2",
            },
            Knob {
                name: "margin",
                about: "how much more, per weight, somebody must have been charged to lose pages to another tenant, which \
                        costs computing them again",
                kind: KnobKind::Float(0.0, 1e9),
                default: "2048",
            },
        ],
    },
    open: |&ctx, knobs| {
        let (prompt, answer, margin) = (knobs.float("prompt"), knobs.float("answer"), knobs.float("margin"));
        let counters =
            Counters { prompt, answer, margin, served: BTreeMap::new(), active: vec![], least: 0.0 };
        Ok(Box::new(Pack::new(ctx, counters)))
    },
};

struct Counters {
    prompt: f64,
    answer: f64,
    margin: f64,
    /// charges over weight; only of those above `least` or active
    served: BTreeMap<TenantId, f64>,
    /// that had sequences in the last turn, ascending
    active: Vec<TenantId>,
    /// the least counter among the active ones, the highest it ever was
    least: f64,
}

impl Counters {
    fn of(&self, tenant: TenantId) -> f64 {
        self.served.get(&tenant).copied().unwrap_or(self.least)
    }
}

impl Order for Counters {
    fn begin(&mut self, lines: &[Line], _: Duration) {
        let mut here: Vec<TenantId> = lines.iter().map(|l| l.tenant).collect();
        here.sort_unstable();
        here.dedup();
        // Those that stayed say what the least is; those that come are lifted to it.
        let stayed = self.active.iter().filter(|t| here.binary_search(t).is_ok());
        let least = stayed.map(|&t| self.of(t)).min_by(f64::total_cmp);
        self.least = least.unwrap_or(self.least).max(self.least);
        for &t in here.iter().filter(|t| self.active.binary_search(t).is_err()) {
            let counter = self.of(t).max(self.least);
            self.served.insert(t, counter);
        }
        let least = self.least;
        self.served.retain(|t, c| *c > least || here.binary_search(t).is_ok());
        self.active = here;
    }

    fn rank(&self, line: &Line, _: Duration) -> f64 {
        self.of(line.tenant)
    }

    fn outranks(&self, line: &Line, other: &Line) -> bool {
        if line.tenant == other.tenant {
            return line.seq < other.seq;
        }
        self.of(line.tenant) + self.margin < self.of(other.tenant)
    }

    fn overtakes(&self, line: &Line, other: &Line) -> bool {
        line.tenant != other.tenant && self.of(line.tenant) <= self.of(other.tenant)
    }

    fn charge(&mut self, charges: &[Charge]) {
        for c in charges {
            let weight = if c.weight.is_finite() { f64::from(c.weight).max(1e-3) } else { 1.0 };
            let took = c.prefill as f64 * self.prompt + c.decode as f64 * self.answer;
            let before = self.of(c.tenant);
            self.served.insert(c.tenant, before + took / weight);
        }
        // When the last one leaves, whoever comes next starts where it ended.
        let least = self.active.iter().map(|&t| self.of(t)).min_by(f64::total_cmp);
        self.least = least.unwrap_or(self.least).max(self.least);
    }
}
