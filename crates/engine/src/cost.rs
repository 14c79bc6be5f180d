//! What a step cost, whose that was, and what a request would cost.
//!
//! A step's time is measured and split over its parts by what each would have cost in a step of its own:
//!
//! ```text
//! solo(part) = base + prompt · rows of prompt + token · rows that choose + key · keys that its rows attend
//! share      = time · solo(part) / Σ solo
//! ```
//!
//! So company makes everybody cheaper by the same factor of the step, `time / Σ solo`. The four rates are fitted to the
//! steps as they run. Whole nanoseconds are cut so that the shares sum to the time, and busy time is nothing but that sum.

use std::collections::BTreeMap;

use serde::Serialize;
use tamp_base::ids::{PAGE, SeqId};
use tamp_kv::Device;

use crate::Engine;
use crate::policy::Charge;
use crate::request::Cost;
use crate::rows::Laid;
use crate::turn::Outcome;

/// What parts of a step take, nanoseconds; fitted to measured steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// a step, whatever is in it: reading the weights
    pub base: f64,
    /// a row of a prompt
    pub prompt: f64,
    /// a row that chooses a token, or a draft's
    pub token: f64,
    /// a thousand keys that a row attends
    pub key: f64,
}

/// Where no step has run yet: only the ratios matter, and they are those of a small model.
const PRIOR: Rates = Rates { base: 1e7, prompt: 1e6, token: 1e6, key: 1e4 };

/// Rows of one part, or of a whole step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// rows of prompts, and of answers that are computed again
    pub prompt: usize,
    /// rows that choose a token, drafts included
    pub token: usize,
    /// keys that the rows attend, together
    pub keys: u64,
}

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
    /// answers under way beside it, taken to attend as many keys as it does
    pub beside: usize,
}

/// A request's part of the engine's busy time, and of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// for the prompt, ns
    pub prefill_ns: f64,
    /// for the answer, ns
    pub decode_ns: f64,
    /// KV pages held, page · ms
    pub page_ms: f64,
}

impl Estimate {
    /// Busy time, ns.
    pub fn busy_ns(&self) -> f64 {
        self.prefill_ns + self.decode_ns
    }
}

impl Rates {
    fn row(load: &Load) -> [f64; 4] {
        [1.0, load.prompt as f64, load.token as f64, load.keys as f64 / 1e3]
    }

    fn all(&self) -> [f64; 4] {
        [self.base, self.prompt, self.token, self.key]
    }

    /// A step of these rows alone, ns.
    pub fn step(&self, load: &Load) -> f64 {
        dot(&self.all(), &Self::row(load))
    }

    /// What a request will be charged, and hold. The full passes of its prompt are taken to be alike, and so are the
    /// steps of its answer; company makes them cheaper and longer.
    pub fn estimate(&self, asked: &Asked) -> Estimate {
        let (chunk, rows) = (asked.chunk.max(1), asked.prefill.max(1));
        let (start, said) = (asked.cached as f64, (asked.decode - 1.0).max(0.0));
        let prompt = start + rows as f64;
        let pages = |positions: f64| positions / PAGE as f64;
        let (mut prefill_ns, mut page_ns, mut at) = (0.0, 0.0, start);
        for (passes, rows) in [(rows / chunk, chunk), (usize::from(rows % chunk > 0), rows % chunk)] {
            let (passes, rows) = (passes as f64, rows as f64);
            // A row attends all before it and itself; half of what is added is held on average.
            let middle = at + passes * rows / 2.0;
            let own = rows * self.prompt + rows * (middle + 0.5) / 1e3 * self.key;
            let (charge, wall) = self.shared(own, prompt, asked.beside);
            prefill_ns += passes * charge;
            page_ns += pages(middle) * passes * wall;
            at += passes * rows;
        }
        let keys = (prompt + (said + 1.0) / 2.0) / 1e3;
        let (decode, wall) = self.shared(self.token + keys * self.key, prompt, asked.beside);
        page_ns += pages(prompt + said / 2.0) * said * wall;
        Estimate { prefill_ns, decode_ns: said * decode, page_ms: page_ns / 1e6 }
    }

