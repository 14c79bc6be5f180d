//! When to look, and how much of the alpha each look may use.
//!
//! O'Brien–Fleming-like spending (Lan and DeMets 1983): up to the fraction t of the most pairs, either side of the
//! two-sided alpha has spent 2(1 − Φ(z / √t)), z the normal quantile of a quarter of alpha. Early looks stop for overwhelming differences only, and the last keeps
//! nearly all of alpha. Spending is fixed in advance, the looks are not: a run may look after any number of pairs.

use super::Error;
use super::dist::{normal_cdf, normal_quantile};

/// Grid points of the density between two looks; boundaries are then right to 1e-4.
const GRID: usize = 241;
/// No look is judged at less: an interval at such a level is as wide as all that is measured here.
const LEAST: f64 = 1e-12;

/// Numbers of pairs to look at: multiples of `step` (the pairs of a round of orders) from `pairs_min` on, and `pairs_max`.
pub fn schedule(pairs_min: usize, pairs_max: usize, step: usize) -> Vec<usize> {
    let step = step.max(1);
    let first = pairs_min.max(1).div_ceil(step) * step;
    let mut looks: Vec<usize> = (first..pairs_max).step_by(step).collect();
    looks.push(pairs_max);
    looks
}

/// Alpha spent up to the fraction `t` of the most pairs.
pub fn spent(alpha: f64, t: f64) -> f64 {
    if t <= 0.0 {
        return 0.0;
    }
    if t >= 1.0 {
        return alpha;
    }
    4.0 * normal_cdf(normal_quantile(alpha / 4.0) / t.sqrt())
}

/// Two-sided levels of the intervals at looks after `pairs` pairs (increasing), such that all looks together are wrong
/// with probability `alpha` when there is no difference. A look's level follows from it and the looks before it.
///
/// # Errors
/// Alpha outside 0..1; looks that do not increase, or go on after `pairs_max` was reached.
pub fn levels(alpha: f64, pairs_max: usize, pairs: &[usize]) -> Result<Vec<f64>, Error> {
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(Error::Level(alpha));
    }
    let mut out = Vec::new();
    let (mut before, mut used) = (0.0, 0.0);
    // Density of the sum (of variance t) on −edge..edge, of runs that have not stopped.
    let mut density: Vec<(f64, f64)> = vec![(0.0, 1.0)];
    for &n in pairs {
        let t = (n as f64 / pairs_max.max(1) as f64).min(1.0);
        if t <= before {
            return Err(Error::Looks { pairs: n, pairs_max });
        }
        let now = spent(alpha, t);
        let (sd, share) = ((t - before).sqrt(), now - used);
        let leave = |edge: f64| -> f64 {
            density
                .iter()
                .map(|(x, w)| w * (normal_cdf((x - edge) / sd) + normal_cdf((-x - edge) / sd)))
                .sum()
        };
        let (mut lo, mut hi) = (0.0, 40.0 * t.sqrt());
        for _ in 0..80 {
            let mid = 0.5 * (lo + hi);
            if leave(mid) > share { lo = mid } else { hi = mid }
        }
        let edge = (0.5 * (lo + hi)).min(-normal_quantile(LEAST / 2.0) * t.sqrt());
        out.push(2.0 * normal_cdf(-edge / t.sqrt()));
        density = carry(&density, edge, sd);
        (before, used) = (t, now);
    }
    Ok(out)
}

/// The density after a further step of standard deviation `sd`, cut at ±`edge`: (point, density × Simpson weight).
fn carry(density: &[(f64, f64)], edge: f64, sd: f64) -> Vec<(f64, f64)> {
    let step = 2.0 * edge / (GRID - 1) as f64;
    let scale = 1.0 / (sd * libm::sqrt(2.0 * std::f64::consts::PI));
    (0..GRID)
        .map(|i| {
            let x = step * i as f64 - edge;
            let here: f64 = density
                .iter()
                .map(|(u, w)| {
                    let z = (x - u) / sd;
                    if z.abs() > 9.0 { 0.0 } else { w * scale * libm::exp(-0.5 * z * z) }
                })
                .sum();
            let simpson = if i == 0 || i == GRID - 1 {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            (x, here * simpson * step / 3.0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    fn z(levels: &[f64]) -> Vec<f64> {
        levels.iter().map(|l| -normal_quantile(l / 2.0)).collect()
    }

    #[test]
    fn boundaries_are_those_of_the_published_tables() {
        // Five equal looks, two-sided 0.05, O'Brien–Fleming-like spending: Reboussin, DeMets, Kim, Lan (2000).
        let got = z(&levels(0.05, 5, &[1, 2, 3, 4, 5]).unwrap());
        for (g, w) in got.iter().zip([4.8769, 3.3569, 2.6803, 2.2898, 2.0310]) {
            assert!((g - w).abs() < 1e-3, "{got:?}");
        }
    }

    #[test]
    fn a_single_look_has_all_of_alpha() {
        let got = levels(0.05, 24, &[24]).unwrap();
        assert!((got[0] - 0.05).abs() < 1e-9);
    }

    #[test]
    fn many_looks_together_cross_with_probability_alpha() {
        let looks: Vec<usize> = (4..=40).step_by(2).collect();
        let edges = z(&levels(0.05, 40, &looks).unwrap());
        let runs = 40_000;
        let mut crossed = 0;
        let mut rng = Rng::new(5);
        for _ in 0..runs {
            let (mut sum, mut n) = (0.0, 0);
            for (look, edge) in looks.iter().zip(&edges) {
                while n < *look {
                    sum += rng.normal();
                    n += 1;
                }
                if sum.abs() > edge * (n as f64).sqrt() {
                    crossed += 1;
                    break;
                }
            }
        }
        let share = f64::from(crossed) / f64::from(runs);
        // four standard errors
        assert!((share - 0.05).abs() < 4.0 * (0.05 * 0.95 / f64::from(runs)).sqrt(), "{share}");
    }

    #[test]
    fn a_look_depends_on_those_before_it_only() {
        let long = levels(0.05, 24, &[8, 12, 16, 20, 24]).unwrap();
        let short = levels(0.05, 24, &[8, 12, 16]).unwrap();
        assert_eq!(long[..3], short[..]);
        assert!(long.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn looks_out_of_order_are_refused() {
        assert!(levels(0.05, 24, &[8, 8]).is_err());
        assert!(levels(0.05, 24, &[24, 28]).is_err());
        assert!(levels(0.0, 24, &[8]).is_err());
        assert!(levels(f64::NAN, 24, &[8]).is_err());
    }

    #[test]
    fn the_schedule_ends_at_the_most_pairs() {
        assert_eq!(schedule(6, 24, 4), [8, 12, 16, 20, 24]);
        assert_eq!(schedule(6, 22, 4), [8, 12, 16, 20, 22]);
        assert_eq!(schedule(4, 4, 4), [4]);
        assert_eq!(schedule(0, 2, 0), [1, 2]);
    }
}
