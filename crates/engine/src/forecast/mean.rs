//! The running mean of the lengths that came.

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};

use super::{Forecast, Known};

pub(super) static ENTRY: Entry<dyn Forecast, ()> = Entry {
    card: Card {
        name: "mean",
        aka: "ForeLen's baseline: the mean",
        about: "every answer will be as long as the last ones were on average",
        paper: "arXiv 2602.11812",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[Knob {
            name: "memory",
            about: "answers that the mean remembers",
            kind: KnobKind::Int(1, 1_000_000),
            default: "200",
        }],
    },
    open: |_, knobs| Ok(Box::new(Mean { memory: knobs.int("memory").max(1) as f64, seen: 0.0, mean: 0.0 })),
};

struct Mean {
    memory: f64,
    seen: f64,
    mean: f64,
}

impl Forecast for Mean {
    fn whole(&self, _: Known) -> Option<f64> {
        (self.seen > 0.0).then_some(self.mean)
    }

    fn learn(&mut self, ended: Known) {
        self.seen = (self.seen + 1.0).min(self.memory);
        self.mean += (ended.said as f64 - self.mean) / self.seen;
    }
}
