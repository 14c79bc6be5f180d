//! The verify wall: whether guessing tokens and checking them in one pass can pay, said before anybody tries.
//!
//! A step checks `t` rows (the known token and `t − 1` guesses). With acceptance α per guess it keeps
//! `τ̄(t) = 1 + α + … + α^(t−1)` tokens, and costs `c(t)` plain steps plus `d(t)` for the guesses. It pays where
//! `S(t) = τ̄(t) / (c(t) + d(t)) > 1`.
//!
//! `c(t)` of a dense model is measured ([`WidthTable`]), because kernels have steps that no formula knows. A model of
//! experts also loads the union of the experts that its rows chose ([`Experts`]). Acceptance is taken as independent of
//! depth; a measured count of tokens per step goes into [`gain`] as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `kind` of a [`WidthTable`].
pub const WIDTH_TABLE: &str = "tamp.bench.width.engine";

/// Most points of a table.
const MOST: usize = 4096;

/// Why a prediction cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WallError {
    /// Another record.
    #[error("a width table is of kind {WIDTH_TABLE}, v 1, and this record is of kind `{kind}`, v {v}")]
    Kind {
        /// what it says it is
        kind: String,
        /// its version
        v: u32,
    },
    /// Costs that cannot be read.
    #[error(
        "widths and costs {got} cannot be used: widths must ascend from 1, where the cost is 1, and costs be above 0; \
         `tamp bench width MODEL --json` writes a good table"
    )]
    Costs {
        /// the first entry that is wrong
        got: String,
    },
    /// Experts that cannot be.
    #[error("{active} of {total} experts with {dense} dense and {expert} expert bytes cannot be")]
    Experts {
        /// experts per layer
        total: f64,
        /// of these, chosen by a row
        active: f64,
        /// dense bytes
        dense: f64,
        /// bytes of the active experts
        expert: f64,
    },
}

/// Expected tokens of a step of `width` rows at acceptance `alpha` (0…1) per guess: 1 at 0, `width` at 1.
pub fn tokens_per_step(alpha: f64, width: usize) -> f64 {
    let alpha = alpha.clamp(0.0, 1.0);
    let (mut sum, mut term) = (0.0, 1.0);
    for _ in 0..width {
        sum += term;
        term *= alpha;
        if term == 0.0 {
            break;
        }
    }
    sum
}

/// Times a plain step's rate: `tokens` kept per step, at `cost` plain steps for checking and `draft` for guessing.
pub fn gain(tokens: f64, cost: f64, draft: f64) -> f64 {
    tokens / (cost + draft)
}

