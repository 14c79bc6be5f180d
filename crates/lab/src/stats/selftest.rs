//! The lab tried on a machine whose truth is known.
//!
//! A simulated machine drifts, slows the first process of every block, and is disturbed by others; the quiet gate notices
//! most disturbances and the block is thrown away. Each trial is a whole experiment through the functions that a real run
//! uses: order, null, floor, looks, estimate, judge, drift. Its claim is *superior* with a gate of 1.00, a kill gate
//! "high end < 1", and 3 % as the effect to be resolved.
//!
//! | truth | right | false |
//! |---|---|---|
//! | identical arms | anything but a verdict | retain, reject |
//! | candidate 3 % better | retain | reject |
//! | candidate 3 % worse | reject | retain |
//!
//! A trial *is measurable* when its null says so before the first block ([`judge::resolves`]). Shares of right verdicts are
//! taken over measurable trials, where inconclusive and void count as not right; false verdicts over all.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::design::{block_order, pairs_per_block, round};
use super::dist::binomial_cdf;
use super::drift::{self, Limits, State, Timed};
use super::judge::{self, Evidence, Question};
use super::null::Null;
use super::paired::estimate;
use super::rng::Rng;
use super::sequential::{levels, schedule};
use super::{Claim, Direction, Gate, Measured, Op, Outlook, Slot, Stat, VERSION};

const METRIC: &str = "decode_tok_s";
/// Fewest and most pairs of a trial, those of a spec that says `pairs = [6, 24]`.
const PAIRS: [usize; 2] = [6, 24];
const ALPHA: f64 = 0.05;
/// Planted effect, as |ratio − 1|, and the effect that the question asks to be resolved.
const EFFECT: f64 = 0.03;
/// Noise of a process.
const NOISE: [f64; 2] = [0.02, 0.05];
/// The machine loses this much an hour; a process takes a minute.
const DRIFT: f64 = 0.03;
const MINUTES: f64 = 1.0;
/// The first process of a block is slower by this.
const SLOT: f64 = 0.10;
/// A disturbance begins before a process with this probability, lasts 1 to 3 processes, costs 5 to 30 %, and is noticed,
/// process by process, with that probability.
const BURST: f64 = 0.05;
const NOTICED: f64 = 0.9;
/// "Mean of 3": a difference this large is called one.
const BY_EYE: f64 = 0.01;

/// Bars: false verdicts of nulls, right ones of measurable effects, measurable trials at 2 % noise.
const MOST_FALSE: f64 = 0.05;
const LEAST_RIGHT: f64 = 0.90;
const LEAST_MEASURABLE: f64 = 0.80;

/// Trials of one noise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// standard deviation of a process
    pub noise: f64,
    /// trials with identical arms
    pub nulls: usize,
    /// of these, retained or rejected
    pub nulls_false: usize,
    /// trials with a planted effect
    pub planted: usize,
    /// of these, called measurable by their null
    pub measurable: usize,
    /// of the measurable, right
    pub right: usize,
    /// of the measurable with a planted gain, and of these right
    pub gains: [usize; 2],
    /// of all planted, called the opposite
    pub opposite: usize,
    /// runs voided for drift, nulls and planted
    pub voided: usize,
    /// mean pairs until the end of a trial
    pub pairs: f64,
    /// the same trials by "mean of 3, sequential": false of the nulls
    pub naive_false: usize,
    /// right of the planted
    pub naive_right: usize,
}

/// What the self-test found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// version of the statistics
    pub version: u32,
    /// of the simulation
    pub seed: u64,
    /// the full form
    pub full: bool,
    /// by noise
    pub rows: Vec<Row>,
    /// false verdicts of all nulls are within the bar
    pub false_ok: bool,
    /// right verdicts of all measurable planted effects reach the bar
    pub right_ok: bool,
    /// measurable trials at the lower noise reach the bar
    pub measurable_ok: bool,
    /// all three
    pub pass: bool,
}

