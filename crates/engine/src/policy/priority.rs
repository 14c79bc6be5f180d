//! The higher priority goes first. Waiting raises it, so that nobody starves.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};

use super::pack::{Order, Pack};
use super::{Line, Policy, PolicyCtx};

/// Levels beyond this count as this, or ageing could not reach them.
const MOST: i32 = 100;

pub(super) static ENTRY: Entry<dyn Policy, PolicyCtx> = Entry {
    card: Card {
        name: "priority",
        aka: "",
        about: "the higher priority goes first, from -100 to 100, and waiting raises it; the lower gives way when pages \
                or places run out",
        paper: "",
        claim: "",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[Knob {
            name: "age",
            about: "milliseconds since receipt that count as one level",
            kind: KnobKind::Int(1, 3_600_000),
            default: "2000",
        }],
    },
    open: |&ctx, knobs| Ok(Box::new(Pack::new(ctx, Level { age: knobs.int("age").max(1) as u64 }))),
};

struct Level {
    /// ms per level
    age: u64,
}

fn level(line: &Line) -> i32 {
    line.priority.clamp(-MOST, MOST)
}

impl Order for Level {
    /// Whole levels, so that equals go by arrival.
    fn rank(&self, line: &Line, now: Duration) -> f64 {
        let aged = now.saturating_sub(line.received).as_millis() as u64 / self.age;
        -f64::from(level(line)) - aged as f64
    }

    /// By the level alone: who aged to the front is sheltered when pages run out, and needs no more.
    fn outranks(&self, line: &Line, other: &Line) -> bool {
        (-level(line), line.seq) < (-level(other), other.seq)
    }
}
