//! From records to one of eight verdicts. Pure: the same spec, records and calibration give the same decision, bit by
//! bit, which is what `replay` checks.
//!
//! The order of the questions is the order of honesty: could it run at all, did what was declared run, was it measured
//! alone, did the arms differ and only as declared, did the mechanism act, is the output still good, did the machine
//! hold still — and only then, how fast.

use std::collections::BTreeMap;

mod word;

pub use word::Verdict;

use serde::{Deserialize, Serialize};

use crate::bench::REFUSED;
use crate::check::{self, Engaged, Pair, Shown};
use crate::quality;
use crate::record::{RunRecord, Stage};
use crate::spec::{Arm, Blocker, BlockerKind, Class, Frozen};
use crate::stats::drift::{self, Drift, Limits, State, Timed};
use crate::stats::judge::{Evidence as Found, Question, judge};
use crate::stats::null::Null;
use crate::stats::{self, Claim, Direction, Estimates, Floor, Gate, Measured, Outlook, Slot, Stat};

/// What there is to decide from.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// the question
    pub spec: &'a Frozen,
    /// which candidate, from 0
    pub tried: usize,
    /// every record of the attempt that counts, in the order they ran
    pub records: &'a [RunRecord],
    /// blocks that were disturbed and do not count
    pub voided: usize,
    /// what the machine resolves
    pub null: Option<&'a Null>,
    /// no more blocks will come, whatever the interval says
    pub last: bool,
}

/// A verdict and all that it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// name of the candidate
    pub candidate: String,
    /// the verdict; absent while another block may tell
    pub verdict: Option<Verdict>,
    /// in a sentence
    pub reason: String,
    /// what is missing, of `block`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocker: Option<Blocker>,
    /// which check decided, of verdicts that no statistics gave
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub check: String,
    /// version of the statistics
    pub stats_version: u32,
    /// seed of the resampling
    pub seed: u64,
    /// two-sided level of the intervals of this look
    pub level: f64,
    /// ratios by metric, oriented so that more than 1 is better
    pub estimates: Estimates,
    /// medians by metric: control, candidate
    pub medians: BTreeMap<String, [f64; 2]>,
    /// A/A floors by metric
    pub floors: BTreeMap<String, Floor>,
    /// each gate with what it found
    pub gates: Vec<Shown>,
    /// the manipulation check
    pub manipulation: Vec<Shown>,
    /// differences nobody declared
    pub undeclared: Vec<String>,
    /// invariants
    pub invariants: Vec<Shown>,
    /// engaged proofs
    pub engaged: Vec<Engaged>,
    /// quality
    pub quality: Option<quality::Report>,
    /// the control over time
    pub drift: Option<Drift>,
    /// pairs that count
    pub pairs: usize,
    /// blocks that were disturbed
    pub voided: usize,
    /// share of the read ceiling, median: control, candidate
    pub ceiling: Option<[f64; 2]>,
    /// the ratio that was predicted before measuring
    pub predicted: f64,
}

/// Which way a metric is better, by its name.
pub fn direction(metric: &str) -> Direction {
    let up = metric.ends_with("tok_s") || metric.ends_with("_fraction") || metric.ends_with("gb_s");
    if up { Direction::Up } else { Direction::Down }
}

/// The seed of an experiment's orders and resampling: the first 48 bits of its id, so that JSON holds it exactly.
pub fn seed(id: &str) -> u64 {
    u64::from_str_radix(id.get(..12).unwrap_or("1"), 16).unwrap_or(1)
}

/// Metrics the gates and the expectation speak of.
pub fn metrics(spec: &Frozen) -> Vec<String> {
    let s = &spec.spec;
    let mut all: Vec<String> = s.success.iter().chain(&s.kill).map(|g| g.metric.clone()).collect();
    all.push(s.expected.metric.clone());
    all.sort();
    all.dedup();
    all
}

impl Decision {
    fn open(e: &Evidence<'_>, candidate: &str) -> Decision {
        Decision {
            candidate: candidate.to_string(),
            verdict: None,
            reason: String::new(),
            blocker: None,
            check: String::new(),
            stats_version: stats::VERSION,
            seed: seed(&e.spec.id),
            level: e.spec.spec.alpha(),
            estimates: Estimates::new(),
            medians: BTreeMap::new(),
            floors: BTreeMap::new(),
            gates: Vec::new(),
            manipulation: Vec::new(),
            undeclared: Vec::new(),
            invariants: Vec::new(),
            engaged: Vec::new(),
            quality: None,
            drift: None,
            pairs: 0,
            voided: e.voided,
            ceiling: None,
            predicted: e.spec.spec.expected.effect,
        }
    }

