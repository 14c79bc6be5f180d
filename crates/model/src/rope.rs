//! Rotary frequencies: plain, linear (arXiv 2306.15595), Llama 3's bands, YaRN (arXiv 2309.00071).

use std::f64::consts::PI;

use tamp_base::meta::Meta;
use tamp_kernels::device::{Pairing, Rope};

use crate::error::ModelError;
use crate::family::{Family, Shape};

/// How positions beyond the trained context are reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// as trained
    Plain,
    /// every frequency divided by `factor`
    Linear {
        /// the divisor
        factor: f64,
    },
    /// low frequencies divided, high ones kept, the band between blended
    Llama3 {
        /// the divisor of low frequencies
        factor: f64,
        /// wavelengths longer than `original / low` are low
        low: f64,
        /// wavelengths shorter than `original / high` are high
        high: f64,
        /// trained context
        original: f64,
    },
    /// NTK-by-parts with an attention factor
    Yarn {
        /// the divisor
        factor: f64,
        /// trained context
        original: f64,
        /// multiplier of the attention factor
        attention: f64,
        /// rotations above which a dimension is kept
        fast: f64,
        /// rotations below which it is divided
        slow: f64,
    },
}

/// Reads base, scaling and pairing of a model. `factors` are per-pair divisors the file may carry
/// (`rope_freqs.weight`).
pub fn read(
    meta: &Meta,
    family: &Family,
    shape: &Shape,
    factors: Option<&[f32]>,
) -> Result<Rope, ModelError> {
    let key = |k: &str| format!("{}.rope.{k}", family.arch);
    let base = meta.float_opt(&key("freq_base"))?.unwrap_or(10_000.0);
    let dims = meta.count_opt(&key("dimension_count"))?.unwrap_or(shape.head_dim);
    if base <= 1.0 || dims == 0 || dims % 2 != 0 || dims > shape.head_dim {
        return Err(ModelError::Config(format!("rope over {dims} dimensions with base {base}")));
    }
    let number = |k: &str, default: Option<f64>| -> Result<f64, ModelError> {
        let v = meta.float_opt(&key(k))?.or(default);
        v.filter(|&v| v > 0.0)
            .ok_or_else(|| ModelError::Config(format!("{} must be a positive number", key(k))))
    };
    let original = || number("scaling.original_context_length", Some(shape.ctx_train as f64));
    let scaling = match meta.str_opt(&key("scaling.type"))?.unwrap_or("none") {
        "none" => match meta.float_opt(&key("scale_linear"))? {
            Some(f) if f != 1.0 => Scaling::Linear { factor: number("scale_linear", None)? },
            _ => Scaling::Plain,
        },
        "linear" => Scaling::Linear { factor: number("scaling.factor", None)? },
        "llama3" => Scaling::Llama3 {
            factor: number("scaling.factor", None)?,
            low: number("scaling.low_freq_factor", Some(1.0))?,
            high: number("scaling.high_freq_factor", Some(4.0))?,
            original: original()?,
        },
        "yarn" => Scaling::Yarn {
            factor: number("scaling.factor", None)?,
            original: original()?,
            attention: number("scaling.attn_factor", Some(1.0))?,
            fast: number("scaling.yarn_beta_fast", Some(32.0))?,
            slow: number("scaling.yarn_beta_slow", Some(1.0))?,
        },
        other => {
            return Err(ModelError::Config(format!(
                "rope scaling `{other}` is not supported; none, linear, llama3, yarn are"
            )));
        }
    };
    let pairing = match meta.str_opt("tamp.rope.pairing")? {
        None => family.pairing,
        Some("half") => Pairing::Half,
        Some("interleaved") => Pairing::Interleaved,
        Some(other) => return Err(ModelError::Config(format!("rope pairing `{other}`"))),
    };
    let mut rope = rope(base, dims, scaling, pairing);
    if let Some(factors) = factors {
        if factors.len() < rope.freq.len() || factors.iter().any(|f| f.is_nan() || *f <= 0.0) {
            return Err(ModelError::Config(format!("{} rope factors for {dims} dimensions", factors.len())));
        }
        for (f, by) in rope.freq.iter_mut().zip(factors) {
            *f /= *by as f64;
        }
    }
    Ok(rope)
}

/// Frequencies of `dims / 2` pairs: `base^(-2i/dims)`, scaled.
pub fn rope(base: f64, dims: usize, scaling: Scaling, pairing: Pairing) -> Rope {
    let plain = |i: usize| libm::pow(base, -2.0 * i as f64 / dims as f64);
    let mut scale = 1.0;
    let freq = (0..dims / 2)
        .map(|i| {
            let f = plain(i);
            match scaling {
                Scaling::Plain => f,
                Scaling::Linear { factor } => f / factor,
                Scaling::Llama3 { factor, low, high, original } => {
                    let wave = 2.0 * PI / f;
                    if wave < original / high {
                        f
                    } else if wave > original / low {
                        f / factor
                    } else {
                        let t = (original / wave - low) / (high - low);
                        (1.0 - t) * f / factor + t * f
                    }
                }
                Scaling::Yarn { factor, original, attention, fast, slow } => {
                    scale = attention * (1.0 + 0.1 * libm::log(factor));
                    // The pair index at which a dimension makes `turns` rotations over the trained context.
                    let at = |turns: f64| {
                        dims as f64 * libm::log(original / (turns * 2.0 * PI)) / (2.0 * libm::log(base))
                    };
                    let start = at(fast).floor().max(0.0);
                    let end = at(slow).ceil().min(dims as f64 - 1.0);
                    let t = ((i as f64 - start) / (end - start).max(0.001)).clamp(0.0, 1.0);
                    f / factor * t + f * (1.0 - t)
                }
            }
        })
        .collect();
    Rope { freq, scale: scale as f32, pairing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freq(s: Scaling) -> Vec<f64> {
        rope(10_000.0, 64, s, Pairing::Half).freq
    }

    #[test]
    fn plain_frequencies_fall_from_one_by_equal_ratios() {
        let f = freq(Scaling::Plain);
        assert_eq!((f.len(), f[0]), (32, 1.0));
        for w in f.windows(2) {
            assert!((w[1] / w[0] - 10_000f64.powf(-1.0 / 32.0)).abs() < 1e-12);
        }
    }

    #[test]
    fn scalings_keep_fast_pairs_and_divide_slow_ones() {
        let plain = freq(Scaling::Plain);
        let (factor, original) = (8.0, 2048.0);
        let all = [
            freq(Scaling::Llama3 { factor, low: 1.0, high: 4.0, original }),
            freq(Scaling::Yarn { factor, original, attention: 1.0, fast: 32.0, slow: 1.0 }),
        ];
        for f in all {
            assert!((f[0] - plain[0]).abs() < 1e-12, "the fastest pair is kept");
            assert!((f[31] - plain[31] / factor).abs() < 1e-12, "the slowest is divided");
            assert!(f.iter().zip(&plain).all(|(a, b)| *a <= b * 1.0000001 && *a >= b / factor * 0.9999999));
            assert!(f.windows(2).all(|w| w[1] < w[0]));
        }
        let linear = freq(Scaling::Linear { factor });
        assert!(linear.iter().zip(&plain).all(|(a, b)| (a * factor - b).abs() < 1e-12));
    }

    #[test]
    fn yarn_scales_attention_by_its_factor() {
        let s = Scaling::Yarn { factor: 4.0, original: 4096.0, attention: 1.0, fast: 32.0, slow: 1.0 };
        assert!((rope(1e6, 128, s, Pairing::Half).scale - (1.0 + 0.1 * 4f32.ln())).abs() < 1e-6);
    }
}
