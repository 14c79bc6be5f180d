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
    Some(Floor { floor: libm::expm1(se.max(shown)), mde: detectable(se, dof), pairs })
}

/// ratio − 1 that an estimate of standard error `se_log` finds with 80 % power at a two-sided 5 %, the error known with
/// `dof` degrees of freedom.
pub fn detectable(se_log: f64, dof: usize) -> f64 {
    if se_log == 0.0 {
        return 0.0;
    }
    libm::expm1(((t_upper(0.025, dof) + normal_quantile(0.8)) * se_log).min(700.0))
}
