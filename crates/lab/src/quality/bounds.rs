//! Bounds of quality beyond tokens: a near-exact candidate is held to a divergence from the control's distributions, an
//! approximate one to what it loses on a held-out text and on graded items. Each is an interval over what was asked, and
//! passes only when all of the interval does: a bound that was not shown to hold is no reason to keep something.

use serde::{Deserialize, Serialize};
use tamp_base::record::quantile;
use tamp_base::scored::Scored;

use crate::check::Pair;
use crate::record::RunRecord;
use crate::spec::Quality;
use crate::stats::dist::t_upper;

/// Scored positions whose mean counts as one observation: neighbours in a text are alike, and single positions would
/// give an interval that is too narrow.
const STRETCH: usize = 16;
/// Two-sided level of the intervals.
const LEVEL: f64 = 0.05;
/// Tokens of the held-out text that are scored when a spec does not say: 24 stretches.
pub const POSITIONS: u32 = 384;
/// Fewer would leave an interval of 3 degrees of freedom.
pub const FEWEST: u32 = 4 * STRETCH as u32;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// the mean
    pub mean: f64,
    /// low end
    pub low: f64,
    /// high end
    pub high: f64,
}

/// How an interval stands to the most that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// all of it is allowed
    Within,
    /// the mean is, its high end is not: what was asked is too little to tell
    Unresolved,
    /// the mean is not
    Outside,
}

/// One bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// `max_kl`, `max_bits` or `max_task_loss`
    pub name: String,
    /// what it is about and its unit, in words
    pub about: String,
    /// the most that is allowed
    pub most: f64,
    /// what was measured
    pub seen: Interval,
    /// whether it holds
    pub held: Held,
    /// tokens, or items, that it rests on
    pub over: usize,
    /// figures beside it that decide nothing
    pub beside: String,
}

/// What came of the bounds that a spec declares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// why one of them could not be measured
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// those that were
    #[serde(default)]
    pub bounds: Vec<Bound>,
}

impl Bounds {
    /// The sentence about the first bound that stands so.
    pub fn first(&self, held: Held) -> Option<String> {
        let b = self.bounds.iter().find(|b| b.held == held)?;
        let Interval { mean, low, high } = b.seen;
        let (about, most, over) = (&b.about, b.most, b.over);
        let figures = format!("{about} {mean:.6} ({low:.6} to {high:.6}) over {over}, and {most} is allowed");
        Some(match held {
            Held::Unresolved => format!("{}: too few to tell: {figures}", b.name),
            _ => format!("{}: {figures}", b.name),
        })
    }
}

/// Whole 10⁻⁹: such numbers come out of a file as they went in.
fn round(x: f64) -> f64 {
    if x.abs() < 1e6 { (x * 1e9).round() / 1e9 } else { x }
}

fn interval(mean: f64, half: f64) -> Interval {
    Interval { mean: round(mean), low: round(mean - half), high: round(mean + half) }
}

/// The mean of nats over positions, from the means of stretches. A rest shorter than a stretch is left out.
fn over_text(nats: &[f64]) -> Interval {
    let means: Vec<f64> =
        nats.chunks_exact(STRETCH).map(|c| c.iter().sum::<f64>() / STRETCH as f64).collect();
    let n = means.len() as f64;
    let mean = means.iter().sum::<f64>() / n;
    let variance = means.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>() / (n - 1.0);
    interval(mean, t_upper(LEVEL / 2.0, means.len().saturating_sub(1)) * libm::sqrt(variance / n))
}

/// The share of `n` items that were lost less those that were gained, with the interval of Bonett and Price (2012) for
/// paired proportions: two more items are thought, one lost and one gained, so that no loss in few items does not pass
/// for certainty.
fn over_items(lost: usize, gained: usize, n: usize) -> Interval {
    let m = n as f64 + 2.0;
    let (l, g) = ((lost as f64 + 1.0) / m, (gained as f64 + 1.0) / m);
    let half = 1.959_963_985 * libm::sqrt((l + g - (l - g) * (l - g)) / m);
    let mean = (lost as f64 - gained as f64) / n as f64;
    Interval { mean: round(mean), low: round(l - g - half), high: round(l - g + half) }
}

