//! What a forward pass of so many rows takes, learned from those that ran: the engine's own table of costs.

use serde::Serialize;

/// Widths of 2^i rows up to 2^(i+1) share an entry.
const ENTRIES: usize = 14;
/// A new time counts this part of the mean: some dozens of steps to follow a change of the machine's speed.
const WEIGHT: u64 = 16;

/// Mean rows and time per power of two of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Widths {
    entries: [Entry; ENTRIES],
}

/// Of one power of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Entry {
    steps: u64,
    /// mean rows · 256
    rows: u64,
    /// mean time
    ns: u64,
}

impl Widths {
    /// Learns from a forward pass.
    pub fn learn(&mut self, rows: usize, ns: u64) {
        let Some(power) = rows.checked_ilog2() else { return };
        let entry = &mut self.entries[(power as usize).min(ENTRIES - 1)];
        let weight = (entry.steps + 1).min(WEIGHT);
        let towards = |mean: u64, new: u64| mean - mean / weight + new / weight;
        entry.rows = towards(entry.rows, (rows as u64).min(1 << 32) << 8);
        entry.ns = towards(entry.ns, ns.min(1 << 50));
        entry.steps += 1;
    }

    /// What a forward pass of `rows` rows should take, ns: along the line between the known widths, in proportion
    /// beyond the widest, and no less than the narrowest below it. `None` while nothing has run.
    pub fn step_ns(&self, rows: f64) -> Option<f64> {
        let known =
            || self.entries.iter().filter(|e| e.steps > 0).map(|e| (e.rows as f64 / 256.0, e.ns as f64));
        let below = known().rfind(|p| p.0 <= rows);
        let above = known().find(|p| p.0 > rows);
        match (below, above) {
            (Some((r0, t0)), Some((r1, t1))) => Some(t0 + (t1 - t0) * (rows - r0) / (r1 - r0)),
            (Some((r0, t0)), None) => Some(t0 * (rows / r0).max(1.0)),
            (None, Some((_, t1))) => Some(t1),
            (None, None) => None,
        }
    }

    /// Forward passes learned from.
    pub fn steps(&self) -> u64 {
        self.entries.iter().map(|e| e.steps).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_machine_of_constant_speed_is_foretold_within_a_tenth() {
        // 3 ms to read the weights, 0.2 ms per row.
        let takes = |rows: usize| 3_000_000 + 200_000 * rows as u64;
        let mut w = Widths::default();
        assert_eq!(w.step_ns(1.0), None);
        for round in 0..200usize {
            for rows in [1, 2, 7, 16, 40, 200, 256] {
                w.learn(rows, takes(rows) + (round as u64 % 3) * 1000);
            }
        }
        for rows in [1usize, 4, 8, 16, 30, 128, 256, 400] {
            let (got, want) = (w.step_ns(rows as f64).unwrap(), takes(rows) as f64);
            assert!((got / want - 1.0).abs() < 0.1, "{rows}: {got} {want}");
        }
        assert_eq!(w.steps(), 1400);
    }

    #[test]
    fn a_machine_that_slows_down_is_followed_within_a_hundred_steps() {
        let mut w = Widths::default();
        (0..1000).for_each(|_| w.learn(4, 1_000_000));
        (0..100).for_each(|_| w.learn(4, 2_000_000));
        assert!(w.step_ns(4.0).unwrap() > 1_950_000.0);
    }

    proptest! {
        #[test]
        fn any_history_gives_finite_times(steps in prop::collection::vec((any::<usize>(), any::<u64>()), 0..50), rows in 0f64..1e9) {
            let mut w = Widths::default();
            steps.iter().for_each(|&(r, ns)| w.learn(r, ns));
            prop_assert!(w.step_ns(rows).is_none_or(|t| t.is_finite() && t >= 0.0));
        }
    }
}