    fn settle(&mut self, verdict: Verdict, check: &str, reason: impl Into<String>) {
        // The first finding stands: later checks are still shown.
        if self.verdict.is_none() {
            self.verdict = Some(verdict);
            self.check = check.into();
            self.reason = reason.into();
        }
    }
}

/// A decision without a measurement: what an experiment needs does not exist.
pub fn blocked(spec: &Frozen, candidate: &str, by: &Blocker) -> Decision {
    let e = Evidence { spec, tried: 0, records: &[], voided: 0, null: None, last: true };
    let mut d = Decision::open(&e, candidate);
    d.settle(Verdict::Block, "blocked", format!("needs {}", by.needs));
    d.blocker = Some(by.clone());
    d
}

/// Decides, or says that another block may tell.
pub fn decide(e: Evidence<'_>) -> Decision {
    let arms = e.spec.spec.arms();
    let (control, candidate) = (&arms[0], &arms[(e.tried + 1).min(arms.len() - 1)]);
    let mut d = Decision::open(&e, &candidate.name);
    let of = |arm: &Arm, scouts: bool| -> Vec<&RunRecord> {
        let stage = |r: &&RunRecord| (r.stage == Stage::Scout) == scouts && r.stage != Stage::Reverted;
        e.records.iter().filter(|r| r.arm == arm.name).filter(stage).collect()
    };
    let (sc, st) = (of(control, true), of(candidate, true));
    let (cc, ct) = (of(control, false), of(candidate, false));
    // Before a block has run, the scouts are all there is to look at.
    let scouted = Pair { control: &sc, candidate: &st };
    let counted = if ct.is_empty() { scouted } else { Pair { control: &cc, candidate: &ct } };

    could_run(&mut d, control, candidate, &[&sc, &st, &cc, &ct]);
    if d.verdict.is_none() {
        declared(&mut d, &e, control, candidate, counted);
        if let Some(f) = check::above_ceiling(&[counted.control, counted.candidate].concat()) {
            d.settle(
                Verdict::Void,
                "ceiling",
                format!("a sample reads {:.0} % of the ceiling measured in it, which cannot be", 100.0 * f),
            );
        }
        let report = quality::judge(&e.spec.spec.quality, counted, scouted);
        if let Some(why) = report.missing() {
            // Not known is not the same as not worse.
            d.settle(Verdict::Void, "quality", format!("quality could not be measured: {why}"));
        }
        if let Some(why) = &report.fails {
            d.settle(Verdict::Reject, "quality", why.clone());
        }
        if let Some(why) = report.unresolved() {
            d.settle(Verdict::NotMeasurable, "quality", why);
        }
        d.quality = Some(report);
        figures(&mut d, &e, candidate);
    }
    d
}

/// Processes that could not be started, refused, or failed.
fn could_run(d: &mut Decision, control: &Arm, candidate: &Arm, all: &[&[&RunRecord]]) {
    let failed = |arm: &Arm| {
        let mut records = all.iter().flat_map(|r| r.iter());
        records.find_map(|r| Some((*r, r.failed.clone().filter(|_| r.arm == arm.name)?)))
    };
    for arm in [control, candidate] {
        let Some((r, why)) = failed(arm) else { continue };
        if r.argv.is_empty() {
            d.settle(Verdict::Block, "prepare", format!("{} cannot be made ready: {why}", arm.name));
            d.blocker.get_or_insert(Blocker { kind: BlockerKind::Runtime, needs: why });
        } else if arm.name == control.name {
            d.settle(Verdict::Void, "control", format!("the control did not run: {why}"));
        } else if r.exit == Some(REFUSED) {
            d.settle(
                Verdict::NotApplicable,
                "contract",
                format!("the plan refuses it under this contract: {why}"),
            );
        } else {
            d.settle(Verdict::Reject, "failure", format!("the candidate did not run: {why}"));
        }
    }
}

