//! A line through the lengths that came, over the lengths of their prompts.

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};

use super::{Forecast, Known};

pub(super) static ENTRY: Entry<dyn Forecast, ()> = Entry {
    card: Card {
        name: "prompt",
        aka: "ForeLen's baseline: the prompt's length",
        about: "an answer's length is a line over its prompt's length, fitted to the last answers",
        paper: "arXiv 2602.11812",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[Knob {
            name: "memory",
            about: "answers that the line remembers",
            kind: KnobKind::Int(2, 1_000_000),
            default: "200",
        }],
    },
    open: |_, knobs| Ok(Box::new(Line { memory: knobs.int("memory").max(2) as f64, ..Line::default() })),
};

/// Moments of the last answers, as running means.
#[derive(Default)]
struct Line {
    memory: f64,
    seen: f64,
    x: f64,
    y: f64,
    /// variance of the prompts' lengths
    xx: f64,
    /// covariance of the two
    xy: f64,
}

impl Forecast for Line {
    fn whole(&self, known: Known) -> Option<f64> {
        let slope = if self.xx > 1e-9 { self.xy / self.xx } else { 0.0 };
        (self.seen > 0.0).then(|| (self.y + slope * (known.prompt as f64 - self.x)).max(1.0))
    }

    fn learn(&mut self, ended: Known) {
        self.seen = (self.seen + 1.0).min(self.memory);
        let by = 1.0 / self.seen;
        let (dx, dy) = (ended.prompt as f64 - self.x, ended.said as f64 - self.y);
        self.x += by * dx;
        self.y += by * dy;
        self.xx = (1.0 - by) * (self.xx + by * dx * dx);
        self.xy = (1.0 - by) * (self.xy + by * dx * dy);
    }
}
