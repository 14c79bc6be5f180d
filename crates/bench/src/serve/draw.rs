//! Random numbers of a load: SplitMix64 (Steele, Lea, Flood 2014), keyed, so that request `i` of a seed is the same
//! whatever was drawn before it.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of (seed, key): those of different keys have nothing to do with each other.
    pub fn keyed(seed: u64, key: u64) -> Draw {
        Draw(mix(mix(seed.wrapping_add(GOLDEN)) ^ key.wrapping_mul(GOLDEN)))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in (0, 1), never an end.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Uniform in `lo..=hi`.
    pub fn within(&mut self, (lo, hi): (usize, usize)) -> usize {
        lo + self.below(hi.saturating_sub(lo) + 1)
    }

    /// An index by weights that are finite and not negative; 0 when all are 0.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut at = self.unit() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            at -= w;
            if at < 0.0 {
                return i;
            }
        }
        0
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Gamma of a shape above 0, with mean 1 (Marsaglia and Tsang 2000).
    pub fn gamma(&mut self, shape: f64) -> f64 {
        // Shapes below 1 are made from the next higher one.
        let (grown, boost) =
            if shape < 1.0 { (shape + 1.0, self.unit().powf(1.0 / shape)) } else { (shape, 1.0) };
        let d = grown - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v * boost / shape;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mut f: impl FnMut(&mut Draw) -> f64) -> (f64, f64) {
        let (mut r, n) = (Draw::keyed(5, 0), 200_000);
        let v: Vec<f64> = (0..n).map(|_| f(&mut r)).collect();
        let mean = v.iter().sum::<f64>() / f64::from(n);
        (mean, v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n))
    }

    #[test]
    fn gamma_and_exponential_have_mean_1_and_the_variance_of_their_shape() {
        for shape in [0.25, 0.5, 1.0, 4.0] {
            let (mean, variance) = moments(|r| r.gamma(shape));
            assert!((mean - 1.0).abs() < 0.03, "{shape}: mean {mean}");
            assert!((variance * shape - 1.0).abs() < 0.06, "{shape}: variance {variance}");
        }
        let (mean, variance) = moments(Draw::exponential);
        assert!((mean - 1.0).abs() < 0.02 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
    }

    #[test]
    fn weights_and_ranges_are_met_and_their_ends_are_reached() {
        let mut r = Draw::keyed(1, 2);
        let mut seen = [0; 3];
        (0..30_000).for_each(|_| seen[r.weighted(&[10.0, 0.0, 1.0])] += 1);
        assert!(seen[1] == 0 && (seen[0] as f64 / seen[2] as f64 - 10.0).abs() < 1.0, "{seen:?}");
        let drawn: std::collections::BTreeSet<usize> = (0..1000).map(|_| r.within((3, 6))).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }

    #[test]
    fn a_draw_depends_on_seed_and_key_alone() {
        let first = |seed, key| Draw::keyed(seed, key).bits();
        assert_eq!(first(7, 3), first(7, 3));
        assert!(first(7, 3) != first(7, 4) && first(7, 3) != first(8, 3));
    }
}
