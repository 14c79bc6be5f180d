//! Gumbel noise as a pure function of (seed, choice, position, token).
//!
//! Nothing is drawn from a stream, so the noise a token meets does not depend on what was batched, drafted or
//! recomputed around it. Draft and target share it (drafter-invariant speculative decoding, arXiv 2408.07978).

use tamp_base::ids::Token;

/// Weyl increment of SplitMix64: 2^64 / golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Stafford's variant 13): a bijection that passes BigCrush over counters.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The noise of one choice of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    key: u64,
}

/// The noise of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    key: u64,
}

impl Noise {
    /// `choice` is the index of the answer when a request wants several.
    pub fn new(seed: u64, choice: u32) -> Noise {
        Noise {
            key: mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(u64::from(choice).wrapping_mul(GOLDEN))),
        }
    }

    /// The noise for choosing the token at `position`, counted from the start of the prompt.
    pub fn at(&self, position: usize) -> Row {
        let counter = (position as u64).wrapping_add(1).wrapping_mul(GOLDEN);
        Row { key: mix(mix(self.key ^ counter).wrapping_add(self.key)) }
    }
}

impl Row {
    /// 64 uniform bits.
    pub fn bits(&self, token: Token) -> u64 {
        mix(self.key.wrapping_add(u64::from(token).wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// A uniform number strictly between 0 and 1 for a choice that is not one of tokens; independent of every token's bits.
    pub fn coin(&self) -> f64 {
        // Another key, so that no token's counter meets it.
        uniform(mix(mix(self.key ^ 0x636f_696e_2066_6c69).wrapping_add(GOLDEN)))
    }

    /// Standard Gumbel noise of a token.
    pub fn gumbel(&self, token: Token) -> f64 {
        gumbel(self.bits(token))
    }
}

/// `-ln(-ln u)` with u from the upper 52 bits, strictly between 0 and 1. The logarithm is `libm`'s, in software, so
/// that the bits do not depend on the platform.
pub(crate) fn gumbel(bits: u64) -> f64 {
    -libm::log(-libm::log(uniform(bits)))
}

/// Strictly between 0 and 1.
fn uniform(bits: u64) -> f64 {
    // 52 bits, not 53: the half keeps u off both ends and still fits the significand.
    ((bits >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
}

/// `BOUND(n)`: no bits with exactly `n` leading ones have a Gumbel value above it.
pub(crate) fn bounds() -> [f64; 65] {
    // n leading ones, then a zero: u < 1 - 2^-(n+1). The margin covers the rounding of both logarithms.
    std::array::from_fn(|n| -libm::log(-libm::log1p(-libm::exp2(-(n.min(53) as f64 + 1.0)))) + 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// χ² statistic of counts against equal expectation.
    fn chi2(counts: &[u64]) -> f64 {
        let n: u64 = counts.iter().sum();
        let e = n as f64 / counts.len() as f64;
        counts.iter().map(|&c| (c as f64 - e) * (c as f64 - e) / e).sum()
    }

    /// 255 degrees of freedom: mean 255, sd 22.6; six sd either way.
    fn uniform(counts: &[u64]) -> bool {
        assert_eq!(counts.len(), 256);
        (119.0..391.0).contains(&chi2(counts))
    }

    type Axis = fn(u64) -> u64;

    const AXES: [(&str, Axis); 5] = [
        ("seed", |i| Noise::new(i, 0).at(7).bits(11)),
        ("choice", |i| Noise::new(3, i as u32).at(7).bits(11)),
        ("position", |i| Noise::new(3, 0).at(i as usize).bits(11)),
        ("token", |i| Noise::new(3, 0).at(7).bits(i as u32)),
        // 52 bits, moved to the top: the lowest byte is filled from elsewhere
        ("coin", |i| {
            let u = Noise::new(3, 0).at(i as usize).coin();
            let bits = (u * (1u64 << 52) as f64) as u64;
            bits << 12 | bits >> 40
        }),
    ];

    #[test]
    fn every_byte_is_uniform_along_every_axis() {
        for (name, axis) in AXES {
            for byte in 0..8 {
                let mut counts = [0u64; 256];
                (0..1 << 16).for_each(|i| counts[(axis(i) >> (8 * byte)) as usize & 255] += 1);
                assert!(uniform(&counts), "{name}, byte {byte}: χ² = {}", chi2(&counts));
            }
        }
    }

    #[test]
    fn neighbours_are_independent_along_every_axis() {
        for (name, axis) in AXES {
            for lag in [1, 2, 16, 1024] {
                // top and bottom nibbles of both, as pairs
                for shift in [0, 60] {
                    let mut counts = [0u64; 256];
                    for i in 0..1 << 16 {
                        let pair = ((axis(i) >> shift) & 15) << 4 | ((axis(i + lag) >> shift) & 15);
                        counts[pair as usize] += 1;
                    }
                    assert!(uniform(&counts), "{name}, lag {lag}, shift {shift}: χ² = {}", chi2(&counts));
                }
            }
        }
    }

    #[test]
    fn one_flipped_input_bit_flips_half_the_output() {
        for (name, axis) in AXES {
            for bit in 0..16 {
                let n = 2048u64;
                let flips: u32 =
                    (0..n).map(|i| (axis(i * 977) ^ axis((i * 977) ^ (1 << bit))).count_ones()).sum();
                let mean = f64::from(flips) / n as f64;
                // sd of the mean: 4 / sqrt(2048) = 0.088
                assert!((mean - 32.0).abs() < 0.6, "{name}, bit {bit}: {mean} of 64 bits flip");
            }
        }
    }

    #[test]
    fn the_noise_is_gumbel() {
        let row = Noise::new(5, 0).at(0);
        let n = 1 << 18;
        let g: Vec<f64> = (0..n).map(|t| row.gumbel(t)).collect();
        let mean = g.iter().sum::<f64>() / f64::from(n);
        let var = g.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / f64::from(n);
        assert!((mean - 0.577_215_66).abs() < 0.015, "mean {mean}");
        assert!((var - 1.644_934).abs() < 0.04, "variance {var}");
        assert!(gumbel(u64::MAX).is_finite() && gumbel(0).is_finite());
    }

    #[test]
    fn the_bits_are_the_same_on_every_platform() {
        let row = Noise::new(42, 1).at(1000);
        assert_eq!(row.bits(0), 0xda3f4a1159193c1c);
        assert_eq!(row.gumbel(31).to_bits(), 0xbff064c101edf3bd, "{}", row.gumbel(31));
    }

    #[test]
    fn no_value_exceeds_the_bound_of_its_leading_ones() {
        let bounds = bounds();
        for n in 0..64u32 {
            let largest = !(1u64 << (63 - n));
            assert_eq!(largest.leading_ones(), n);
            assert!(gumbel(largest) <= bounds[n as usize], "{n}");
        }
        assert!(gumbel(u64::MAX) <= bounds[64]);
    }
}
