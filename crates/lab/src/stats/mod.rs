//! The statistics of the lab: orders, paired ratios, what a null resolves, looks, drift, and the rule that turns them
//! into an outlook. Pure functions of their arguments: nothing here reads a clock, a file or a platform's maths, so the
//! same samples give the same bits anywhere.
//!
//! Ratios are candidate over control, oriented so that more than 1 is better. A *pair* is one control sample and one
//! candidate sample of the same block; a block of two arms (ABBA or BAAB) holds two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod design;
pub mod dist;
pub mod drift;
pub mod judge;
pub mod null;
pub mod paired;
pub mod rng;
pub mod selftest;
pub mod sequential;

/// Version of the statistics. A verdict stores it; a change of any figure they give raises it.
pub const VERSION: u32 = 1;

/// Why there is no figure.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Log ratios need positive, finite values.
    #[error(
        "block {block}, position {position}, arm {arm}: {value} is not a positive finite number, so it has no ratio"
    )]
    NotPositive {
        /// block of the sample
        block: usize,
        /// its place there
        position: usize,
        /// its arm
        arm: usize,
        /// what was measured
        value: f64,
    },
    /// A block with a missing or doubled sample.
    #[error("block {block} is not whole: {have} of {want} positions are there; give finished blocks only")]
    Incomplete {
        /// the block
        block: usize,
        /// positions that are there
        have: usize,
        /// positions that a block has
        want: usize,
    },
    /// Slot effects cannot be told from the effect.
    #[error(
        "the blocks that count have too few orders to tell a slot's bias from the effect; run another block"
    )]
    OneOrder,
    /// Less data than parameters.
    #[error("{pairs} pairs are too few for an interval, at least {need} are needed")]
    TooFew {
        /// pairs that are there
        pairs: usize,
        /// pairs that are needed
        need: usize,
    },
    /// Looks out of order.
    #[error(
        "a look after {pairs} pairs is not after the one before it, or all {pairs_max} pairs were already looked at"
    )]
    Looks {
        /// pairs at that look
        pairs: usize,
        /// pairs at which the run ends
        pairs_max: usize,
    },
    /// A level outside 0..1.
    #[error("{0} is no level; it must lie between 0 and 1")]
    Level(f64),
}

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// more is better, such as tokens per second
    #[default]
    Up,
    /// less is better, such as milliseconds
    Down,
}

/// What an experiment says of its candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// better by more than the gate and the A/A floor
    #[default]
    Superior,
    /// at least the stated ratio
    NotWorse,
}

/// Which figure of an estimate a gate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stat {
    /// low end of the interval at the level of the look
    CiLow,
    /// high end of it
    CiHigh,
    /// [`Estimate::ratio`], the centre of the interval
    Median,
}

/// How a gate compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// at least
    #[serde(rename = ">=")]
    Ge,
    /// more than
    #[serde(rename = ">")]
    Gt,
    /// at most
    #[serde(rename = "<=")]
    Le,
    /// less than
    #[serde(rename = "<")]
    Lt,
}

/// A condition on the paired ratio of a metric, such as
/// `metric = "decode_tok_s"  stat = "ci_low"  op = ">="  value = 1.10`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// name of the metric
    pub metric: String,
    /// which figure of its ratio
    pub stat: Stat,
    /// how it is compared
    pub op: Op,
    /// with what
    pub value: f64,
}

/// One place in a run: the `position`-th process of a block, and which arm runs there (0 is the control).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// from 0
    pub block: usize,
    /// from 0 within its block
    pub position: usize,
    /// 0 is the control
    pub arm: usize,
}

/// One value of one metric, where it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// where
    #[serde(flatten)]
    pub slot: Slot,
    /// in the metric's own unit
    pub value: f64,
}

/// The paired ratio of one metric, and how surely it is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// [`VERSION`] that computed it
    pub version: u32,
    /// seed of the resampling
    pub seed: u64,
    /// control–candidate pairs it rests on
    pub pairs: usize,
    /// median of the paired ratios: of the geometric means of all pairs of them (Hodges and Lehmann 1963)
    pub ratio: f64,
    /// low end of the two-sided interval at `level`
    pub low: f64,
    /// high end of it
    pub high: f64,
    /// 1 − coverage of the interval
    pub level: f64,
    /// the plain median of the same paired ratios
    pub plain_median: f64,
    /// bootstrap standard error of ln `ratio`
    pub se_log: f64,
    /// standard deviation of the log ratios of single pairs, slot effects taken out
    pub sd_log: f64,
    /// degrees of freedom of the interval
    pub dof: usize,
    /// two-sided sign test against a ratio of 1
    pub sign_p: f64,
    /// two-sided sign-flip permutation test against a ratio of 1
    pub permutation_p: f64,
    /// ratio − 1 that this many pairs find with 80 % power at 5 %
    pub mde: f64,
    /// by position in a block: how the process there compares with the average position, 1 is equal
    pub slots: Vec<f64>,
    /// the paired ratios themselves in order of block, slot effects taken out
    pub ratios: Vec<f64>,
}

/// What identical arms show on a machine, for a run of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// ratio − 1 that identical arms show; see [`null::floor`]
    pub floor: f64,
    /// ratio − 1 that the run finds with 80 % power at 5 %, above whatever it is compared with
    pub mde: f64,
    /// pairs it holds for
    pub pairs: usize,
}

/// What the statistics allow to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// the claim holds
    Retain,
    /// it does not
    Reject,
    /// all pairs are spent and the interval still crosses
    Inconclusive,
    /// all pairs are spent, and the null says that this machine cannot resolve what was asked
    NotMeasurable,
    /// another block may tell
    More,
}

/// An outlook and the sentence that explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    /// what may be said
    pub outlook: Outlook,
    /// because of which figures
    pub reason: String,
}

/// Estimates by metric.
pub type Estimates = BTreeMap<String, Estimate>;