/// The acceptance at which a step of `width` rows breaks even; `None` when even certainty does not pay.
pub fn break_even(width: usize, cost: f64, draft: f64) -> Option<f64> {
    let need = cost + draft;
    if !need.is_finite() || need > width as f64 {
        return None;
    }
    if need <= 1.0 {
        return Some(0.0);
    }
    let (mut lo, mut hi) = (0.0, 1.0);
    // Tokens per step grow with acceptance; 60 halvings leave nothing of a double.
    for _ in 0..60 {
        let mid = (lo + hi) / 2.0;
        if tokens_per_step(mid, width) < need {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    Some(hi)
}

/// What a step must have cost when `tokens` per step came out as `speedup` of the plain rate: the wall that a
/// measurement ran into, whatever the formulas say.
pub fn implied_cost(tokens: f64, speedup: f64, draft: f64) -> f64 {
    tokens / speedup - draft
}

/// What a step of `streams` streams costs in plain steps, when one stream runs at `one` and all together at `all`
/// tokens per second.
pub fn batch_cost(streams: usize, one: f64, all: f64) -> f64 {
    streams as f64 * one / all
}

/// What a step costs beside a step of one row.
pub trait StepCost {
    /// Cost of `rows` rows; 1 at one row.
    fn at(&self, rows: usize) -> f64;

    /// `S(t)` when each of `batch` streams checks `width` rows in the same step, against plain steps of the same
    /// batch. `draft` is the time for one stream-wide round of guesses in such plain steps.
    fn speedup(&self, alpha: f64, width: usize, batch: usize, draft: f64) -> f64 {
        gain(tokens_per_step(alpha, width), self.beside(width, batch), draft)
    }

    /// The acceptance that breaks even for `batch` streams of `width` rows.
    fn break_even(&self, width: usize, batch: usize, draft: f64) -> Option<f64> {
        break_even(width, self.beside(width, batch), draft)
    }

    /// The width of the greatest speed-up among `widths`, and the speed-up; `None` when no width pays. `draft` gives
    /// the cost of the guesses for a width.
    fn best(
        &self,
        alpha: f64,
        widths: &[usize],
        batch: usize,
        draft: &dyn Fn(usize) -> f64,
    ) -> Option<(usize, f64)> {
        let of = |&t: &usize| (t, self.speedup(alpha, t, batch, draft(t)));
        widths.iter().map(of).filter(|s| s.1 > 1.0).max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Cost of `batch` streams of `width` rows beside `batch` streams of one.
    fn beside(&self, width: usize, batch: usize) -> f64 {
        let batch = batch.max(1);
        self.at(width.saturating_mul(batch)) / self.at(batch)
    }
}

/// Measured costs by width, with straight lines between the widths.
#[derive(Clone, Debug, PartialEq)]
pub struct Widths(Vec<(usize, f64)>);

impl Widths {
    /// From (rows, cost), ascending from one row at cost 1.
    pub fn new(points: Vec<(usize, f64)>) -> Result<Widths, WallError> {
        let wrong = |got: String| Err(WallError::Costs { got });
        match points.first() {
            Some(&(1, one)) if (one - 1.0).abs() < 1e-9 => {}
            first => return wrong(format!("{first:?}")),
        }
        if points.len() > MOST {
            return wrong(format!("of {} points", points.len()));
        }
        let bad = |p: &&(usize, f64)| !(p.1.is_finite() && p.1 > 0.0);
        if let Some(p) = points.iter().find(bad) {
            return wrong(format!("{p:?}"));
        }
        if let Some(w) = points.windows(2).find(|w| w[0].0 >= w[1].0) {
            return wrong(format!("{w:?}"));
        }
        Ok(Widths(points))
    }

    /// The widths that were measured.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|p| p.0)
    }
}

impl StepCost for Widths {
    /// Beyond the widest, every row costs what an average one of the widest does: the slope of two noisy neighbours
    /// would be noise, and a step cannot become cheaper by rows.
    fn at(&self, rows: usize) -> f64 {
        let rows = rows.max(1);
        let i = self.0.partition_point(|p| p.0 < rows);
        match (self.0.get(i.wrapping_sub(1)), self.0.get(i)) {
            (_, Some(&(at, cost))) if at == rows => cost,
            (Some(&(a, low)), Some(&(b, high))) => low + (high - low) * (rows - a) as f64 / (b - a) as f64,
            (Some(&(widest, cost)), None) => cost * rows as f64 / widest as f64,
            _ => 1.0,
        }
    }
}

/// A mixture of experts bound by memory: what its rows read.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    total: f64,
    active: f64,
    dense: f64,
    expert: f64,
    overlap: Vec<f64>,
}

impl Experts {
    /// `active` of `total` experts per row and layer, chosen as if drawn anew by each row; `dense` bytes that every
    /// step reads and `expert` bytes of the active experts of one row (in any one unit).
    pub fn uniform(total: f64, active: f64, dense: f64, expert: f64) -> Result<Experts, WallError> {
        let sizes = [total, active, dense, expert].iter().all(|x| x.is_finite());
        if !sizes || active <= 0.0 || total < active || dense < 0.0 || expert < 0.0 || dense + expert <= 0.0 {
            return Err(WallError::Experts { total, active, dense, expert });
        }
        Ok(Experts { total, active, dense, expert, overlap: vec![0.0] })
    }

    /// With what was measured of each layer: the chance (0…1) that a row uses again an expert of the row before, on
    /// top of what chance would give.
    pub fn calibrated(mut self, overlap: &[f64]) -> Experts {
        if !overlap.is_empty() {
            self.overlap = overlap.iter().map(|o| o.clamp(0.0, 1.0)).collect();
        }
        self
    }

    /// Distinct experts that `rows` rows load in a layer, on average over the layers: `N(1 − (1 − k/N)^t)` where rows
    /// choose independently.
    pub fn union(&self, rows: usize) -> f64 {
        let share = self.active / self.total;
        let later = rows.max(1) as f64 - 1.0;
        let layer = |o: &f64| 1.0 - (1.0 - share) * (1.0 - (1.0 - o) * share).powf(later);
        self.total * self.overlap.iter().map(layer).sum::<f64>() / self.overlap.len() as f64
    }

    /// The most that loading experts explains: all of them.
    pub fn most(&self) -> f64 {
        self.share(self.total)
    }

    fn share(&self, union: f64) -> f64 {
        (self.dense + self.expert * union / self.active) / (self.dense + self.expert)
    }
}

impl StepCost for Experts {
    fn at(&self, rows: usize) -> f64 {
        self.share(self.union(rows))
    }
}

/// Measured widths of one model on one machine; what `tamp bench width MODEL --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthTable {
    /// always [`WIDTH_TABLE`]
    pub kind: String,
    /// version of this record, 1
    pub v: u32,
    /// file name of the model
    pub model: String,
    /// its bytes
    pub model_bytes: u64,
    /// the device and its instruction set
    pub device: String,
    /// the processor, as it names itself
    #[serde(default)]
    pub cpu: String,
    /// worker threads
    pub threads: usize,
    /// when it was measured, milliseconds since 1970
    pub measured_ms: u64,
    /// the plan it was measured with
    pub plan_hash: String,
    /// the machine's lock was held
    #[serde(default)]
    pub decision_grade: bool,
    /// the widths
    pub points: Vec<WidthCost>,
    /// everything else the record says
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

/// One measured width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthCost {
    /// rows
    pub rows: usize,
    /// median step, ms
    pub ms: f64,
    /// median of the ratios to one row
    pub cost: f64,
    /// the smallest of these
    pub cost_min: f64,
    /// the largest
    pub cost_max: f64,
    /// everything else
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl WidthTable {
    /// The costs, once the record is one that this build reads.
    pub fn widths(&self) -> Result<Widths, WallError> {
        if self.kind != WIDTH_TABLE || self.v != 1 {
            return Err(WallError::Kind { kind: self.kind.clone(), v: self.v });
        }
        Widths::new(self.points.iter().map(|p| (p.rows, p.cost)).collect())
    }
}

#[cfg(test)]
mod tests;
