//! Whether the machine changed while it was measured, and whether that matters.
//!
//! A machine that slows down evenly slows both arms: ABBA gives them the same middle time, so the paired ratio keeps its
//! value, and such a drift is reported and no more. Two things do not cancel, and void the run:
//!
//! * **an effect that itself drifts** – the paired ratios have a trend over the run, so the arms were hit differently
//!   (one of them heats the machine, or leaks) and the one ratio of the run describes no moment of it;
//! * **a drift with a lever** – the arms' middle times differ, because blocks are missing or an order was not kept, and
//!   slope × that difference is a bias in the ratio.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dist::t_upper;
use super::paired::pairs;
use super::{Direction, Error, Measured};

/// A measured value and when it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// hours from the start of the run to the middle of the measurement
    pub hours: f64,
    /// the sample
    #[serde(flatten)]
    pub measured: Measured,
}

/// A control outside the blocks: (hours from the start of the run, value).
pub type Bracket = (f64, f64);

/// From where on a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// controls: change per hour, as |ratio − 1|, under which the machine is called stable
    pub per_hour: f64,
    /// paired ratios: change over the whole run, as |ratio − 1|, that the verdict can bear
    pub effect: f64,
    /// bias left in the ratio, as |ratio − 1|, that the verdict can bear
    pub bias: f64,
    /// how sure a trend must be to count, as a two-sided level
    pub level: f64,
}

impl Default for Limits {
    /// 1 % an hour, 2 % and 0.5 % in the ratio, one false alarm in 500 runs.
    fn default() -> Limits {
        Limits { per_hour: 0.01, effect: 0.02, bias: 0.005, level: 0.002 }
    }
}

/// What the drift means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// no drift worth a word
    Stable,
    /// the controls changed, the paired ratio did not
    Drifting,
    /// the paired ratio means nothing
    Void,
}

/// A slope on the log scale with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    /// ratio − 1 per hour
    pub per_hour: f64,
    /// low end
    pub low: f64,
    /// high end
    pub high: f64,
}

/// The drift of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// what it means
    pub state: State,
    /// of the controls, oriented so that more than 0 is a machine that gets better, 95 % interval; absent with too few
    pub controls: Option<Trend>,
    /// of the paired ratios, at the level of the limits; absent with too few
    pub effect: Option<Trend>,
    /// closing control ÷ opening control, oriented
    pub closing_to_opening: Option<f64>,
    /// ratio − 1 that the controls' trend leaves in the paired ratio
    pub bias: f64,
    /// from the first sample to the last
    pub hours: f64,
    /// the sentence to it
    pub reason: String,
}