/// Everything that must hold before speed means anything.
fn declared(d: &mut Decision, e: &Evidence<'_>, control: &Arm, candidate: &Arm, pair: Pair<'_>) {
    let spec = &e.spec.spec;
    let records = [pair.control, pair.candidate].concat();
    for (i, shown) in check::invariants(&spec.invariant, pair) {
        if !shown.pass {
            let reason = format!("{}: {} was demanded, {} was observed", shown.name, shown.want, shown.seen);
            match &i.block {
                Some(b) if d.verdict.is_none() => {
                    d.settle(Verdict::Block, "invariant", reason);
                    d.blocker = Some(b.clone());
                }
                _ => d.settle(Verdict::Void, "invariant", reason),
            }
        }
        d.invariants.push(shown);
    }
    if let Some(r) = records.iter().find(|r| !r.alone()) {
        let beside = r.samples.len();
        let why = if beside > 1 {
            format!("{beside} processes ran at once")
        } else {
            "the machine lock was not held".into()
        };
        d.settle(Verdict::Void, "lock", format!("not decision-grade: {why} in arm {}", r.arm));
    }
    if let Some(why) = check::prompts(spec, pair) {
        d.settle(Verdict::Void, "prompts", why);
    }
    d.manipulation = check::manipulation(&spec.manipulation, pair);
    if !spec.is_null() {
        if check::identical(pair) {
            d.settle(
                Verdict::Void,
                "identical",
                "the arms ran the same plan, program, model and threads: there is nothing to compare",
            );
        }
        if let Some(m) = d.manipulation.iter().find(|m| !m.pass) {
            let reason =
                format!("the manipulation did not take: {} should be {} and was {}", m.name, m.want, m.seen);
            d.settle(Verdict::Void, "manipulation", reason);
        }
    }
    d.undeclared = check::undeclared(spec, control, candidate, pair);
    if !d.undeclared.is_empty() {
        d.settle(
            Verdict::Void,
            "undeclared",
            format!("the arms also differ in {}, which the spec does not name", d.undeclared.join(", ")),
        );
    }
    d.engaged = check::engaged(candidate, spec.claim == Claim::Superior, pair);
    if let Some(why) = d.engaged.iter().find_map(Engaged::missing) {
        d.settle(Verdict::Void, "engaged", why);
    }
    let identity = spec.invariant.iter().any(|i| i.pred.is_token_identity());
    if identity && spec.quality.class != Class::Exact {
        let strict = crate::spec::Quality { class: Class::Exact, ..spec.quality.clone() };
        let r = quality::judge(&strict, pair, Pair { control: &[], candidate: &[] });
        if let Some(why) = r.fails {
            d.settle(Verdict::Void, "invariant", format!("token identity: {why}"));
        }
    }
}

/// The samples of a metric in the blocks that count; arm 0 is the control.
pub fn measured(e: &Evidence<'_>, metric: &str) -> Vec<Measured> {
    let arms = e.spec.spec.arms();
    let blocks = e.records.iter().filter(|r| r.stage == Stage::Block);
    blocks
        .filter_map(|r| {
            let arm = arms.iter().position(|a| a.name == r.arm)?;
            let slot = Slot { block: r.block as usize, position: r.position as usize, arm };
            Some(Measured { slot, value: r.metric(metric)? })
        })
        .collect()
}

/// Numbers of pairs after which the figures are looked at.
pub fn looks(spec: &Frozen) -> Vec<usize> {
    let arms = spec.spec.arms().len();
    let [fewest, most] = spec.spec.pairs();
    stats::sequential::schedule(
        fewest,
        most,
        stats::design::round(arms) * stats::design::pairs_per_block(arms),
    )
}

/// The level of the look after `pairs` pairs: what the last scheduled look up to there may use.
fn level(spec: &Frozen, pairs: usize) -> Option<f64> {
    let until: Vec<usize> = looks(spec).into_iter().take_while(|l| *l <= pairs).collect();
    // Several candidates share what one would have.
    let alpha = spec.spec.alpha() / spec.spec.tried().len().max(1) as f64;
    stats::sequential::levels(alpha, spec.spec.pairs()[1], &until).ok()?.last().copied()
}

