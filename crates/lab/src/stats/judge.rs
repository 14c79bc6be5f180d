//! From figures to an outlook.
//!
//! | claim | retain | reject |
//! |---|---|---|
//! | superior | low end > 1 + max(gate − 1, A/A floor) | high end < gate |
//! | not worse | low end ≥ gate | high end < gate |
//!
//! Besides, every success gate must hold to retain, and any kill gate or bad quality rejects. What is neither goes on,
//! and at the most pairs is *not measurable* where the null says that the machine could not have told ([`resolves`]), else
//! *inconclusive*. What an interval did show is shown, so a large effect on a noisy machine is still a verdict.

use std::collections::BTreeMap;

use super::{Claim, Estimate, Estimates, Floor, Gate, Op, Outlook, Ruling, Stat};

/// The gate of a not-worse claim that names none.
pub const NOT_WORSE: f64 = 0.98;

/// What was asked, frozen before measuring.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// the metric the claim is about
    pub metric: &'a str,
    /// superior or not worse
    pub claim: Claim,
    /// all must hold to retain
    pub success: &'a [Gate],
    /// any rejects
    pub kill: &'a [Gate],
    /// the effect that must be resolvable, as ratio − 1, where the gate itself asks for none
    pub mde: Option<f64>,
}

/// What was found up to a look.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// by metric, at the level of the look
    pub estimates: &'a Estimates,
    /// by metric, for runs of `pairs_max` pairs
    pub floors: &'a BTreeMap<String, Floor>,
    /// pairs so far
    pub pairs: usize,
    /// pairs at which the run ends
    pub pairs_max: usize,
    /// false when the candidate's output is not good enough
    pub quality: bool,
}

impl Gate {
    /// Whether the estimate satisfies it.
    pub fn holds(&self, e: &Estimate) -> bool {
        let figure = match self.stat {
            Stat::CiLow => e.low,
            Stat::CiHigh => e.high,
            Stat::Median => e.ratio,
        };
        match self.op {
            Op::Ge => figure >= self.value,
            Op::Gt => figure > self.value,
            Op::Le => figure <= self.value,
            Op::Lt => figure < self.value,
        }
    }

    /// Asks for much, not for little.
    fn is_lower_bound(&self) -> bool {
        matches!(self.op, Op::Ge | Op::Gt)
    }

    /// A centre has no protection against looking often, so it counts when all pairs are there.
    fn counts(&self, last: bool) -> bool {
        last || self.stat != Stat::Median
    }

    fn words(&self) -> String {
        let stat = match self.stat {
            Stat::CiLow => "low end",
            Stat::CiHigh => "high end",
            Stat::Median => "median",
        };
        let op = match self.op {
            Op::Ge => "≥",
            Op::Gt => ">",
            Op::Le => "≤",
            Op::Lt => "<",
        };
        format!("{stat} of {} {op} {:.4}", self.metric, self.value)
    }
}

impl Question<'_> {
    /// The ratio the claim is held against: the largest low-end success gate on its metric; without one, 1 for
    /// superior and [`NOT_WORSE`] for not worse.
    pub fn gate(&self) -> f64 {
        self.success
            .iter()
            .filter(|g| g.metric == self.metric && g.stat == Stat::CiLow && g.is_lower_bound())
            .map(|g| g.value)
            .reduce(f64::max)
            .unwrap_or(match self.claim {
                Claim::Superior => 1.0,
                Claim::NotWorse => NOT_WORSE,
            })
    }
}

/// Whether a machine with this floor can answer the question with that many pairs, known before the first block.
///
/// The question asks for an effect of *a* = max(|gate − 1|, `mde`). The machine resolves it when the floor is no more than
/// what the gate asks for, and the smallest effect that a run finds with 80 % power, plus what of the floor stands above
/// the gate of a superior claim, is no more than *a*. A question that names no effect is never refused.
pub fn resolves(q: &Question, floor: &Floor) -> bool {
    let gate = match q.claim {
        Claim::Superior => q.gate() - 1.0,
        Claim::NotWorse => 1.0 - q.gate(),
    }
    .max(0.0);
    let asked = gate.max(q.mde.unwrap_or(0.0));
    if asked <= 0.0 {
        return true;
    }
    let above = match q.claim {
        Claim::Superior => (floor.floor - gate).max(0.0),
        Claim::NotWorse => 0.0,
    };
    let enough = if gate > 0.0 { floor.floor <= gate } else { floor.floor <= asked };
    enough && floor.mde + above <= asked
}