    /// The charge of a part whose rows and keys cost `own`, in a step with `beside` answers over `keys` keys, and the
    /// step's time.
    fn shared(&self, own: f64, keys: f64, beside: usize) -> (f64, f64) {
        let others = beside as f64 * (self.token + keys / 1e3 * self.key);
        let (time, solo) = (self.base + own + others, self.base + own);
        let all = solo + beside as f64 * self.base + others;
        (if all > 0.0 { time * solo / all } else { 0.0 }, time)
    }
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// What the last steps count for beside one before: about 500 of them are remembered.
const KEEP: f64 = 0.998;
/// How strongly a rate stays where it is when no step tells it from the others, beside one step.
const STAY: f64 = 1e-4;

/// Least squares of the relative error over the last steps. A rate that these do not tell from the others stays.
#[derive(Clone, Debug)]
struct Fit {
    rates: Rates,
    xx: [[f64; 4]; 4],
    xy: [f64; 4],
}

impl Default for Fit {
    fn default() -> Fit {
        Fit { rates: PRIOR, xx: [[0.0; 4]; 4], xy: [0.0; 4] }
    }
}

impl Fit {
    /// A step of `load` took `ns`.
    fn learn(&mut self, load: &Load, ns: u64) {
        if ns == 0 {
            return;
        }
        let x = Rates::row(load).map(|v| v / ns as f64);
        for i in 0..4 {
            self.xy[i] = KEEP * self.xy[i] + x[i];
            for (j, xj) in x.iter().enumerate() {
                self.xx[i][j] = KEEP * self.xx[i][j] + x[i] * xj;
            }
        }
        let old = self.rates.all();
        // A rate cannot be below 0: the most negative one is held there, and the others are fitted again.
        let mut held = [false; 4];
        for _ in 0..4 {
            let new = self.solve(&old, &held);
            match (0..4).filter(|&i| new[i] < 0.0).min_by(|&a, &b| new[a].total_cmp(&new[b])) {
                Some(i) => held[i] = true,
                None => {
                    let [base, prompt, token, key] = new;
                    if new.iter().all(|r| r.is_finite()) {
                        self.rates = Rates { base, prompt, token, key };
                    }
                    return;
                }
            }
        }
    }

    /// The normal equations with a pull towards the old rates, each in its own measure.
    fn solve(&self, old: &[f64; 4], held: &[bool; 4]) -> [f64; 4] {
        let (mut a, mut b) = (self.xx, self.xy);
        for i in 0..4 {
            let pull = STAY * self.xx[i][i].max(1e-24);
            a[i][i] += pull;
            b[i] += pull * old[i];
            if held[i] {
                a[i] = [0.0; 4];
                a[i][i] = 1.0;
                b[i] = 0.0;
            }
        }
        for i in 0..4 {
            let top = (i..4).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs())).unwrap_or(i);
            a.swap(i, top);
            b.swap(i, top);
            for r in i + 1..4 {
                let f = a[r][i] / a[i][i];
                let pivot = a[i];
                a[r].iter_mut().zip(pivot).for_each(|(x, p)| *x -= f * p);
                b[r] -= f * b[i];
            }
        }
        let mut x = [0.0; 4];
        for i in (0..4).rev() {
            let known: f64 = (i + 1..4).map(|j| a[i][j] * x[j]).sum();
            x[i] = (b[i] - known) / a[i][i];
        }
        x
    }
}

/// How far off the rates were, step by step, before each was learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// steps that were predicted
    pub steps: u64,
    /// what was predicted, together
    pub predicted_ns: u64,
    /// sum of the absolute errors
    pub off_ns: u64,
}

/// A part of a step, as it went.
#[derive(Clone, Copy, Debug)]
struct Took {
    seq: SeqId,
    load: Load,
    /// of `load.token`, refused guesses
    refused: usize,
}

/// The engine's books of time and memory.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    fit: Fit,
    busy_ns: u64,
    score: Score,
    /// spent after the last booking, part of the next step
    late_ns: u64,
    /// when the pages were counted last
    counted_ns: u64,
    /// pages held since then, and page · ns before that
    held: BTreeMap<SeqId, (usize, u128)>,
}