/// Runs the trials: 200 nulls and 200 planted effects (half of them losses) for each noise, 40 and 40 in the fast form.
/// The full form is held to the bars as they are. So few trials as the fast form's scatter around a bar, so it fails
/// when its count would happen in 1 of 100 machines that just meet the bar.
pub fn run(full: bool, seed: u64) -> Report {
    let trials = if full { 200 } else { 40 };
    let rows: Vec<Row> = NOISE.iter().map(|&noise| row(noise, PAIRS, trials, seed)).collect();
    let sum = |f: &dyn Fn(&Row) -> usize| rows.iter().map(f).sum::<usize>();
    let (nulls, wrong) = (sum(&|r| r.nulls), sum(&|r| r.nulls_false));
    let (measurable, right) = (sum(&|r| r.measurable), sum(&|r| r.right));
    let false_ok = at_most(wrong, nulls, MOST_FALSE, full);
    let right_ok = measurable > 0 && at_most(measurable - right, measurable, 1.0 - LEAST_RIGHT, full);
    let measurable_ok = rows
        .first()
        .is_some_and(|r| at_most(r.planted - r.measurable, r.planted, 1.0 - LEAST_MEASURABLE, full));
    let pass = false_ok && right_ok && measurable_ok;
    Report { version: VERSION, seed, full, rows, false_ok, right_ok, measurable_ok, pass }
}

/// `count` of `of` keeps to a share of `most`; unless exact, up to what chance adds in 99 of 100 cases.
fn at_most(count: usize, of: usize, most: f64, exact: bool) -> bool {
    if exact {
        count as f64 <= most * of as f64 + 1e-9
    } else {
        count == 0 || 1.0 - binomial_cdf(count - 1, of, most) > 0.01
    }
}

fn row(noise: f64, [least, most]: [usize; 2], trials: usize, seed: u64) -> Row {
    let looks = schedule(least, most, pairs_per_block(2) * round(2));
    let levels = levels(ALPHA, most, &looks).unwrap_or_default();
    let looks: Vec<(usize, f64)> = looks.into_iter().zip(levels).collect();
    let mut r = Row { noise, ..Row::default() };
    let mut pairs = 0;
    for i in 0..2 * trials {
        let effect = if i < trials {
            0.0
        } else if i % 2 == 0 {
            EFFECT
        } else {
            -EFFECT
        };
        // Trials of different noise share no numbers.
        let key = (noise.to_bits() >> 32) ^ i as u64;
        let t = trial(noise, effect, most, &looks, Rng::keyed(seed, key));
        let naive = mean_of_three(noise, effect, Rng::keyed(seed, key));
        let want = if effect > 0.0 { Outlook::Retain } else { Outlook::Reject };
        let opposite = if effect > 0.0 { Outlook::Reject } else { Outlook::Retain };
        pairs += t.pairs;
        r.voided += usize::from(t.outlook.is_none());
        if effect == 0.0 {
            r.nulls += 1;
            r.nulls_false += usize::from(matches!(t.outlook, Some(Outlook::Retain | Outlook::Reject)));
            r.naive_false += usize::from(naive != Outlook::Inconclusive);
            continue;
        }
        r.planted += 1;
        r.naive_right += usize::from(naive == want);
        r.opposite += usize::from(t.outlook == Some(opposite));
        if t.measurable {
            let right = usize::from(t.outlook == Some(want));
            r.measurable += 1;
            r.right += right;
            if effect > 0.0 {
                r.gains[0] += 1;
                r.gains[1] += right;
            }
        }
    }
    r.pairs = pairs as f64 / (2 * trials) as f64;
    r
}

/// The end of a trial.
struct Trial {
    /// None: voided for drift
    outlook: Option<Outlook>,
    measurable: bool,
    pairs: usize,
}

