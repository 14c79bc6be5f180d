//! What a machine shows between identical arms: the A/A floor and the smallest effect a run there finds.
//!
//! **Floor of a metric for a run of n pairs** = exp(max(s, d)) − 1, where
//! *s* is the standard error that the null's noise gives a run of n pairs (root mean square over the nulls of
//! se · √(pairs of the null ÷ n)), and
//! *d* is the log ratio that the nulls did show, without its sign (median over the nulls).
//! So the floor is the difference that identical arms show in an ordinary run; a bias that the design does not take out
//! shows in *d* and raises it. It is one standard error and not a 95 % bound because the interval that must clear it has
//! its own 95 %: together a gain must stand about three standard errors from 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dist::{normal_quantile, t_upper};
use super::{Estimate, Estimates, Floor, VERSION};

/// The nulls that a machine has run: by metric, the estimate of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Null {
    /// [`VERSION`] that computed the estimates
    pub version: u32,
    /// metric → one estimate per null run
    pub runs: BTreeMap<String, Vec<Estimate>>,
}

impl Null {
    /// A null of one run.
    pub fn of(run: Estimates) -> Null {
        Null { version: VERSION, runs: run.into_iter().map(|(k, e)| (k, vec![e])).collect() }
    }

    /// Adds a further run of the same design on the same machine.
    pub fn add(&mut self, run: Estimates) {
        for (metric, estimate) in run {
            self.runs.entry(metric).or_default().push(estimate);
        }
    }

    /// The floor of every metric for runs of `pairs` pairs.
    pub fn floors(&self, pairs: usize) -> BTreeMap<String, Floor> {
        self.runs.iter().filter_map(|(m, runs)| Some((m.clone(), floor(runs, pairs)?))).collect()
    }
}

/// The floor of one metric for a run of `pairs` pairs, from null runs of the same design (see the top of this page).
/// None without a run, or for a run of no pairs.
pub fn floor(nulls: &[Estimate], pairs: usize) -> Option<Floor> {
    if nulls.is_empty() || pairs == 0 {
        return None;
    }
    let variance: f64 =
        nulls.iter().map(|e| e.se_log * e.se_log * e.pairs as f64 / pairs as f64).sum::<f64>()
            / nulls.len() as f64;
    let se = variance.sqrt();
    let shown: Vec<f64> = nulls.iter().map(|e| libm::log(e.ratio).abs()).collect();
    let shown = tamp_base::record::quantile(&shown, 0.5);
    // The noise of a machine is known only as well as its nulls have degrees of freedom.
    let dof: usize = nulls.iter().map(|e| e.dof).sum();
    Some(Floor { floor: libm::expm1(se.max(shown).min(700.0)), mde: detectable(se, dof), pairs })
}

/// ratio − 1 that an estimate of standard error `se_log` finds with 80 % power at a two-sided 5 %, the error known with
/// `dof` degrees of freedom.
pub fn detectable(se_log: f64, dof: usize) -> f64 {
    if se_log == 0.0 {
        return 0.0;
    }
    libm::expm1(((t_upper(0.025, dof) + normal_quantile(0.8)) * se_log).min(700.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null(pairs: usize, ratio: f64, se_log: f64) -> Estimate {
        Estimate {
            version: VERSION,
            seed: 1,
            pairs,
            ratio,
            low: 0.9,
            high: 1.1,
            level: 0.05,
            plain_median: ratio,
            se_log,
            sd_log: 0.0,
            dof: pairs - 3,
            sign_p: 1.0,
            permutation_p: 1.0,
            mde: 0.0,
            slots: vec![],
            ratios: vec![],
        }
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn the_floor_is_the_larger_of_noise_and_what_was_shown() {
        // noise 0.01 at 24 pairs, shown exp(±0.004): the noise
        let f = floor(&[null(24, libm::exp(-0.004), 0.01)], 24).unwrap();
        near(f.floor, libm::expm1(0.01));
        // t with 21 degrees of freedom at 2.5 %: 2.079 613 845; z at 80 %: 0.841 621 234
        near(f.mde, libm::expm1((2.079_613_845 + 0.841_621_234) * 0.01));
        // shown exp(−0.03): that
        near(floor(&[null(24, libm::exp(-0.03), 0.01)], 24).unwrap().floor, libm::expm1(0.03));
    }

    #[test]
    fn a_longer_run_has_less_noise_by_the_root_of_its_pairs() {
        let f = floor(&[null(6, 1.0, 0.02)], 24).unwrap();
        near(f.floor, libm::expm1(0.01));
        // but a bias stays
        near(floor(&[null(6, 1.05, 0.02)], 600).unwrap().floor, 0.05);
    }

    #[test]
    fn several_nulls_pool_their_noise_and_take_the_middle_of_what_they_show() {
        let runs = [null(24, 1.0, 0.003), null(24, libm::exp(0.05), 0.004), null(24, libm::exp(-0.02), 0.0)];
        let f = floor(&runs, 24).unwrap();
        near(f.floor, libm::expm1(0.02));
        let quiet = [null(24, 1.0, 0.003), null(24, 1.0, 0.004), null(24, 1.0, 0.0)];
        near(floor(&quiet, 24).unwrap().floor, libm::expm1((25e-6f64 / 3.0).sqrt()));
    }

    #[test]
    fn without_a_null_there_is_no_floor() {
        assert_eq!(floor(&[], 24), None);
        assert_eq!(floor(&[null(24, 1.0, 0.01)], 0), None);
        assert!(Null::default().floors(24).is_empty());
        let mut kept = Null::of([("m".to_string(), null(24, 1.0, 0.01))].into());
        kept.add([("m".to_string(), null(24, 1.0, 0.01)), ("n".to_string(), null(24, 1.0, 0.02))].into());
        assert_eq!(kept.runs["m"].len(), 2);
        near(kept.floors(24)["n"].floor, libm::expm1(0.02));
    }

    #[test]
    fn a_metric_without_noise_has_no_floor_to_clear() {
        let f = floor(&[null(24, 1.0, 0.0)], 24).unwrap();
        assert_eq!((f.floor, f.mde), (0.0, 0.0));
    }
}
