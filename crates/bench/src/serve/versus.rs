//! The same requests one after another and together, in turn, so that what the machine does meanwhile meets both.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::drive::{Part, drive};
use super::outcome::Outcome;
use super::row::{ClientCost, rate};
use super::script::Script;
use super::{Ask, Load, Process, Work};
use crate::BenchError;

/// `kind` of a [`VersusRow`].
pub const VERSUS: &str = "tamp.bench.serve.versus";

/// Requests named that were answered differently.
const NAMED: usize = 10;

/// One round: the requests one after another, and together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// new tokens ÷ wall time, one after another
    pub sequential_tok_s: f64,
    /// the same, together
    pub concurrent_tok_s: f64,
}

/// What serving together gains.
#[derive(Clone, Debug, Serialize)]
pub struct VersusRow {
    /// always [`VERSUS`]
    pub kind: &'static str,
    /// version of this record
    pub v: u32,
    /// what was asked, in the words of the command line
    pub asked: serde_json::Value,
    /// why this row does not count
    pub void: Option<String>,
    /// callers at once
    pub concurrency: usize,
    /// requests of each half of a round
    pub requests: usize,
    /// the rounds; the first begins one after another, the second together, and so on
    pub pairs: Vec<Pair>,
    /// geometric mean of the halves
    pub sequential_tok_s: f64,
    /// geometric mean of the halves
    pub concurrent_tok_s: f64,
    /// together ÷ one after another: geometric mean of the pairs
    pub ratio: f64,
    /// low end of its 95 % interval (Student's t of the log ratios); `None` of one pair
    pub ratio_low: Option<f64>,
    /// high end
    pub ratio_high: Option<f64>,
    /// every request was answered with the same text every time; `None` where temperature is not 0
    pub identical: Option<bool>,
    /// indices of requests that were not, the first ten
    pub differing: Vec<usize>,
    /// requests that failed, of all
    pub errors: usize,
    /// sentences of the first failures
    pub error_examples: Vec<String>,
    /// what the client took in the half in which it took most
    pub client: ClientCost,
    /// the machine's lock was held
    pub decision_grade: bool,
}

/// Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1.
const T95: [f64; 15] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
];

/// Mean and 95 % interval of log ratios, as ratios.
fn interval(logs: &[f64]) -> (f64, Option<(f64, f64)>) {
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let Some(df) = logs.len().checked_sub(1).filter(|&d| d > 0) else { return (mean.exp(), None) };
    let sd = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / df as f64).sqrt();
    // Beyond the table the last entry is wider than the truth.
    let half = T95[df.min(T95.len()) - 1] * sd / n.sqrt();
    (mean.exp(), Some(((mean - half).exp(), (mean + half).exp())))
}

/// Asks the counted requests of a closed loop `rounds` times in both ways. One uncounted pass warms what the server
/// keeps, for both alike.
pub fn versus(ask: &Ask, rounds: usize, process: &Process<'_>) -> Result<VersusRow, BenchError> {
    ask.check()?;
    let no = |why: &str| Err(BenchError::Ask(why.into()));
    let (Load::Closed { concurrency }, Some(requests)) = (ask.load, ask.requests) else {
        return no("--vs-sequential needs --concurrency and --requests");
    };
    if ask.work == Work::LongPrompt || ask.hang_up > 0.0 || ask.stall.is_some() {
        return no("--vs-sequential asks the same requests twice; long-prompt, --hang-up and --stall do not");
    }
    // With one caller there is one tenant.
    if ask.tenants.len() > 1 {
        return no("--vs-sequential takes one key");
    }
    let ask = Rc::new(ask.clone());
    let script = Rc::new(Script::new(ask.clone(), process.text.as_deref())?);
    drive(&ask, &script, Part::closed(concurrency, requests), &process.progress)?;

    let mut seen: BTreeMap<(usize, usize), String> = BTreeMap::new();
    let (mut differing, mut pairs) = (Vec::new(), Vec::new());
    let (mut errors, mut error_examples) = (0, Vec::new());
    let mut worst = ClientCost::of(None, Duration::ZERO);
    let mut sent = 0;
    for round in 0..rounds.max(1) {
        let mut half = |callers| -> Result<f64, BenchError> {
            let part = Part::closed(callers, requests);
            let (out, cpu, wall) = process.timed(|| drive(&ask, &script, part, &process.progress));
            let (out, cost) = (out?, ClientCost::of(cpu, wall));
            if cost.cpu_fraction > worst.cpu_fraction {
                worst = cost;
            }
            let failed = out.iter().filter_map(|o| Some(format!("{}: {}", o.error?.name(), o.why)));
            failed.for_each(|why| {
                errors += 1;
                error_examples.push(why);
            });
            sent = out.len();
            compare(&out, &mut seen, &mut differing);
            Ok(rate(&out))
        };
        // ABBA: what drifts evenly falls on both.
        let pair = if round % 2 == 0 {
            let sequential_tok_s = half(1)?;
            Pair { sequential_tok_s, concurrent_tok_s: half(concurrency)? }
        } else {
            let concurrent_tok_s = half(concurrency)?;
            Pair { sequential_tok_s: half(1)?, concurrent_tok_s }
        };
        pairs.push(pair);
    }
    differing.sort_unstable();
    differing.dedup();
    error_examples.truncate(5);
    let logs = |f: &dyn Fn(&Pair) -> f64| pairs.iter().map(|p| f(p).ln()).collect::<Vec<_>>();
    let (ratio, ends) = interval(&logs(&|p| p.concurrent_tok_s / p.sequential_tok_s));
    let greedy = ask.temperature == 0.0;
    let identical = greedy.then_some(differing.is_empty() && errors == 0);
    let void = (!ratio.is_finite()).then(|| "a half of a round answered nothing".to_string());
    let failed =
        (errors > 0).then(|| format!("{errors} requests failed, so the two ways did different work"));
    Ok(VersusRow {
        kind: VERSUS,
        v: 1,
        asked: ask.words(),
        void: void.or(failed).or_else(|| worst.void()),
        concurrency,
        requests: sent,
        sequential_tok_s: interval(&logs(&|p| p.sequential_tok_s)).0,
        concurrent_tok_s: interval(&logs(&|p| p.concurrent_tok_s)).0,
        ratio,
        ratio_low: ends.map(|e| e.0),
        ratio_high: ends.map(|e| e.1),
        identical,
        differing: if greedy { differing.into_iter().take(NAMED).collect() } else { Vec::new() },
        errors,
        error_examples,
        client: worst,
        decision_grade: process.decision_grade,
        pairs,
    })
}

/// Notes the requests whose text differs from the first time they were answered.
fn compare(out: &[Outcome], seen: &mut BTreeMap<(usize, usize), String>, differing: &mut Vec<usize>) {
    for o in out.iter().filter(|o| o.ok()) {
        if seen.entry((o.index, o.turn)).or_insert_with(|| o.text.clone()) != &o.text {
            differing.push(o.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_students_and_one_pair_has_none() {
        assert_eq!(interval(&[2.0_f64.ln()]), (2.0, None));
        // Logs 0, 1, 2: mean 1, deviation 1, half 4.303 ÷ √3.
        let (ratio, ends) = interval(&[0.0, 1.0, 2.0]);
        let (low, high) = ends.unwrap();
        let half = 4.303 / 3.0_f64.sqrt();
        assert!((ratio.ln() - 1.0).abs() < 1e-9);
        assert!((low.ln() - (1.0 - half)).abs() < 1e-9 && (high.ln() - (1.0 + half)).abs() < 1e-9);
    }
}