/// Looks for drift in the samples of a run and its opening and closing controls.
///
/// Samples at different positions of a block are compared with their like only, so a slot's bias is no drift.
///
/// # Errors
/// As [`pairs`] over the samples; a bracket without a logarithm is named as block 0, position 0 (opening) or 1.
pub fn test(
    samples: &[Timed],
    opening: Option<Bracket>,
    closing: Option<Bracket>,
    control: usize,
    candidate: usize,
    direction: Direction,
    limits: &Limits,
) -> Result<Drift, Error> {
    let measured: Vec<Measured> = samples.iter().map(|t| t.measured).collect();
    let all = pairs(&measured, control, candidate, direction)?;
    let sign = if direction == Direction::Up { 1.0 } else { -1.0 };
    let log = |value: f64, position: usize| {
        if value.is_finite() && value > 0.0 {
            Ok(sign * libm::log(value))
        } else {
            Err(Error::NotPositive { block: 0, position, arm: control, value })
        }
    };
    let ends = [opening, closing];
    let mut points: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for t in samples.iter().filter(|t| t.measured.slot.arm == control) {
        let position = t.measured.slot.position;
        points.entry(position).or_default().push((t.hours, log(t.measured.value, position)?));
    }
    let mut end_logs = [None; 2];
    for (i, end) in ends.iter().enumerate() {
        if let Some((hours, value)) = end {
            end_logs[i] = Some(log(*value, i)?);
            points.entry(usize::MAX).or_default().push((*hours, log(*value, i)?));
        }
    }
    let when: BTreeMap<(usize, usize), f64> =
        samples.iter().map(|t| ((t.measured.slot.block, t.measured.slot.position), t.hours)).collect();
    let hour = |block, position| when.get(&(block, position)).copied().unwrap_or(0.0);
    // A pair happened midway between its samples.
    let ratios: Vec<(f64, f64)> = all
        .pairs
        .iter()
        .map(|p| (0.5 * (hour(p.block, p.control) + hour(p.block, p.candidate)), p.log_ratio))
        .collect();
    let lever = all.pairs.iter().map(|p| hour(p.block, p.candidate) - hour(p.block, p.control)).sum::<f64>()
        / all.pairs.len().max(1) as f64;
    let controls = slope(&points.into_values().collect::<Vec<_>>(), 0, 0.05);
    let effect = slope(std::slice::from_ref(&ratios), all.fitted, limits.level);
    let times = || samples.iter().map(|t| t.hours).chain(ends.iter().flatten().map(|e| e.0));
    let hours = times().fold(f64::NEG_INFINITY, f64::max) - times().fold(f64::INFINITY, f64::min);
    let span = ratios.iter().map(|r| r.0).fold(f64::NEG_INFINITY, f64::max)
        - ratios.iter().map(|r| r.0).fold(f64::INFINITY, f64::min);
    let bias = controls.map_or(0.0, |t| libm::expm1(t.0 * lever));
    let moved = |t: &Slope, over: f64| libm::expm1(t.0.abs() * over);
    let surely = |t: &Slope| t.1 > 0.0 || t.2 < 0.0;
    let percent = |x: f64| 100.0 * x;
    let (state, reason) = if let Some(t) = effect.filter(|t| surely(t) && moved(t, span) > limits.effect) {
        let over = percent(libm::expm1(t.0 * span));
        (
            State::Void,
            format!("the ratio itself moved by {over:+.1} % over the run: the arms drifted differently"),
        )
    } else if bias.abs() > limits.bias {
        let why = "the arms' middle times differ while the machine drifts";
        (State::Void, format!("{why}, which leaves {:+.2} % in the ratio", percent(bias)))
    } else if let Some(t) = controls.filter(|t| surely(t) && moved(t, 1.0) > limits.per_hour) {
        let per_hour = percent(libm::expm1(t.0));
        (
            State::Drifting,
            format!("the controls drift by {per_hour:+.1} % an hour, which the paired ratio cancels"),
        )
    } else {
        (State::Stable, "no drift beyond the limits".to_string())
    };
    Ok(Drift {
        state,
        controls: controls.map(trend),
        effect: effect.map(trend),
        closing_to_opening: end_logs[0].zip(end_logs[1]).map(|(a, b)| exp(b - a)),
        bias,
        hours: if hours.is_finite() { hours } else { 0.0 },
        reason,
    })
}

/// Slope, low end, high end, of logs per hour.
type Slope = (f64, f64, f64);

fn trend(s: Slope) -> Trend {
    Trend { per_hour: exp(s.0) - 1.0, low: exp(s.1) - 1.0, high: exp(s.2) - 1.0 }
}

fn exp(x: f64) -> f64 {
    libm::exp(x.clamp(-700.0, 700.0))
}

/// Common slope of groups of (x, y), each with a level of its own, by least squares; `fitted` parameters were already
/// taken out of the y. None without freedom or spread.
fn slope(groups: &[Vec<(f64, f64)>], fitted: usize, level: f64) -> Option<Slope> {
    let (mut xx, mut xy, mut yy, mut n) = (0.0, 0.0, 0.0, 0);
    for g in groups.iter().filter(|g| !g.is_empty()) {
        let mean = |f: &dyn Fn(&(f64, f64)) -> f64| g.iter().map(f).sum::<f64>() / g.len() as f64;
        let (mx, my) = (mean(&|p| p.0), mean(&|p| p.1));
        for (x, y) in g {
            xx += (x - mx) * (x - mx);
            xy += (x - mx) * (y - my);
            yy += (y - my) * (y - my);
        }
        n += g.len() - 1;
    }
    let dof = n.checked_sub(1 + fitted).filter(|d| *d > 0)?;
    if xx.is_nan() || xx <= 0.0 || !xx.is_finite() {
        return None;
    }
    let b = xy / xx;
    let se = ((yy - b * xy).max(0.0) / dof as f64 / xx).sqrt();
    let reach = t_upper(level / 2.0, dof) * se;
    Some((b, b - reach, b + reach))
}

#[cfg(test)]
mod tests {
    use super::super::design::order;
    use super::super::rng::Rng;
    use super::*;

    /// A run of `blocks` ABBA/BAAB blocks of a minute a process.
    fn run(blocks: usize, seed: u64, log: &mut dyn FnMut(f64, usize, usize) -> f64) -> Vec<Timed> {
        order(2, blocks, seed)
            .into_iter()
            .enumerate()
            .map(|(i, slot)| {
                let hours = (i as f64 + 1.0) / 60.0;
                Timed { hours, measured: Measured { slot, value: log(hours, slot.position, slot.arm).exp() } }
            })
            .collect()
    }

