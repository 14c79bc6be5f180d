//! How many workers a run gets when another process has taken a core.
//!
//! A worker without a processor holds up every barrier for a scheduler's slice (milliseconds). When the time lost this
//! way is more than the worker's own contribution, runs do without it for a while, then try again.

use std::time::{Duration, Instant};

/// Stalls are judged over at least this time: several slices of the scheduler.
const WINDOW: Duration = Duration::from_millis(40);
/// A worker rests this long at first...
const REST: Duration = Duration::from_millis(250);
/// ... twice as long each time it comes back to the same trouble, and at most this long.
const LONGEST_REST: Duration = Duration::from_secs(4);

pub(super) struct Governor {
    /// Workers of the next run.
    pub active: usize,
    all: usize,
    /// Whether nobody ever rests.
    pub steady: bool,
    /// Time lost per slot in the present window.
    lost: Vec<Duration>,
    /// When the present window began.
    since: Option<Instant>,
    rest: Duration,
    /// When one more worker is let in.
    until: Option<Instant>,
    /// When the last rest ended.
    woke: Option<Instant>,
}

impl Governor {
    pub fn new(all: usize) -> Self {
        let lost = vec![Duration::ZERO; all];
        Self { active: all, all, steady: false, lost, since: None, rest: REST, until: None, woke: None }
    }

    /// Whether some workers are left out now.
    pub fn resting(&self) -> bool {
        self.active < self.all
    }

    /// Lets one worker back in when its time has come.
    pub fn wake(&mut self, now: Instant) {
        if self.until.is_some_and(|t| now >= t) {
            self.active = (self.active + 1).min(self.all);
            self.woke = Some(now);
            self.until = self.resting().then(|| now + self.rest);
            self.clear();
        }
    }

    /// Time lost in the last run because the worker of `slot` had no processor.
    pub fn note(&mut self, slot: usize, lost: Duration) {
        if let Some(sum) = self.lost.get_mut(slot) {
            *sum += lost;
        }
    }

    /// Called after `note`. When too much of the time since the first stall was lost, takes one worker out of
    /// `active` and names the slot that caused most of it.
    pub fn judge(&mut self, now: Instant) -> Option<usize> {
        let lost: Duration = self.lost.iter().sum();
        if lost.is_zero() || self.active <= 1 || self.steady {
            self.clear();
            return None;
        }
        let since = *self.since.get_or_insert(now.checked_sub(lost).unwrap_or(now));
        let passed = now.saturating_duration_since(since);
        if passed < WINDOW {
            return None;
        }
        let culprit = (0..self.lost.len()).max_by_key(|&s| self.lost[s])?;
        self.clear();
        // n workers that lose a share f of the time do (1 − f)·n, one fewer does n − 1; somewhat less than f = 1/n,
        // because work bound by memory gains less than n from n workers.
        if lost * (self.active as u32 + 1) < passed {
            return None;
        }
        let relapse = self.woke.is_some_and(|w| now.saturating_duration_since(w) < 4 * WINDOW);
        self.rest = if relapse { (self.rest * 2).min(LONGEST_REST) } else { REST };
        self.active -= 1;
        self.until = Some(now + self.rest);
        Some(culprit)
    }

    fn clear(&mut self) {
        self.lost.fill(Duration::ZERO);
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs of 2 ms with `lost` of them lost to `slot`, for `time`; the culprits named.
    fn live(g: &mut Governor, now: &mut Instant, time: Duration, slot: usize, lost: Duration) -> Vec<usize> {
        let end = *now + time;
        let mut named = vec![];
        while *now < end {
            *now += 2 * MS;
            if g.resting() {
                g.wake(*now);
            }
            if g.active > slot && !lost.is_zero() {
                g.note(slot, lost);
                named.extend(g.judge(*now));
            }
        }
        named
    }

    #[test]
    fn a_worker_that_costs_more_than_it_gives_rests_and_comes_back() {
        let mut g = Governor::new(2);
        let mut now = Instant::now() + LONGEST_REST;
        assert_eq!(live(&mut g, &mut now, 100 * MS, 1, MS), [1]);
        assert_eq!(g.active, 1);
        live(&mut g, &mut now, REST, 1, Duration::ZERO);
        assert_eq!(g.active, 2);
        assert!(live(&mut g, &mut now, 1000 * MS, 1, Duration::ZERO).is_empty());
        assert!(!g.resting());
    }

    #[test]
    fn rare_stalls_cost_nobody_their_place() {
        let mut g = Governor::new(4);
        let mut now = Instant::now() + LONGEST_REST;
        assert!(live(&mut g, &mut now, 1000 * MS, 2, MS / 10).is_empty());
        assert_eq!(g.active, 4);
    }

    #[test]
    fn lasting_trouble_is_tried_ever_more_rarely() {
        let mut g = Governor::new(2);
        let mut now = Instant::now() + LONGEST_REST;
        let first = live(&mut g, &mut now, 2000 * MS, 1, 2 * MS).len();
        let later = live(&mut g, &mut now, 30_000 * MS, 1, 2 * MS).len();
        assert!((2..=4).contains(&first), "{first}");
        assert!((5..=10).contains(&later), "{later}");
    }

    #[test]
    fn a_steady_pool_keeps_everybody() {
        let mut g = Governor::new(2);
        g.steady = true;
        let mut now = Instant::now() + LONGEST_REST;
        assert!(live(&mut g, &mut now, 1000 * MS, 1, 2 * MS).is_empty());
        assert_eq!(g.active, 2);
    }

    #[test]
    fn one_worker_always_remains() {
        let mut g = Governor::new(3);
        let mut now = Instant::now() + LONGEST_REST;
        for _ in 0..1000 {
            now += 2 * MS;
            g.note(0, 2 * MS);
            g.judge(now);
            assert!(g.active >= 1);
        }
        assert_eq!(g.active, 1);
        g.note(99, MS);
    }
}
