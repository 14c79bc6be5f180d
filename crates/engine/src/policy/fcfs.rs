//! First come, first served.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry};

use super::pack::{Order, Pack};
use super::{Line, Policy, PolicyCtx};

pub(super) static ENTRY: Entry<dyn Policy, PolicyCtx> = Entry {
    card: Card {
        name: "fcfs",
        aka: "SeqPacking (wave 15/16), FlashPrefillKernel (wave 21/22): their scheduling, chunked prefill with continuous batching",
        about: "places in order of arrival, answers under way before prompts, a short prompt before the rest of a long \
                one; the youngest gives way when pages run out",
        paper: "arXiv 2403.02310",
        claim: "batch throughput: 1.8× effective; TTFT (chunked prefill): O(chunk) memory",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[],
    },
    open: |&ctx, _| Ok(Box::new(Pack::new(ctx, Arrival))),
};

/// Ids ascend with arrival.
struct Arrival;

impl Order for Arrival {
    fn rank(&self, _: &Line, _: Duration) -> f64 {
        0.0
    }

    fn outranks(&self, line: &Line, other: &Line) -> bool {
        line.seq < other.seq
    }
}