fn trial(noise: f64, effect: f64, most: usize, looks: &[(usize, f64)], mut rng: Rng) -> Trial {
    let gate = |stat, op| Gate { metric: METRIC.into(), stat, op, value: 1.0 };
    let (success, kill) = ([gate(Stat::CiLow, Op::Ge)], [gate(Stat::CiHigh, Op::Lt)]);
    let question = Question {
        metric: METRIC,
        claim: Claim::Superior,
        success: &success,
        kill: &kill,
        mde: Some(EFFECT),
    };
    let mut machine = Machine { rng: Rng::new(rng.bits()), noise, hours: 0.0, disturbed: (0, 0.0) };
    let seed = rng.bits();
    let calibration = Blocks::new(rng.bits()).until(most, &mut machine, 0.0);
    let by_metric = |samples: &[Timed], level| {
        let measured: Vec<Measured> = samples.iter().map(|t| t.measured).collect();
        let found = estimate(&measured, 0, 1, Direction::Up, level, seed).ok();
        found.into_iter().map(|e| (METRIC.to_string(), e)).collect::<BTreeMap<_, _>>()
    };
    let floors = Null::of(by_metric(&calibration, ALPHA)).floors(most);
    let measurable = floors.get(METRIC).is_some_and(|f| judge::resolves(&question, f));

    let start = machine.hours;
    let mut opening = machine.sample(true, 0.0);
    opening.0 -= start;
    let mut blocks = Blocks::new(rng.bits());
    blocks.start = start;
    let mut end = Trial { outlook: Some(Outlook::More), measurable, pairs: 0 };
    let mut samples = Vec::new();
    for &(pairs, level) in looks {
        samples = blocks.until(pairs, &mut machine, effect);
        let estimates = by_metric(&samples, level);
        let evidence =
            Evidence { estimates: &estimates, floors: &floors, pairs, pairs_max: most, quality: true };
        end = Trial { outlook: Some(judge::judge(&question, &evidence).outlook), measurable, pairs };
        if end.outlook != Some(Outlook::More) {
            break;
        }
    }
    let mut closing = machine.sample(true, 0.0);
    closing.0 -= start;
    let ends = [opening, closing].map(|(hours, value, _)| Some((hours, value)));
    match drift::test(&samples, ends[0], ends[1], 0, 1, Direction::Up, &Limits::default()) {
        Ok(d) if d.state != State::Void => {}
        _ => end.outlook = None,
    }
    end
}

/// The blocks of a run, as far as they were needed, without those that were noticed to be disturbed.
struct Blocks {
    seed: u64,
    next: usize,
    start: f64,
    samples: Vec<Timed>,
}

impl Blocks {
    fn new(seed: u64) -> Blocks {
        Blocks { seed, next: 0, start: 0.0, samples: Vec::new() }
    }

    /// Goes on until so many pairs are there.
    fn until(&mut self, pairs: usize, machine: &mut Machine, effect: f64) -> Vec<Timed> {
        // Two samples a pair.
        while self.samples.len() < 2 * pairs {
            let block = self.next;
            self.next += 1;
            let mut quiet = true;
            let mut found = Vec::new();
            for (position, arm) in block_order(2, self.seed, block).into_iter().enumerate() {
                let effect = if arm == 1 { effect } else { 0.0 };
                let (hours, value, noticed) = machine.sample(position == 0, effect);
                quiet &= !noticed;
                let measured = Measured { slot: Slot { block, position, arm }, value };
                found.push(Timed { hours: hours - self.start, measured });
            }
            if quiet {
                self.samples.append(&mut found);
            }
        }
        self.samples.clone()
    }
}

/// The machine whose truth is known.
struct Machine {
    rng: Rng,
    noise: f64,
    hours: f64,
    /// processes that the disturbance still lasts, and its log factor
    disturbed: (usize, f64),
}

impl Machine {
    /// (hours at its middle, tokens per second, noticed as disturbed) of one process.
    fn sample(&mut self, first: bool, effect: f64) -> (f64, f64, bool) {
        let at = self.hours + 0.5 * MINUTES / 60.0;
        self.hours += MINUTES / 60.0;
        if self.disturbed.0 == 0 && self.rng.unit() < BURST {
            self.disturbed = (1 + self.rng.below(3), libm::log1p(-(0.05 + 0.25 * self.rng.unit())));
        }
        let mut log = self.noise * self.rng.normal() + libm::log1p(effect) + at * libm::log1p(-DRIFT);
        if first {
            log += libm::log1p(-SLOT);
        }
        let mut noticed = false;
        if self.disturbed.0 > 0 {
            self.disturbed.0 -= 1;
            log += self.disturbed.1;
            noticed = self.rng.unit() < NOTICED;
        }
        (at, 50.0 * libm::exp(log), noticed)
    }
}