/// What may be said after a look.
pub fn judge(q: &Question, e: &Evidence) -> Ruling {
    let say = |outlook, reason: String| Ruling { outlook, reason };
    let last = e.pairs >= e.pairs_max;
    if !e.quality {
        return say(Outlook::Reject, "the candidate's output is not good enough".into());
    }
    let killed = |g: &&Gate| g.counts(last) && e.estimates.get(&g.metric).is_some_and(|x| g.holds(x));
    if let Some(g) = q.kill.iter().find(killed) {
        return say(Outlook::Reject, format!("the kill gate holds: {}", g.words()));
    }
    let Some(found) = e.estimates.get(q.metric) else {
        let outlook = if last { Outlook::Inconclusive } else { Outlook::More };
        return say(outlook, format!("there is no estimate of {}", q.metric));
    };
    let (gate, floor) = (q.gate(), e.floors.get(q.metric));
    let span = format!("[{:.4}, {:.4}] at level {:.4}", found.low, found.high, found.level);
    if found.high < gate {
        return say(
            Outlook::Reject,
            format!("{}: the interval {span} is under the gate {gate:.4}", q.metric),
        );
    }
    let out_of_reach = |g: &&Gate| {
        e.estimates
            .get(&g.metric)
            .is_some_and(|x| if g.is_lower_bound() { x.high < g.value } else { x.low > g.value })
    };
    if let Some(g) = q.success.iter().find(out_of_reach) {
        return say(Outlook::Reject, format!("a success gate is out of reach: {}", g.words()));
    }
    let (holds, bar) = match (q.claim, floor) {
        (Claim::Superior, Some(f)) => {
            let bar = 1.0 + (gate - 1.0).max(f.floor);
            (found.low > bar, bar)
        }
        // A gain is never claimed on a machine that has not been compared with itself.
        (Claim::Superior, None) => (false, f64::INFINITY),
        (Claim::NotWorse, _) => (found.low >= gate, gate),
    };
    let unmet = q
        .success
        .iter()
        .find(|g| !(g.counts(last) && e.estimates.get(&g.metric).is_some_and(|x| g.holds(x))));
    if holds && unmet.is_none() {
        return say(Outlook::Retain, format!("{}: the interval {span} clears {bar:.4}", q.metric));
    }
    let open = match unmet {
        Some(g) if holds => format!("not shown yet: {}", g.words()),
        _ => format!("{}: the interval {span} does not clear {bar:.4}", q.metric),
    };
    if !last {
        return say(Outlook::More, open);
    }
    match floor {
        None => say(Outlook::NotMeasurable, format!("there is no null of {}", q.metric)),
        Some(f) if !resolves(q, f) => say(
            Outlook::NotMeasurable,
            format!(
                "{open}; between identical arms this machine shows {:.2} %, and {} pairs find {:.2} % or more, which is \
                 too coarse for the question",
                100.0 * f.floor,
                f.pairs,
                100.0 * f.mde
            ),
        ),
        Some(_) => say(Outlook::Inconclusive, open),
    }
}

#[cfg(test)]
mod tests {
    use super::super::VERSION;
    use super::*;

    fn at(low: f64, high: f64) -> Estimate {
        Estimate {
            version: VERSION,
            seed: 1,
            pairs: 24,
            ratio: (low * high).sqrt(),
            low,
            high,
            level: 0.05,
            plain_median: (low * high).sqrt(),
            se_log: 0.01,
            sd_log: 0.02,
            dof: 20,
            sign_p: 1.0,
            permutation_p: 1.0,
            mde: 0.02,
            slots: vec![],
            ratios: vec![],
        }
    }

    fn gate(metric: &str, stat: Stat, op: Op, value: f64) -> Gate {
        Gate { metric: metric.into(), stat, op, value }
    }

    struct Case {
        claim: Claim,
        success: Vec<Gate>,
        kill: Vec<Gate>,
        mde: Option<f64>,
        floor: Option<(f64, f64)>,
        quality: bool,
        pairs: usize,
        others: Vec<(&'static str, Estimate)>,
    }

    fn superior(gate_at: f64) -> Case {
        Case {
            claim: Claim::Superior,
            success: vec![gate("m", Stat::CiLow, Op::Ge, gate_at)],
            kill: vec![],
            mde: Some(0.03),
            floor: Some((0.005, 0.015)),
            quality: true,
            pairs: 24,
            others: vec![],
        }
    }

    fn not_worse(gate_at: f64) -> Case {
        Case { claim: Claim::NotWorse, ..superior(gate_at) }
    }

