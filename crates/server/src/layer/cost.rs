//! What a request will take of the machine, told before it is let in: from the engine's own table of what forward
//! passes took, and from how long answers have been. Scored against what it took.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tamp_base::card::{Card, Effect};
use tamp_engine::Usage;
use tamp_engine::widths::Widths;

/// The card of [`Costs`].
pub static CARD: Card = Card {
    name: "rows",
    aka: "RequestCostEstimator",
    about: "foretells prefill, decode and KV time of a request from measured step times, and scores itself",
    paper: "",
    claim: "billing accuracy: 3-factor granularity",
    effect: Effect::Service,
    needs: &[],
    knobs: &[],
};

/// Positions of a KV page.
const PAGE: f64 = tamp_base::ids::PAGE as f64;
/// A new answer counts this part of the mean length.
const WEIGHT: f64 = 1.0 / 16.0;
/// Requests under way that are remembered, to be scored.
const MOST: usize = 4096;

/// What is known of a request before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// prompt tokens that must be computed
    pub prefill: usize,
    /// prompt tokens that are there already
    pub cached: usize,
    /// new tokens
    pub decode: f64,
    /// rows of a forward pass at most
    pub chunk: usize,
    /// sequences that run beside it
    pub beside: usize,
}

/// A request's part of the engine's busy time, and of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// rows of the prompt, ns
    pub prefill_ns: f64,
    /// rows that choose a token, ns
    pub decode_ns: f64,
    /// page · milliseconds
    pub page_ms: f64,
}

impl Estimate {
    /// Busy time, ns.
    pub fn busy_ns(&self) -> f64 {
        self.prefill_ns + self.decode_ns
    }
}

/// What a request should take; `None` while the engine has run nothing. A step's time is shared by its rows, so
/// company makes a request cheaper and last longer.
pub fn estimate(widths: &Widths, asked: &Asked) -> Option<Estimate> {
    let (prefill, chunk) = (asked.prefill as f64, asked.chunk.max(1) as f64);
    let (whole, rest) = ((prefill / chunk).floor(), prefill % chunk);
    let (step, beside) = (|rows: f64| widths.step_ns(rows), asked.beside as f64);
    // The others' decode rows ride in the same passes.
    let pass = |rows: f64| Some(step(rows + beside)?).filter(|_| rows > 0.0).or(Some(0.0));
    let share = |rows: f64| Some(pass(rows)? * rows / (rows + beside).max(1.0));
    step(1.0)?;
    let prefill_ns = whole * share(chunk)? + share(rest)?;
    let last_ns = step(1.0 + beside)?;
    let steps = (asked.decode - 1.0).max(0.0);
    let decode_ns = steps * last_ns / (1.0 + beside);
    let (prefill_wall, decode_wall) = (whole * pass(chunk)? + pass(rest)?, steps * last_ns);
    let (start, prompt) = (asked.cached as f64, asked.cached as f64 + prefill);
    // Pages grow along with the rows: half of what a phase adds is held on average over it.
    let during_prefill = (start + prompt) / 2.0 / PAGE;
    let during_decode = (prompt + asked.decode / 2.0) / PAGE;
    let page_ms = (during_prefill * prefill_wall + during_decode * decode_wall) / 1e6;
    Some(Estimate { prefill_ns, decode_ns, page_ms })
}

/// How long answers are, and what was foretold of those under way. Whoever shares it puts a lock around it.
#[derive(Default)]
pub struct Costs {
    /// mean length by model
    lengths: BTreeMap<Arc<str>, f64>,
    under_way: BTreeMap<u64, Estimate>,
}

impl Costs {
    /// New tokens that a request will want: what answers had so far, no more than it allows.
    pub fn length(&self, model: &str, most: Option<usize>) -> f64 {
        let usual = self.lengths.get(model).copied();
        let most = most.map(|n| n as f64);
        match (usual, most) {
            (Some(u), Some(m)) => u.min(m),
            (Some(u), None) => u,
            (None, Some(m)) => m,
            (None, None) => 0.0,
        }
    }

    /// Remembers what was foretold of a request, by its number.
    pub fn began(&mut self, number: u64, estimate: Estimate) {
        if self.under_way.len() < MOST {
            self.under_way.insert(number, estimate);
        }
    }

