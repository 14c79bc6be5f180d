//! What company costs: the time of `t` rows ÷ the time of one, for the kernels and for the whole engine.
//!
//! | module | what is timed |
//! |---|---|
//! | [`formats`] | phase E of the device over synthetic matrices of each block format |
//! | [`engine`] | the engine's own step, with `t` streams decoding one token each |

pub mod engine;
pub mod formats;

use serde::Serialize;

use crate::stats::median;

/// The widths that are measured: each kernel width, and what is put together from them.
pub const WIDTHS: [usize; 11] = [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32];

/// One width.
#[derive(Clone, Debug, Serialize)]
pub struct WidthPoint {
    /// rows
    pub rows: usize,
    /// median time of the work, ms
    pub ms: f64,
    /// median over rounds of this width's time ÷ that of one row in the same round
    pub cost: f64,
    /// the smallest of these ratios
    pub cost_min: f64,
    /// the largest
    pub cost_max: f64,
    /// every time, ms
    pub samples: Vec<f64>,
}

/// Points from `times[width][round]` in ms; the first width is the one that costs are divided by.
fn points(widths: &[usize], times: &[Vec<f64>]) -> Vec<WidthPoint> {
    let one = times.first().map_or(&[][..], Vec::as_slice);
    let mut out = Vec::new();
    for (&rows, samples) in widths.iter().zip(times) {
        let ratios: Vec<f64> = samples.iter().zip(one).map(|(t, one)| t / one).collect();
        out.push(WidthPoint {
            rows,
            ms: median(samples),
            cost: median(&ratios),
            cost_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            cost_max: ratios.iter().copied().fold(0.0, f64::max),
            samples: samples.clone(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_ratios_within_a_round_so_a_machine_that_slows_down_does_not_change_them() {
        // Every round is twice as slow as the one before; two rows always cost 1.5.
        let times = [vec![1.0, 2.0, 4.0], vec![1.5, 3.0, 6.0]];
        let p = points(&[1, 2], &times);
        assert_eq!((p[0].cost, p[0].ms), (1.0, 2.0));
        assert_eq!((p[1].cost, p[1].cost_min, p[1].cost_max, p[1].ms), (1.5, 1.5, 1.5, 3.0));
    }
}