fn figures(d: &mut Decision, e: &Evidence<'_>, candidate: &Arm) {
    let spec = &e.spec.spec;
    let arms = spec.arms();
    let names = metrics(e.spec);
    let main = &spec.expected.metric;
    let [fewest, most] = spec.pairs();
    let which = arms.iter().position(|a| a.name == candidate.name).unwrap_or(1);
    d.pairs = measured(e, main).iter().filter(|m| m.slot.arm == which).count();
    let Some(level) = level(e.spec, d.pairs) else { return };
    d.level = level;
    for name in &names {
        let samples = measured(e, name);
        let median = |arm: usize| {
            let v: Vec<f64> = samples.iter().filter(|m| m.slot.arm == arm).map(|m| m.value).collect();
            tamp_base::record::quantile(&v, 0.5)
        };
        match stats::paired::estimate(&samples, 0, which, direction(name), d.level, d.seed) {
            Ok(estimate) => {
                d.medians.insert(name.clone(), [median(0), median(which)]);
                d.estimates.insert(name.clone(), estimate);
            }
            Err(why) if name == main && d.pairs >= fewest => {
                d.settle(Verdict::Void, "statistics", format!("{name}: {why}"));
            }
            Err(_) => {}
        }
    }
    d.drift = drift(e, which, main);
    let share = |arm: &Arm| {
        let v: Vec<f64> = e
            .records
            .iter()
            .filter(|r| r.arm == arm.name && r.stage != Stage::Reverted)
            .filter_map(|r| r.metric("ceiling_fraction"))
            .collect();
        tamp_base::record::quantile(&v, 0.5)
    };
    let both = [share(&arms[0]), share(candidate)];
    d.ceiling = both.iter().all(|f| f.is_finite()).then_some(both);
    d.floors = e.null.map(|n| n.floors(most)).unwrap_or_default();
    d.gates = spec.success.iter().chain(&spec.kill).map(|g| show(g, &d.estimates)).collect();
    if d.verdict.is_some() || spec.is_null() {
        if spec.is_null() && (d.pairs >= most || e.last) {
            null_verdict(d, main);
        }
        return;
    }
    // Judged once, at the end: looking for a trend after every block would find one sooner or later.
    if let Some(Drift { state: State::Void, reason, .. }) = &d.drift
        && e.last
    {
        let reason = reason.clone();
        d.settle(Verdict::Void, "drift", reason);
        return;
    }
    let question = Question {
        metric: main,
        claim: spec.claim,
        success: &spec.success,
        kill: &spec.kill,
        mde: spec.design.mde,
    };
    let pairs_max = if e.last { d.pairs } else { most };
    let found =
        Found { estimates: &d.estimates, floors: &d.floors, pairs: d.pairs, pairs_max, quality: true };
    let ruling = judge(&question, &found);
    let verdict = match ruling.outlook {
        Outlook::More => {
            d.reason = ruling.reason;
            return;
        }
        Outlook::Retain => Verdict::Retain,
        Outlook::Reject => Verdict::Reject,
        Outlook::Inconclusive => Verdict::Inconclusive,
        Outlook::NotMeasurable => Verdict::NotMeasurable,
    };
    d.settle(verdict, "", ruling.reason);
}

/// The machine over the run: every sample at the middle of its process, and the controls around them.
fn drift(e: &Evidence<'_>, which: usize, metric: &str) -> Option<Drift> {
    let arms = e.spec.spec.arms();
    let start = e.records.iter().map(|r| r.started_ms).min()?;
    let hours = |r: &RunRecord| ((r.started_ms - start) as f64 + r.took_ms / 2.0) / 3.6e6;
    let timed: Vec<Timed> = measured(e, metric)
        .into_iter()
        .zip(e.records.iter().filter(|r| r.stage == Stage::Block && r.metric(metric).is_some()))
        .map(|(measured, r)| Timed { hours: hours(r), measured })
        .collect();
    let bracket = |stage| {
        let r = e.records.iter().find(|r| r.stage == stage && r.arm == arms[0].name)?;
        Some((hours(r), r.metric(metric)?))
    };
    let (opening, closing) = (bracket(Stage::Opening), bracket(Stage::Closing));
    drift::test(&timed, opening, closing, 0, which, direction(metric), &Limits::default()).ok()
}

/// A null that shows nothing is retained; one that shows a difference is the most important finding of all.
fn null_verdict(d: &mut Decision, main: &str) {
    let Some(e) = d.estimates.get(main) else { return };
    let (ratio, low, high, mde) = (e.ratio, e.low, e.high, 100.0 * e.mde);
    if low <= 1.0 && 1.0 <= high {
        d.settle(
            Verdict::Retain,
            "",
            format!(
                "identical arms show {ratio:.4} ({low:.4}–{high:.4}); a run of these pairs finds {mde:.1} %"
            ),
        );
    } else {
        d.settle(Verdict::Reject, "", format!("identical arms differ: {ratio:.4} ({low:.4}–{high:.4}); this machine or this design is biased"));
    }
}

fn show(g: &Gate, estimates: &Estimates) -> Shown {
    let estimate = estimates.get(&g.metric);
    let seen = estimate.map(|e| match g.stat {
        Stat::CiLow => e.low,
        Stat::CiHigh => e.high,
        Stat::Median => e.ratio,
    });
    let word = |v: Result<serde_json::Value, _>| v.ok().and_then(|v| v.as_str().map(String::from));
    let (stat, op) = (word(serde_json::to_value(g.stat)), word(serde_json::to_value(g.op)));
    let (stat, op) = (stat.unwrap_or_default(), op.unwrap_or_default());
    let value = g.value;
    Shown {
        name: format!("{stat} of {}", g.metric),
        want: format!("{op} {value:.4}"),
        seen: seen.map_or("no figure".into(), |s| format!("{s:.4}")),
        pass: estimate.is_some_and(|e| g.holds(e)),
    }
}
