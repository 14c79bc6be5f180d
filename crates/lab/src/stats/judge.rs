//! From figures to an outlook.

use std::collections::BTreeMap;

use super::{Claim, Estimates, Floor, Gate};

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
