//! Order statistics over raw samples, and the work between two readings of the counters.

use tamp_base::count::Work;

/// The `p`-quantile (0…1) by nearest rank; 0 without samples.
pub fn quantile(samples: &[f64], p: f64) -> f64 {
    let mut s: Vec<f64> = samples.to_vec();
    s.sort_by(f64::total_cmp);
    let rank = (p * s.len() as f64).ceil() as usize;
    s.get(rank.clamp(1, s.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// The middle of the samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// Nanoseconds as milliseconds.
pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Work done between two readings.
pub fn since(after: Work, before: Work) -> Work {
    Work {
        target_forwards: after.target_forwards - before.target_forwards,
        target_positions: after.target_positions - before.target_positions,
        layers: after.layers - before.layers,
        weight_bytes: after.weight_bytes - before.weight_bytes,
        kv_bytes_spared: after.kv_bytes_spared - before.kv_bytes_spared,
        draft_tested: after.draft_tested - before.draft_tested,
        draft_accepted: after.draft_accepted - before.draft_accepted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_by_rank() {
        let s = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((median(&s), quantile(&s, 0.95), quantile(&s, 0.0), median(&[])), (3.0, 5.0, 1.0, 0.0));
        let many: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&many, 0.95), quantile(&many, 0.99)), (95.0, 99.0));
    }
}
