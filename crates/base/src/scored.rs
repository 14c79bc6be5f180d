//! What a process can tell of its output's quality beyond the tokens it chose: how likely it finds a pinned text, how far
//! its distributions are from a reference's, which answers it prefers to graded items. Raw figures only; the lab makes
//! bounds and intervals of them.

use serde::{Deserialize, Serialize};

/// Measured by `tamp bench sample` beside its requests. Figures are whole numbers of 10⁻⁹ nats, so that they come out of
/// a file as they went in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// why it could not be measured; the other fields are then empty
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// blake3 of the pinned text's token ids as little-endian u32; empty when no text was scored
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// bytes of text that the scored tokens stand for
    #[serde(default)]
    pub bytes: u64,
    /// −ln p of each scored token, given all before it, 10⁻⁹ nats
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nll: Vec<i64>,
    /// the token this process finds likeliest at each scored position
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<u32>,
    /// blake3 of the reference that was written; empty when none was
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kept: String,
    /// blake3 of the reference that was read; empty when none was
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub against: String,
    /// KL(reference ‖ this process) at each scored position, over the whole vocabulary, 10⁻⁹ nats
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kl: Vec<i64>,
    /// blake3 of the graded items; empty when they were not asked
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub task: String,
    /// by item, how much likelier the right answer is than the likeliest wrong one, 10⁻⁹ nats; right when above 0
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub margins: Vec<i64>,
}

/// Nats as [`Scored`] holds them. What is not finite becomes the largest number of its sign, a NaN 0.
pub fn nano(nats: f64) -> i64 {
    (nats * 1e9).round() as i64
}

/// ln softmax of logits, in f64.
///
/// # Errors
/// A NaN, +∞, or nothing but −∞: no distribution.
pub fn log_softmax(logits: &[f32]) -> Result<Vec<f64>, String> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return Err(format!("{} logits with the maximum {max} are no distribution", logits.len()));
    }
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum();
    let ln = sum.ln() + max;
    Ok(logits.iter().map(|&l| f64::from(l) - ln).collect())
}

/// KL(p ‖ q) in nats of two distributions given by their logarithms, p in `p`. Rounding below 0 is 0; ∞ where q excludes
/// what p allows.
pub fn kl(p: &[f64], q: &[f64]) -> f64 {
    let terms = p.iter().zip(q).filter(|(p, _)| p.is_finite());
    terms.map(|(&p, &q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_known_distributions_is_known_and_of_equal_ones_nothing() {
        let ln = |p: &[f64]| p.iter().map(|x| x.ln()).collect::<Vec<_>>();
        let (p, q) = (ln(&[0.5, 0.5]), ln(&[0.25, 0.75]));
        let want = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl(&p, &q) - want).abs() < 1e-12);
        assert!((kl(&q, &p) - want).abs() > 1e-3, "it is not symmetric");
        assert_eq!(kl(&p, &p), 0.0);
        // What p excludes costs nothing; what q excludes and p allows has no price.
        assert!((kl(&ln(&[0.0, 1.0]), &q) - (1.0f64 / 0.75).ln()).abs() < 1e-12);
        assert_eq!(kl(&q, &ln(&[0.0, 1.0])), f64::INFINITY);
        assert_eq!((nano(f64::INFINITY), nano(f64::NAN), nano(1.5e-9)), (i64::MAX, 0, 2));
    }

    #[test]
    fn logits_become_a_distribution_wherever_they_are_and_never_out_of_nonsense() {
        for shift in [-1e4f32, 0.0, 1e4] {
            let l = log_softmax(&[shift, shift + 1.0, f32::NEG_INFINITY]).unwrap();
            assert!((l.iter().map(|x| x.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!((l[1] - l[0] - 1.0).abs() < 1e-9 && l[2] == f64::NEG_INFINITY);
        }
        for bad in [&[][..], &[f32::NAN, 1.0], &[f32::INFINITY], &[f32::NEG_INFINITY]] {
            assert!(log_softmax(bad).is_err(), "{bad:?}");
        }
    }
}