    impl Case {
        fn says(&self, low: f64, high: f64) -> Outlook {
            let mut estimates: Estimates =
                self.others.iter().map(|(k, e)| (k.to_string(), e.clone())).collect();
            estimates.insert("m".into(), at(low, high));
            let floors = self
                .floor
                .iter()
                .map(|&(floor, mde)| ("m".to_string(), Floor { floor, mde, pairs: 24 }))
                .collect();
            let q = Question {
                metric: "m",
                claim: self.claim,
                success: &self.success,
                kill: &self.kill,
                mde: self.mde,
            };
            judge(
                &q,
                &Evidence {
                    estimates: &estimates,
                    floors: &floors,
                    pairs: self.pairs,
                    pairs_max: 24,
                    quality: self.quality,
                },
            )
            .outlook
        }
    }

    #[test]
    fn superior_must_clear_the_gate_and_the_floor() {
        let free = superior(1.0);
        assert_eq!(free.says(1.0051, 1.02), Outlook::Retain);
        assert_eq!(free.says(1.0049, 1.02), Outlook::Inconclusive);
        let gated = superior(1.10);
        assert_eq!(gated.says(1.1001, 1.2), Outlook::Retain);
        assert_eq!(gated.says(1.0999, 1.2), Outlook::Inconclusive);
        assert_eq!(gated.says(1.02, 1.0999), Outlook::Reject);
        assert_eq!(free.says(0.95, 0.9999), Outlook::Reject);
        assert_eq!(free.says(0.95, 1.0), Outlook::Inconclusive);
    }

    #[test]
    fn not_worse_must_reach_the_gate_and_nothing_more() {
        let c = not_worse(0.98);
        assert_eq!(c.says(0.98, 1.01), Outlook::Retain);
        assert_eq!(c.says(0.9799, 1.01), Outlook::Inconclusive);
        assert_eq!(c.says(0.95, 0.9799), Outlook::Reject);
        let default = Case { success: vec![], ..not_worse(1.0) };
        assert_eq!(default.says(0.98, 1.01), Outlook::Retain);
        assert_eq!(default.says(0.97, 1.01), Outlook::Inconclusive);
        assert_eq!(default.says(0.95, 0.9799), Outlook::Reject);
        assert_eq!(Case { success: vec![], ..superior(1.0) }.says(0.97, 0.9999), Outlook::Reject);
    }

    #[test]
    fn before_the_most_pairs_what_is_open_goes_on() {
        let c = Case { pairs: 12, ..superior(1.0) };
        assert_eq!(c.says(0.99, 1.02), Outlook::More);
        assert_eq!(c.says(1.01, 1.02), Outlook::Retain);
        assert_eq!(c.says(0.9, 0.99), Outlook::Reject);
        // nor is a coarse machine a reason to stop: the next look may still show a large effect
        assert_eq!(Case { floor: Some((0.2, 0.4)), ..c }.says(0.99, 1.02), Outlook::More);
    }

    #[test]
    fn what_the_null_cannot_resolve_is_not_measurable() {
        // floor above the gate's own effect
        assert_eq!(
            Case { floor: Some((0.11, 0.01)), ..superior(1.10) }.says(1.0, 1.2),
            Outlook::NotMeasurable
        );
        // floor + detectable above the effect asked for where the gate asks for none
        assert_eq!(
            Case { floor: Some((0.010, 0.021)), ..superior(1.0) }.says(0.99, 1.02),
            Outlook::NotMeasurable
        );
        assert_eq!(
            Case { floor: Some((0.010, 0.019)), ..superior(1.0) }.says(0.99, 1.02),
            Outlook::Inconclusive
        );
        // a margin of 2 % needs 2 % to be found
        let narrow = Case { mde: None, floor: Some((0.01, 0.021)), ..not_worse(0.98) };
        assert_eq!(narrow.says(0.97, 1.02), Outlook::NotMeasurable);
        // yet what is shown is shown
        assert_eq!(narrow.says(0.981, 1.02), Outlook::Retain);
        assert_eq!(Case { floor: Some((0.11, 0.3)), ..superior(1.10) }.says(1.3, 1.5), Outlook::Retain);
        assert_eq!(
            Case { floor: Some((0.11, 0.3)), ..superior(1.10) }.says(1.105, 1.5),
            Outlook::NotMeasurable
        );
        // a question that names no effect
        assert_eq!(
            Case { mde: None, floor: Some((0.2, 0.3)), ..superior(1.0) }.says(0.9, 1.1),
            Outlook::Inconclusive
        );
    }

