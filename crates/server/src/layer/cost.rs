//! What a request will take of the machine, told before it is let in: from the engine's own rates of what its steps
//! took, and from how long answers have been. Scored against what it took.

use std::collections::BTreeMap;
use std::sync::Arc;

use tamp_base::card::{Card, Effect};
use tamp_engine::Usage;
use tamp_engine::cost::Estimate;

/// The card of [`Costs`].
pub static CARD: Card = Card {
    name: "rows",
    aka: "RequestCostEstimator (wave 21/22)",
    about: "foretells prefill, decode and KV time of a request from measured step times, and scores itself",
    paper: "",
    claim: "billing accuracy: 3-factor granularity",
    effect: Effect::Service,
    needs: &[],
    knobs: &[],
};

/// A new answer counts this part of the mean length.
const WEIGHT: f64 = 1.0 / 16.0;
/// Requests under way that are remembered, to be scored.
const MOST: usize = 4096;

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
    use tamp_engine::Cost;

    use super::*;

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