fn held(seen: Interval, most: f64) -> Held {
    match () {
        () if seen.mean.is_nan() || seen.mean > most => Held::Outside,
        () if seen.high <= most => Held::Within,
        () => Held::Unresolved,
    }
}

/// What an arm's scout was told of its quality.
fn scored<'a>(arm: &str, records: &[&'a RunRecord]) -> Result<&'a Scored, String> {
    let found = records.iter().filter_map(|r| r.sample()).find_map(|s| s.quality.as_ref());
    let q = found.ok_or_else(|| format!("the {arm} says nothing of its quality"))?;
    match &q.failed {
        Some(why) => Err(format!("the {arm} could not measure its quality: {why}")),
        None => Ok(q),
    }
}

/// Holds the candidate's scout beside the control's to the bounds that are declared; none declared, none measured.
pub fn measure(quality: &Quality, rollouts: Pair<'_>) -> Option<Bounds> {
    if !quality.bounded() {
        return None;
    }
    let mut out = Bounds::default();
    let both =
        scored("control", rollouts.control).and_then(|a| Ok((a, scored("candidate", rollouts.candidate)?)));
    let done = both.and_then(|(a, b)| {
        let text = quality.max_kl.is_some() || quality.max_bits.is_some();
        if text {
            same_text(a, b)?;
        }
        if let Some(most) = quality.max_kl {
            out.bounds.push(divergence(a, b, most)?);
        }
        if let Some(most) = quality.max_bits {
            out.bounds.push(bits(a, b, most));
        }
        if let Some(most) = quality.max_task_loss {
            out.bounds.push(task(a, b, most)?);
        }
        Ok(())
    });
    out.missing = done.err();
    Some(out)
}

fn same_text(a: &Scored, b: &Scored) -> Result<(), String> {
    let say = |why: &str| Err(why.to_string());
    match () {
        () if a.nll.is_empty() || b.nll.is_empty() => say("no text was scored"),
        () if a.text != b.text || a.bytes != b.bytes => say("the arms did not score the same token ids"),
        () if a.nll.len() != b.nll.len() => say("the arms scored different numbers of tokens"),
        () if a.nll.len() < FEWEST as usize || a.bytes == 0 => say("too few tokens were scored"),
        () => Ok(()),
    }
}

fn divergence(a: &Scored, b: &Scored, most: f64) -> Result<Bound, String> {
    if a.kept.is_empty() {
        return Err("the control wrote no reference to compare with".into());
    }
    if b.against != a.kept {
        let short = |h: &str| h.get(..12).unwrap_or(if h.is_empty() { "none" } else { h }).to_string();
        return Err(format!(
            "the candidate was compared with reference {}, and the control wrote {}",
            short(&b.against),
            short(&a.kept)
        ));
    }
    if b.kl.len() != a.nll.len() {
        return Err(format!("{} divergences over {} scored tokens", b.kl.len(), a.nll.len()));
    }
    let nats: Vec<f64> = b.kl.iter().map(|&n| n as f64 / 1e9).collect();
    let seen = over_text(&nats);
    let flips = a.best.iter().zip(&b.best).filter(|(x, y)| x != y).count();
    let beside = format!(
        "99th percentile {:.6}, largest {:.6}; the likeliest token is another at {flips} of {}",
        quantile(&nats, 0.99),
        nats.iter().copied().fold(0.0, f64::max),
        nats.len()
    );
    Ok(Bound {
        name: "max_kl".into(),
        about: "KL(control ‖ candidate), nats per token,".into(),
        most,
        seen,
        held: held(seen, most),
        over: nats.len(),
        beside,
    })
}