    #[test]
    fn no_gain_is_claimed_without_a_null() {
        let c = Case { floor: None, ..superior(1.0) };
        assert_eq!(c.says(2.0, 3.0), Outlook::NotMeasurable);
        assert_eq!(Case { pairs: 8, ..c }.says(2.0, 3.0), Outlook::More);
    }

    #[test]
    fn bad_quality_and_kill_gates_reject_before_anything_else() {
        assert_eq!(Case { quality: false, ..superior(1.0) }.says(1.5, 1.6), Outlook::Reject);
        let kill = vec![gate("memory", Stat::CiHigh, Op::Lt, 0.9)];
        let c = Case { kill: kill.clone(), others: vec![("memory", at(0.5, 0.8))], ..superior(1.0) };
        assert_eq!(c.says(1.5, 1.6), Outlook::Reject);
        let c = Case { kill, others: vec![("memory", at(0.5, 0.9))], ..superior(1.0) };
        assert_eq!(c.says(1.5, 1.6), Outlook::Retain);
    }

    #[test]
    fn every_success_gate_must_hold() {
        let mut c = superior(1.0);
        c.success.push(gate("ttft", Stat::CiLow, Op::Ge, 0.95));
        assert_eq!(c.says(1.2, 1.3), Outlook::Inconclusive, "no estimate of it at all");
        c.others = vec![("ttft", at(0.94, 1.0))];
        assert_eq!(c.says(1.2, 1.3), Outlook::Inconclusive);
        c.others = vec![("ttft", at(0.96, 1.0))];
        assert_eq!(c.says(1.2, 1.3), Outlook::Retain);
        c.others = vec![("ttft", at(0.80, 0.94))];
        assert_eq!(c.says(1.2, 1.3), Outlook::Reject);
    }

    #[test]
    fn a_median_gate_counts_when_all_pairs_are_there() {
        let mut c = superior(1.0);
        c.kill = vec![gate("m", Stat::Median, Op::Lt, 1.0)];
        assert_eq!(Case { pairs: 8, kill: c.kill.clone(), ..superior(1.0) }.says(0.9, 1.05), Outlook::More);
        assert_eq!(c.says(0.9, 1.05), Outlook::Reject);
        let c = Case { success: vec![gate("m", Stat::Median, Op::Ge, 1.05)], ..superior(1.0) };
        assert_eq!(
            Case { pairs: 8, success: c.success.clone(), ..superior(1.0) }.says(1.02, 1.2),
            Outlook::More
        );
        assert_eq!(c.says(1.02, 1.2), Outlook::Retain);
        assert_eq!(c.says(1.004, 1.2), Outlook::Inconclusive, "the claim's own rule stands beside the gate");
    }

    #[test]
    fn a_gate_reads_as_specs_write_it() {
        let g: Gate =
            toml::from_str("metric = \"decode_tok_s\"\nstat = \"ci_low\"\nop = \">=\"\nvalue = 1.10")
                .unwrap();
        assert_eq!(g, gate("decode_tok_s", Stat::CiLow, Op::Ge, 1.10));
        for (text, op) in [(">=", Op::Ge), (">", Op::Gt), ("<=", Op::Le), ("<", Op::Lt)] {
            let g: Gate =
                toml::from_str(&format!("metric = 'm'\nstat = 'median'\nop = '{text}'\nvalue = 1.0"))
                    .unwrap();
            assert_eq!(g.op, op);
            // below, at and above 1
            let holds = [(0.98, 1.0), (1.0, 1.0), (1.02, 1.02)].map(|(l, h)| g.holds(&at(l, h)));
            let want = match op {
                Op::Ge => [false, true, true],
                Op::Gt => [false, false, true],
                Op::Le => [true, true, false],
                Op::Lt => [true, false, false],
            };
            assert_eq!(holds, want, "{text}");
        }
        assert!(toml::from_str::<Gate>("metric = 'm'\nstat = 'mean'\nop = '<'\nvalue = 1.0").is_err());
        assert!(
            toml::from_str::<Gate>("metric = 'm'\nstat = 'median'\nop = '<'\nvalue = 1.0\nextra = 1")
                .is_err()
        );
        #[derive(serde::Deserialize)]
        struct Claims {
            claim: Claim,
        }
        assert_eq!(toml::from_str::<Claims>("claim = \"not_worse\"").unwrap().claim, Claim::NotWorse);
    }
}