    fn of(samples: &[Timed]) -> Drift {
        test(samples, None, None, 0, 1, Direction::Up, &Limits::default()).unwrap()
    }

    #[test]
    fn the_slope_is_that_of_the_textbook() {
        // y = 2, 3, 5, 4, 6 at 1..5: slope 0.9, residual sum of squares 1.9, se √(1.9 / 3 / 10), t₃ at 2.5 % 3.182 446
        let line: Vec<(f64, f64)> =
            [2.0, 3.0, 5.0, 4.0, 6.0].iter().zip(1..).map(|(y, x)| (f64::from(x), *y)).collect();
        let (b, low, high) = slope(std::slice::from_ref(&line), 0, 0.05).unwrap();
        let reach = 3.182_446_305 * (1.9f64 / 30.0).sqrt();
        assert!(
            (b - 0.9).abs() < 1e-12
                && (low - (0.9 - reach)).abs() < 1e-8
                && (high - (0.9 + reach)).abs() < 1e-8
        );
        // a second group far above changes nothing but the freedom
        let shifted: Vec<_> = line.iter().map(|(x, y)| (*x, y + 100.0)).collect();
        assert!((slope(&[line, shifted], 0, 0.05).unwrap().0 - 0.9).abs() < 1e-9);
        assert_eq!(slope(&[vec![(0.0, 1.0), (1.0, 2.0)]], 0, 0.05), None);
        assert_eq!(slope(&[vec![(1.0, 1.0); 9]], 0, 0.05), None);
    }

    #[test]
    fn an_even_drift_is_told_and_does_not_void() {
        let mut rng = Rng::new(1);
        let s = run(12, 1, &mut |h, p, _| {
            (0.95f64).ln() * h + 0.001 * rng.normal() + if p == 0 { -0.1 } else { 0.0 }
        });
        let d = of(&s);
        assert_eq!(d.state, State::Drifting, "{d:?}");
        let t = d.controls.unwrap();
        assert!(t.low < -0.05 && -0.05 < t.high && t.high - t.low < 0.01, "{t:?}");
    }

    #[test]
    fn a_slot_bias_is_no_drift() {
        let mut rng = Rng::new(2);
        let s = run(12, 1, &mut |_, p, _| 0.001 * rng.normal() + [-0.1, 0.0, 0.02, 0.05][p]);
        assert_eq!(of(&s).state, State::Stable);
    }

    #[test]
    fn an_effect_that_drifts_voids() {
        let mut rng = Rng::new(3);
        let s = run(12, 1, &mut |h, _, arm| 0.01 * rng.normal() - if arm == 1 { 0.1 * h } else { 0.0 });
        let d = of(&s);
        assert_eq!(d.state, State::Void, "{d:?}");
        assert!(d.reason.contains("itself"));
    }

    #[test]
    fn a_drift_with_a_lever_voids() {
        // The candidate's samples of every block came a whole hour after the control's.
        let mut s = run(6, 1, &mut |_, _, _| 0.0);
        let mut rng = Rng::new(4);
        for t in &mut s {
            t.hours += if t.measured.slot.arm == 1 { 1.0 } else { 0.0 };
            t.measured.value = ((0.97f64).ln() * t.hours + 0.001 * rng.normal()).exp();
        }
        let d = of(&s);
        assert_eq!(d.state, State::Void, "{d:?}");
        assert!((d.bias + 0.03).abs() < 0.02, "{d:?}");
    }

    #[test]
    fn the_ends_are_compared_and_oriented() {
        let s = run(4, 1, &mut |_, _, _| 1.0);
        for (direction, ratio) in [(Direction::Up, 0.9), (Direction::Down, 1.0 / 0.9)] {
            let d =
                test(&s, Some((0.0, 10.0)), Some((1.0, 9.0)), 0, 1, direction, &Limits::default()).unwrap();
            assert!((d.closing_to_opening.unwrap() - ratio).abs() < 1e-12);
            assert_eq!(d.hours, 1.0);
        }
        assert!(test(&s, Some((0.0, 0.0)), None, 0, 1, Direction::Up, &Limits::default()).is_err());
    }

    #[test]
    fn a_quiet_machine_is_rarely_voided() {
        let voids = (0..1000)
            .filter(|&seed| {
                let mut rng = Rng::keyed(9, seed);
                let s = run(12, seed, &mut |h, p, _| {
                    0.05 * rng.normal() - 0.03 * h + if p == 0 { -0.1 } else { 0.0 }
                });
                of(&s).state == State::Void
            })
            .count();
        assert!(voids <= 10, "{voids} of 1000");
    }
}