fn bits(a: &Scored, b: &Scored, most: f64) -> Bound {
    let tokens = a.nll.len();
    // Nats per token to bits per byte.
    let unit = tokens as f64 / a.bytes as f64 / std::f64::consts::LN_2;
    let more: Vec<f64> =
        b.nll.iter().zip(&a.nll).map(|(y, x)| y.saturating_sub(*x) as f64 / 1e9 * unit).collect();
    let all = |v: &[i64]| v.iter().map(|&n| n as f64 / 1e9).sum::<f64>() / tokens as f64 * unit;
    let seen = over_text(&more);
    Bound {
        name: "max_bits".into(),
        about: "bits per byte of the held-out text, more than the control,".into(),
        most,
        seen,
        held: held(seen, most),
        over: tokens,
        beside: format!("control {:.4}, candidate {:.4}, {} bytes", all(&a.nll), all(&b.nll), a.bytes),
    }
}

fn task(a: &Scored, b: &Scored, most: f64) -> Result<Bound, String> {
    if a.task.is_empty() || b.task.is_empty() || a.margins.is_empty() {
        return Err("the graded items were not asked".into());
    }
    if a.task != b.task || a.margins.len() != b.margins.len() {
        return Err("the arms were not asked the same graded items".into());
    }
    let (mut lost, mut gained) = (0, 0);
    for (x, y) in a.margins.iter().zip(&b.margins) {
        lost += usize::from(*x > 0 && *y <= 0);
        gained += usize::from(*x <= 0 && *y > 0);
    }
    let n = a.margins.len();
    let right = |v: &[i64]| v.iter().filter(|m| **m > 0).count();
    let seen = over_items(lost, gained, n);
    Ok(Bound {
        name: "max_task_loss".into(),
        about: "share of graded items lost less those gained".into(),
        most,
        seen,
        held: held(seen, most),
        over: n,
        beside: format!(
            "control {} of {n} right, candidate {}; {lost} lost, {gained} gained; no loss at all would show as at \
             most {:.4}",
            right(&a.margins),
            right(&b.margins),
            over_items(0, 0, n).high
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use crate::stats::rng::Rng;

    fn arm(name: &str, q: Scored) -> RunRecord {
        let mut r = record(name, 0, 0, 1.0);
        r.samples[0].quality = Some(q);
        r
    }

    /// A control and a candidate `kl` nats away, `more` nats worse per token, that lost `lost` of 160 items.
    fn pair(kl: i64, more: i64, lost: usize) -> (Scored, Scored) {
        let wave = |i: usize| 1_000_000_000 + 10_000_000 * ((i * 7) % 11) as i64;
        let a = Scored {
            text: "t".into(),
            bytes: 4 * 384,
            nll: (0..384).map(wave).collect(),
            best: vec![1; 384],
            kept: "reference".into(),
            task: "items".into(),
            margins: vec![1; 160],
            ..Scored::default()
        };
        let b = Scored {
            kept: String::new(),
            against: "reference".into(),
            kl: (0..384).map(|i| kl + (i % 5) as i64).collect(),
            nll: a.nll.iter().map(|n| n + more).collect(),
            margins: (0..160).map(|i| if i < lost { -1 } else { 1 }).collect(),
            ..a.clone()
        };
        (a, b)
    }

    fn look(q: &Quality, a: &Scored, b: &Scored) -> Bounds {
        let (a, b) = (arm("control", a.clone()), arm("candidate", b.clone()));
        measure(q, Pair { control: &[&a], candidate: &[&b] }).unwrap()
    }

    fn all() -> Quality {
        Quality { max_kl: Some(0.001), max_bits: Some(0.01), max_task_loss: Some(0.05), ..Quality::default() }
    }

    #[test]
    fn each_bound_holds_within_and_fails_outside_by_its_own_name() {
        let (a, b) = pair(500_000, 1_000_000, 0);
        let r = look(&all(), &a, &b);
        assert!(r.missing.is_none() && r.bounds.iter().all(|b| b.held == Held::Within), "{r:?}");
        // 0.001 nats per token of 4 bytes are 0.00036 bits per byte.
        assert!((r.bounds[1].seen.mean - 0.001 / 4.0 / std::f64::consts::LN_2).abs() < 1e-8);
        for (n, (kl, more, lost)) in
            [(2_000_000, 0, 0), (0, 60_000_000, 0), (0, 0, 12)].into_iter().enumerate()
        {
            let (a, b) = pair(kl, more, lost);
            let r = look(&all(), &a, &b);
            let outside: Vec<usize> = (0..3).filter(|&i| r.bounds[i].held == Held::Outside).collect();
            assert_eq!(outside, [n], "{r:?}");
            assert!(r.first(Held::Outside).unwrap().starts_with(&r.bounds[n].name));
        }
    }

    #[test]
    fn too_few_items_to_tell_are_neither_within_nor_outside() {
        let (a, b) = pair(0, 0, 6);
        let q = Quality { max_task_loss: Some(0.05), ..Quality::default() };
        let r = look(&q, &a, &b);
        assert_eq!((r.bounds.len(), r.bounds[0].held), (1, Held::Unresolved));
        // What was declared tighter than 160 items resolve cannot be shown, even by equal answers.
        let (a, b) = pair(0, 0, 0);
        let tight = Quality { max_task_loss: Some(0.01), ..Quality::default() };
        assert_eq!(look(&tight, &a, &b).bounds[0].held, Held::Unresolved);
    }

    #[test]
    fn whatever_is_missing_or_swapped_is_said_and_no_bound_is_made_of_it() {
        let (a, b) = pair(0, 0, 0);
        let change = |f: &dyn Fn(&mut Scored, &mut Scored)| {
            let (mut a, mut b) = (a.clone(), b.clone());
            f(&mut a, &mut b);
            look(&all(), &a, &b).missing
        };
        assert_eq!(change(&|_, _| ()), None);
        type Change<'a> = (&'a dyn Fn(&mut Scored, &mut Scored), &'a str);
        let cases: [Change<'_>; 10] = [
            (&|_, b| b.failed = Some("no room".into()), "no room"),
            (&|a, _| a.failed = Some("no room".into()), "control could not"),
            (&|_, b| b.against = "another".into(), "compared with reference another"),
            (&|_, b| b.against.clear(), "compared with reference none"),
            (&|a, b| (a.kept.clear(), b.against.clear()).0, "wrote no reference"),
            (&|_, b| b.text = "u".into(), "same token ids"),
            (&|_, b| b.kl.truncate(100), "100 divergences"),
            (&|a, b| (a.nll.truncate(40), b.nll.truncate(40)).0, "too few tokens"),
            (&|_, b| b.task = "u".into(), "same graded items"),
            (&|_, b| b.margins.clear(), "same graded items"),
        ];
        for (f, says) in cases {
            let why = change(f).unwrap_or_default();
            assert!(why.contains(says), "{why:?} does not say {says:?}");
        }
        let none = record("control", 0, 0, 1.0);
        let r = measure(&all(), Pair { control: &[&none], candidate: &[&none] }).unwrap();
        assert!(r.missing.unwrap().contains("says nothing") && r.bounds.is_empty());
        assert!(measure(&Quality::default(), Pair { control: &[&none], candidate: &[&none] }).is_none());
    }

    #[test]
    fn the_intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = Rng::keyed(11, 4);
        let mut uniform = || rng.bits() as f64 / u64::MAX as f64;
        let (mut text, mut items) = (0, 0);
        let trials = 2000;
        for _ in 0..trials {
            // Stretches differ in level, as passages of a text do; the truth is 1.
            let mut nats = Vec::new();
            for _ in 0..24 {
                let level = 0.5 + uniform();
                nats.extend((0..STRETCH).map(|_| level * 2.0 * uniform()));
            }
            let i = over_text(&nats);
            text += usize::from(i.low <= 1.0 && 1.0 <= i.high);
            let (mut lost, mut gained) = (0, 0);
            for _ in 0..160 {
                let u = uniform();
                lost += usize::from(u < 0.06);
                gained += usize::from((0.06..0.09).contains(&u));
            }
            let i = over_items(lost, gained, 160);
            items += usize::from(i.low <= 0.03 && 0.03 <= i.high);
        }
        for (name, hits) in [("text", text), ("items", items)] {
            let share = hits as f64 / trials as f64;
            assert!((0.93..=0.975).contains(&share), "{name}: {share}");
        }
    }
}