impl Meter {
    /// Time in steps, ns.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    pub fn rates(&self) -> Rates {
        self.fit.rates
    }

    pub fn score(&self) -> Score {
        self.score
    }

    /// Splits a step of `ns`; the shares sum to it, with what was late.
    fn split(&mut self, ns: u64, parts: &[Took]) -> Vec<Cost> {
        let ns = ns + std::mem::take(&mut self.late_ns);
        let whole = parts.iter().fold(Load::default(), |a, p| Load {
            prompt: a.prompt + p.load.prompt,
            token: a.token + p.load.token,
            keys: a.keys + p.load.keys,
        });
        let predicted = self.fit.rates.step(&whole);
        // The first step only says how fast the machine is.
        if self.busy_ns > 0 {
            self.score.steps += 1;
            self.score.predicted_ns += predicted as u64;
            self.score.off_ns += (predicted - ns as f64).abs() as u64;
        }
        let rates = self.fit.rates;
        let mut cut = Cut::new(ns, parts.iter().map(|p| rates.step(&p.load)).sum());
        let costs = parts.iter().map(|p| {
            let wasted = rates.token * p.refused as f64;
            let solo = rates.step(&p.load);
            // What the part pays for reading the weights is its known rows'.
            let answer = rates.token * (p.load.token - p.refused) as f64;
            let answer = if p.load.prompt == 0 { solo - wasted } else { answer };
            let decode_ns = cut.take(answer);
            let wasted_ns = cut.take(wasted);
            let prefill_ns = cut.take(solo - answer - wasted);
            Cost { prefill_ns, decode_ns, wasted_ns, page_ms: 0 }
        });
        let mut costs: Vec<Cost> = costs.collect();
        if let Some(last) = costs.last_mut() {
            let rest = cut.rest();
            if last.prefill_ns > 0 {
                last.prefill_ns += rest
            } else {
                last.decode_ns += rest
            }
            self.busy_ns += ns;
        }
        self.fit.learn(&whole, ns);
        costs
    }

    /// Notes who holds how many pages from now on.
    fn count(&mut self, now: u64, pages: impl Iterator<Item = (SeqId, usize)>) {
        let since = u128::from(now.saturating_sub(self.counted_ns));
        self.held.values_mut().for_each(|(pages, page_ns)| *page_ns += *pages as u128 * since);
        self.counted_ns = now;
        for (seq, pages) in pages {
            self.held.entry(seq).or_default().0 = pages;
        }
    }

    /// The engine worked until now beside what was booked: the next step's parts share it.
    pub fn late(&mut self, booked: u64, now: u64) {
        self.late_ns += now.saturating_sub(booked);
    }

    /// A sequence ended: page · ms that it held.
    pub fn release(&mut self, seq: SeqId, now: u64) -> u64 {
        let (pages, page_ns) = self.held.remove(&seq).unwrap_or_default();
        let last = pages as u128 * u128::from(now.saturating_sub(self.counted_ns));
        u64::try_from((page_ns + last) / 1_000_000).unwrap_or(u64::MAX)
    }
}

/// Cuts a whole number into shares by weight, so that they sum to it and each is off by less than 1.
struct Cut {
    whole: u64,
    weights: f64,
    before: f64,
    given: u64,
}

impl Cut {
    fn new(whole: u64, weights: f64) -> Cut {
        Cut { whole, weights, before: 0.0, given: 0 }
    }

    fn take(&mut self, weight: f64) -> u64 {
        if weight <= 0.0 || self.weights <= 0.0 {
            return 0;
        }
        self.before += weight;
        let upto = ((self.before / self.weights).min(1.0) * self.whole as f64).round() as u64;
        let share = upto.min(self.whole).saturating_sub(self.given);
        self.given += share;
        share
    }

    /// What rounding left.
    fn rest(&mut self) -> u64 {
        let rest = self.whole - self.given;
        self.given = self.whole;
        rest
    }
}

impl<D: Device> Engine<D> {
    /// Books a step that began at `began` and is committed: time to its parts, charges to the policy. Returns now.
    pub(crate) fn book(&mut self, began: u64, laid: &[Laid], kept: &[Outcome]) -> u64 {
        let (mut took, mut charges) = (Vec::with_capacity(laid.len()), Vec::with_capacity(laid.len()));
        for (part, outcome) in laid.iter().zip(kept) {
            let Some(seq) = self.seqs.get_mut(&part.seq) else { continue };
            let (stayed, accepted, tested) =
                outcome.verdict.as_ref().map_or((0, 0, 0), |v| (v.kept.len(), v.accepted(), v.tested));
            let committed = self.kv.len(part.seq) - stayed;
            let drafts = part.nodes.len() - part.rows;
            // The last row of a prompt chooses too, and is the prompt's.
            let answers = usize::from(part.chooses && committed + part.rows > seq.prompt);
            let rows = part.nodes.len() as u64;
            let load = Load {
                prompt: part.rows - answers,
                token: answers + drafts,
                keys: rows * committed as u64 + rows * (rows + 1) / 2,
            };
            seq.usage.draft_tested += tested as u64;
            seq.usage.draft_accepted += accepted as u64;
            took.push(Took { seq: part.seq, load, refused: drafts - accepted });
            let who = &seq.ask.who;
            charges.push(Charge {
                seq: part.seq,
                tenant: who.tenant,
                weight: who.weight,
                prefill: load.prompt,
                decode: load.token,
            });
        }
        self.policy.charge(&charges);
        let now = self.now_ns();
        let pages = |&id: &SeqId| (id, self.kv.tables(id).map(<[_]>::len).sum());
        self.meter.count(now, self.seqs.keys().map(pages));
        let costs = self.meter.split(now.saturating_sub(began), &took);
        for (part, cost) in took.iter().zip(costs) {
            if let Some(seq) = self.seqs.get_mut(&part.seq) {
                seq.usage.cost.prefill_ns += cost.prefill_ns;
                seq.usage.cost.decode_ns += cost.decode_ns;
                seq.usage.cost.wasted_ns += cost.wasted_ns;
            }
        }
        now
    }
}

#[cfg(test)]
mod tests;