/// What people do: three runs of one, then three of the other, and compare the means.
fn mean_of_three(noise: f64, effect: f64, mut rng: Rng) -> Outlook {
    let mut machine = Machine { rng: Rng::new(rng.bits()), noise, hours: 0.0, disturbed: (0, 0.0) };
    let mut mean = |first: bool, effect: f64| -> f64 {
        (0..3).map(|i| machine.sample(first && i == 0, effect).1).sum::<f64>() / 3.0
    };
    let ratio = mean(true, 0.0);
    let ratio = mean(false, effect) / ratio;
    if ratio > 1.0 + BY_EYE {
        Outlook::Retain
    } else if ratio < 1.0 - BY_EYE {
        Outlook::Reject
    } else {
        Outlook::Inconclusive
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.full { "full" } else { "fast" };
        writeln!(f, "statistics {}, seed {}, {form}", self.version, self.seed)?;
        let share = |n: usize, of: usize| {
            let percent = if of == 0 { 0.0 } else { 100.0 * n as f64 / of as f64 };
            format!("{n}/{of} ({percent:.1} %)")
        };
        for r in &self.rows {
            writeln!(f, "noise of a process {:.0} %", 100.0 * r.noise)?;
            writeln!(f, "  identical arms called different   {}", share(r.nulls_false, r.nulls))?;
            writeln!(f, "    by mean of 3, sequential        {}", share(r.naive_false, r.nulls))?;
            writeln!(f, "  ±3 % called measurable            {}", share(r.measurable, r.planted))?;
            writeln!(f, "  measurable ±3 % called right      {}", share(r.right, r.measurable))?;
            writeln!(f, "    of these +3 %                   {}", share(r.gains[1], r.gains[0]))?;
            writeln!(f, "    by mean of 3, sequential, all   {}", share(r.naive_right, r.planted))?;
            writeln!(f, "  ±3 % called the opposite          {}", share(r.opposite, r.planted))?;
            writeln!(f, "  voided for drift                  {}", share(r.voided, r.nulls + r.planted))?;
            writeln!(f, "  pairs until the end, mean         {:.1}", r.pairs)?;
        }
        let word = |ok: bool| if ok { "met" } else { "MISSED" };
        writeln!(f, "≤ 5 % false of the nulls: {}", word(self.false_ok))?;
        writeln!(f, "≥ 90 % right where measurable: {}", word(self.right_ok))?;
        write!(f, "≥ 80 % measurable at 2 % noise: {}", word(self.measurable_ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_form_passes_whatever_the_seed() {
        for seed in 1..=4 {
            let r = run(false, seed);
            assert!(r.pass, "{r}");
            assert_eq!(serde_json::from_str::<Report>(&serde_json::to_string(&r).unwrap()).unwrap(), r);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(row(0.02, PAIRS, 5, 9), row(0.02, PAIRS, 5, 9));
        assert_ne!(row(0.02, PAIRS, 5, 9), row(0.02, PAIRS, 5, 10));
    }

    #[test]
    fn what_the_bars_let_through_are_binomial_counts() {
        assert!(at_most(10, 200, 0.05, true) && !at_most(11, 200, 0.05, true));
        assert!(at_most(0, 0, 0.05, true));
        // P(X ≥ 9) = 0.0184 and P(X ≥ 10) = 0.0065 of 80 throws at 0.05, summed in exact integers
        assert!(at_most(9, 80, 0.05, false) && !at_most(10, 80, 0.05, false));
    }

    #[test]
    fn the_machine_is_the_one_that_is_described() {
        let mut m = Machine { rng: Rng::new(3), noise: 0.02, hours: 0.0, disturbed: (0, 0.0) };
        let n = 40_000;
        let (mut seen, mut first, mut rest, mut sq) = (0, 0.0, 0.0, 0.0);
        for i in 0..n {
            m.hours = 0.0;
            m.disturbed.0 = if i % 4 == 0 { 0 } else { m.disturbed.0 };
            let (_, value, noticed) = m.sample(i % 2 == 0, 0.0);
            seen += usize::from(noticed);
            if m.disturbed.0 == 0 && !noticed {
                let log = (value / 50.0).ln();
                if i % 2 == 0 {
                    first += log;
                } else {
                    rest += log;
                    sq += log * log;
                }
            }
        }
        // In fours cut off at the start: one burst begins in 0.05 of quiet processes and lasts two on average.
        let share = f64::from(seen as u32) / f64::from(n);
        assert!((0.06..0.10).contains(&share), "{share} noticed");
        let half = f64::from(n) / 2.0;
        let slot = (first - rest) / half;
        assert!((slot - 0.9f64.ln()).abs() < 0.02, "{slot}");
        assert!((sq / half).sqrt() < 0.04);
    }
}
