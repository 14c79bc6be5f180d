//! The shortest predicted rest goes first. Waiting counts as shortness, so that nobody starves.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};

use super::pack::{Order, Pack};
use super::{Line, Policy, PolicyCtx};

/// Prompt rows that take as long as one token of an answer: 8 to 12 where decoding is bound by reading the weights.
const ROWS_PER_TOKEN: f64 = 10.0;

pub(super) static ENTRY: Entry<dyn Policy, PolicyCtx> = Entry {
    card: Card {
        name: "sjf",
        aka: "shortest predicted remaining first",
        about: "the shortest rest of prompt and answer goes first, by the room engine.forecast, and by what was allowed \
                where that is silent; waiting counts as shortness",
        paper: "arXiv 2602.11812",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[Knob {
            name: "age",
            about: "tokens of shortness per second since receipt",
            kind: KnobKind::Float(0.001, 1e6),
            default: "20",
        }],
    },
    open: |&ctx, knobs| Ok(Box::new(Pack::new(ctx, Rest { age: knobs.float("age") }))),
};

struct Rest {
    /// tokens per second
    age: f64,
}

/// Predicted rest in tokens of an answer. What has been through the model does not count: a sequence under way would
/// otherwise lose its pages to one that is as long.
fn rest(line: &Line) -> f64 {
    let allowed = line.limit.saturating_sub(line.tokens);
    let answer = line.expect.map_or(allowed, |e| e.min(allowed));
    let prompt = if line.tokens > line.prompt { 0 } else { line.prompt };
    answer as f64 + prompt as f64 / ROWS_PER_TOKEN
}

impl Order for Rest {
    fn rank(&self, line: &Line, now: Duration) -> f64 {
        rest(line) - now.saturating_sub(line.received).as_secs_f64() * self.age
    }

    /// Twice as short, since a forecast is not exact and pages cost computing again.
    fn outranks(&self, line: &Line, other: &Line) -> bool {
        2.0 * rest(line) < rest(other)
    }
}
