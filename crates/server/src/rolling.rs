//! Counts over the last while: a ring of time slices, so that what is old falls off without a list of what happened.

use std::time::Duration;

/// A ring of slices, each of equal length; the newest fills, the oldest is cleared when time comes round to it.
#[derive(Clone, Debug)]
pub struct Ring<S> {
    slices: Vec<S>,
    each: Duration,
    /// number of the newest slice since time began
    newest: u64,
}

/// What a slice holds.
pub trait Slice {
    /// Forgets everything.
    fn clear(&mut self);
}

impl<S: Slice + Clone> Ring<S> {
    /// A window of `slices` times `each`; both at least 1.
    pub fn new(empty: S, slices: usize, each: Duration) -> Ring<S> {
        Ring { slices: vec![empty; slices.max(1)], each: each.max(Duration::from_nanos(1)), newest: 0 }
    }

    fn number(&self, now: Duration) -> u64 {
        (now.as_nanos() / self.each.as_nanos()).min(u128::from(u64::MAX)) as u64
    }

    /// The slice that is filling. A time before the newest slice counts into the newest.
    pub fn at(&mut self, now: Duration) -> &mut S {
        let number = self.number(now);
        let len = self.slices.len() as u64;
        let fresh = number.saturating_sub(self.newest);
        for i in 0..fresh.min(len) {
            self.slices[((number - i) % len) as usize].clear();
        }
        self.newest = self.newest.max(number);
        &mut self.slices[(self.newest % len) as usize]
    }

    /// The slices of the last `window` before `now`, the one that is filling included; nothing is changed.
    pub fn last(&self, now: Duration, window: Duration) -> impl Iterator<Item = &S> {
        let len = self.slices.len() as u64;
        let number = self.number(now).max(self.newest);
        let want = window.as_nanos().div_ceil(self.each.as_nanos()).clamp(1, u128::from(len)) as u64;
        // Of the last `want` numbers up to `number`, those the ring still holds end at `newest`.
        let first = (number + 1).saturating_sub(want);
        let oldest = (self.newest + 1).saturating_sub(len);
        (first.max(oldest)..=self.newest).map(move |n| &self.slices[(n % len) as usize])
    }

    /// The whole window.
    pub fn window(&self) -> Duration {
        self.each * self.slices.len() as u32
    }
}

/// Steps per doubling: a time is told within 1/32 of itself.
const STEPS: u64 = 32;
/// Longest time that is told apart, microseconds: above an hour.
const LONGEST: u64 = (1 << 32) - 1;
const CELLS: usize = 32 * 28;

/// Times of one slice as a histogram of equal relative width: one addition per time, no arithmetic but shifts.
#[derive(Clone, Debug)]
pub struct Times {
    cells: Box<[u32]>,
    count: u64,
}

impl Default for Times {
    fn default() -> Self {
        Times { cells: vec![0; CELLS].into(), count: 0 }
    }
}

fn cell(us: u64) -> usize {
    let us = us.min(LONGEST);
    let shift = us.max(1).ilog2().saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (us >> shift)) as usize
}

/// The longest time of a cell, microseconds.
fn longest(cell: usize) -> u64 {
    let (cell, steps) = (cell as u64, STEPS);
    let shift = (cell / steps).saturating_sub(1);
    ((cell - shift * steps + 1) << shift) - 1
}

impl Times {
    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(LONGEST);
        let cell = &mut self.cells[cell(us)];
        *cell = cell.saturating_add(1);
        self.count += 1;
    }

    /// Times counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another slice's times.
    pub fn merge(&mut self, other: &Times) {
        for (a, b) in self.cells.iter_mut().zip(&other.cells) {
            *a = a.saturating_add(*b);
        }
        self.count += other.count;
    }

    /// The time that `share` of the times do not exceed, rounded up by at most 1/32; `None` without times.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        self.cells.iter().enumerate().find_map(|(i, &n)| {
            seen += u64::from(n);
            (seen >= rank).then(|| Duration::from_micros(longest(i)))
        })
    }
}

impl Slice for Times {
    fn clear(&mut self) {
        if self.count > 0 {
            self.cells.fill(0);
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Vec<u64>);

    impl Slice for Seen {
        fn clear(&mut self) {
            self.0.clear();
        }
    }

    proptest! {
        #[test]
        fn a_ring_holds_what_a_list_with_times_would(
            steps in prop::collection::vec((0u64..30, any::<bool>()), 0..80), slices in 1usize..7, window in 1u64..60,
        ) {
            let each = Duration::from_millis(10);
            let mut ring = Ring::new(Seen::default(), slices, each);
            let (mut all, mut ms) = (Vec::<(u64, u64)>::new(), 0);
            for (i, &(wait, record)) in steps.iter().enumerate() {
                ms += wait;
                if record {
                    ring.at(Duration::from_millis(ms)).0.push(i as u64);
                    all.push((ms / 10, i as u64));
                }
            }
            let want = window.div_ceil(10).clamp(1, slices as u64);
            let now = Duration::from_millis(ms);
            let mut got: Vec<u64> =
                ring.last(now, Duration::from_millis(window)).flat_map(|s| s.0.clone()).collect();
            got.sort_unstable();
            let kept: Vec<u64> = all.iter().filter(|(n, _)| n + want > ms / 10).map(|&(_, i)| i).collect();
            prop_assert_eq!(got, kept);
        }

        #[test]
        fn a_quantile_is_the_sorted_lists_within_a_thirty_second(
            times in prop::collection::vec(0u64..5_000_000_000, 1..200), share in 0.0f64..=1.0,
        ) {
            let mut h = Times::default();
            times.iter().for_each(|&us| h.add(Duration::from_micros(us)));
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let rank = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let want = sorted[rank - 1].min(LONGEST);
            let got = h.quantile(share).unwrap().as_micros() as u64;
            prop_assert!(got >= want && got <= want + want / 32 + 1, "{got} {want}");
        }

        #[test]
        fn every_time_lies_in_its_cell(us: u64) {
            let c = cell(us);
            prop_assert!(c < CELLS);
            prop_assert!(us.min(LONGEST) <= longest(c));
            prop_assert!(c == 0 || longest(c - 1) < us.min(LONGEST));
        }
    }

    #[test]
    fn no_times_have_no_quantile() {
        assert_eq!(Times::default().quantile(0.99), None);
    }
}
