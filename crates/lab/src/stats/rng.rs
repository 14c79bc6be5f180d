//! The one generator of the statistics: SplitMix64 (Steele, Lea, Flood 2014). Small, seekable by key, the same anywhere.

use super::dist::normal_quantile;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The stream of (seed, key): those of different keys have nothing to do with each other.
    pub fn keyed(seed: u64, key: u64) -> Rng {
        Rng(mix(mix(seed.wrapping_add(GOLDEN)) ^ key.wrapping_mul(GOLDEN)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in (0, 1), never an end.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Uniform in `0..n`; 0 when `n` is 0. Off by at most n / 2⁶⁴, which no test here could see.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        normal_quantile(self.unit())
    }

    /// A random permutation in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first outputs for seed 1234567 as published with the reference implementation.
        let mut r = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| r.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_normal_has_its_moments() {
        let mut r = Rng::keyed(3, 9);
        let n = 200_000;
        let (mut s, mut ss, mut far) = (0.0, 0.0, 0);
        for _ in 0..n {
            let x = r.normal();
            s += x;
            ss += x * x;
            far += usize::from(x.abs() > 1.959_963_985);
        }
        let n = f64::from(n);
        // five standard errors each
        assert!((s / n).abs() < 5.0 / n.sqrt());
        assert!((ss / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!((far as f64 / n - 0.05).abs() < 5.0 * (0.05 * 0.95 / n).sqrt());
    }

    #[test]
    fn a_shuffle_reaches_every_order_equally_often() {
        let mut seen = std::collections::BTreeMap::new();
        let mut r = Rng::new(1);
        for _ in 0..6000 {
            let mut v = [0, 1, 2];
            r.shuffle(&mut v);
            *seen.entry(v).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|&n: &i32| (n - 1000).abs() < 150), "{seen:?}");
    }
}