    /// What was foretold of a request under way.
    pub fn foretold(&self, number: u64) -> Option<Estimate> {
        self.under_way.get(&number).copied()
    }

    /// It is over: learns its length, and says what was foretold over what it took, where both are known.
    pub fn ended(&mut self, number: u64, model: &Arc<str>, tokens: usize, usage: &Usage) -> Option<f64> {
        if tokens > 0 {
            let mean = self.lengths.entry(model.clone()).or_insert(tokens as f64);
            *mean += (tokens as f64 - *mean) * WEIGHT;
        }
        let foretold = self.under_way.remove(&number)?.busy_ns();
        let took = (usage.cost.prefill_ns + usage.cost.decode_ns + usage.cost.wasted_ns) as f64;
        (took > 0.0).then(|| foretold / took)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamp_engine::Cost;

    use super::*;

    /// 3 ms for the weights, 0.2 ms a row.
    fn takes(rows: f64) -> f64 {
        3e6 + 2e5 * rows
    }

    fn learned() -> Widths {
        let mut w = Widths::default();
        for _ in 0..50 {
            for rows in [1usize, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100, 128, 200, 256] {
                w.learn(rows, takes(rows as f64) as u64);
            }
        }
        w
    }

    /// Runs the passes one by one and adds up what each row is charged.
    fn walked(asked: &Asked, decode: usize) -> (f64, f64, f64) {
        let (mut prefill_ns, mut decode_ns, mut page_ns) = (0.0, 0.0, 0.0);
        let (mut left, mut held, beside) = (asked.prefill, asked.cached, asked.beside as f64);
        while left > 0 {
            let rows = left.min(asked.chunk);
            let all = takes(rows as f64 + beside);
            prefill_ns += all * rows as f64 / (rows as f64 + beside);
            held += rows;
            page_ns += all * (held as f64 - rows as f64 / 2.0) / 16.0;
            left -= rows;
        }
        for _ in 1..decode {
            let all = takes(1.0 + beside);
            decode_ns += all / (1.0 + beside);
            held += 1;
            page_ns += all * held as f64 / 16.0;
        }
        (prefill_ns, decode_ns, page_ns / 1e6)
    }

    proptest! {
        #[test]
        fn the_estimate_is_what_walking_through_the_passes_gives(
            prefill in 1usize..2000, cached in 0usize..500, decode in 1usize..300, chunk in 16usize..256, beside in 0usize..15,
        ) {
            let asked = Asked { prefill, cached, decode: decode as f64, chunk, beside };
            let got = estimate(&learned(), &asked).unwrap();
            let want = walked(&asked, decode);
            for (name, got, want) in [
                ("prefill", got.prefill_ns, want.0),
                ("decode", got.decode_ns, want.1),
                ("pages", got.page_ms, want.2),
            ] {
                // A tenth is what is promised of the whole; narrow passes lie between known widths.
                prop_assert!((got - want).abs() <= 0.1 * want + 1.0, "{name}: {got}, walked {want}");
            }
        }
    }

    #[test]
    fn nothing_is_foretold_before_anything_ran() {
        let asked = Asked { prefill: 10, decode: 5.0, chunk: 16, ..Asked::default() };
        assert_eq!(estimate(&Widths::default(), &asked), None);
    }

    #[test]
    fn lengths_are_learned_and_estimates_are_scored_once() {
        let (mut costs, model): (Costs, Arc<str>) = (Costs::default(), "m".into());
        assert_eq!((costs.length("m", Some(100)), costs.length("m", None)), (100.0, 0.0));
        let usage = Usage {
            cost: Cost { prefill_ns: 60, decode_ns: 30, wasted_ns: 10, page_ms: 0 },
            ..Usage::default()
        };
        costs.began(7, Estimate { prefill_ns: 100.0, decode_ns: 10.0, page_ms: 0.0 });
        assert_eq!(costs.foretold(7).unwrap().busy_ns(), 110.0);
        assert_eq!(costs.ended(7, &model, 40, &usage), Some(1.1));
        assert_eq!(costs.ended(7, &model, 40, &usage), None);
        assert_eq!((costs.length("m", Some(100)), costs.length("m", Some(8))), (40.0, 8.0));
        (0..MOST as u64 + 10).for_each(|n| costs.began(n, Estimate::default()));
        assert!(costs.under_way.len() <= MOST);
    }
}
