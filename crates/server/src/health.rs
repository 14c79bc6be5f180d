//! How the server does: rolling windows of waiting time, time to first token, time between tokens, whole time and
//! failures, judged against the operator's limits.
//!
//! A limit is broken when more than 1 % of the window's times exceed it, by more than chance would explain. Recording
//! adds to counters; nothing is sorted until somebody asks for a quantile.

use std::time::Duration;

use serde::Serialize;
use tamp_base::card::{Card, Effect, Knob, KnobKind, Knobs};

use crate::rolling::{Ring, Slice, Times};

const fn limit(name: &'static str, about: &'static str, default: &'static str) -> Knob {
    Knob { name, about, kind: KnobKind::Int(0, 86_400_000), default }
}

/// The card of [`Health`].
pub static CARD: Card = Card {
    name: "monitor",
    aka: "InferenceHealthMonitor (wave 21/22)",
    about: "rolling p99 of queue, first token, token and whole times, and the share of failures, against limits",
    paper: "",
    claim: "incident detection: rolling-window p99/error",
    effect: Effect::Service,
    needs: &[],
    knobs: &[
        Knob {
            name: "window_s",
            about: "seconds that are looked back",
            kind: KnobKind::Int(2, 3600),
            default: "30",
        },
        limit("queue_ms", "p99 of the wait for the first forward pass, ms; 0 = no limit", "5000"),
        limit("ttft_ms", "p99 of the time to the first token, ms; 0 = no limit", "10000"),
        limit("itl_ms", "p99 of the time between two tokens, ms; 0 = no limit", "1000"),
        limit("e2e_ms", "p99 of the whole time, ms; 0 = no limit", "0"),
        Knob {
            name: "errors",
            about: "share of requests that may fail through the server's fault",
            kind: KnobKind::Float(0.0, 1.0),
            default: "0.02",
        },
        Knob {
            name: "bad",
            about: "so many times a limit is bad instead of degraded",
            kind: KnobKind::Float(1.0, 1000.0),
            default: "3",
        },
    ],
};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// receipt → first forward pass
    Queue,
    /// receipt → first token
    Ttft,
    /// token → token
    Itl,
    /// receipt → end
    E2e,
}

impl Metric {
    /// All, in order.
    pub const ALL: [Metric; 4] = [Metric::Queue, Metric::Ttft, Metric::Itl, Metric::E2e];

    /// In sentences and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Queue => "queue",
            Metric::Ttft => "ttft",
            Metric::Itl => "itl",
            Metric::E2e => "e2e",
        }
    }
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// within every limit
    #[default]
    Ok,
    /// beyond one
    Degraded,
    /// far beyond one
    Bad,
}

/// A judgement and its reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Judgement {
    /// the worst of all limits
    pub state: State,
    /// one sentence about it; empty when all is well
    pub reason: String,
    /// the limit it is about is one that load breaks, so that fewer requests would help
    pub by_load: bool,
}

/// The share of times that may exceed a limit called p99.
const P99: f64 = 0.01;
const SLICES: u32 = 30;
const METRICS: usize = Metric::ALL.len();

/// How many there were, how many beyond the limit, how many far beyond.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: u64,
    over: u64,
    far: u64,
}

#[derive(Clone, Default)]
struct Life {
    times: [Times; METRICS],
    tallies: [Tally; METRICS],
    ended: u64,
    failed: u64,
}

impl Slice for Life {
    fn clear(&mut self) {
        self.times.iter_mut().for_each(Times::clear);
        (self.tallies, self.ended, self.failed) = Default::default();
    }
}

/// Keeps the windows. Whoever shares it puts a lock around it: recording takes some ten nanoseconds.
#[derive(Clone)]
pub struct Health {
    ring: Ring<Life>,
    /// nanoseconds, `u64::MAX` without a limit
    limits: [u64; METRICS],
    far: f64,
    errors: f64,
}

/// Whether `seen` of `all` is more than `share` by more than chance: three deviations and two to spare, so that a
/// handful of requests proves nothing unless all of them are slow.
fn beyond(seen: u64, all: u64, share: f64) -> bool {
    let expected = share * all as f64;
    seen as f64 > expected + 3.0 * expected.sqrt() + 2.0
}

impl Health {
    /// With the limits of its card.
    pub fn new(knobs: &Knobs) -> Health {
        let window = Duration::from_secs(knobs.int("window_s").max(1) as u64);
        let limits = Metric::ALL.map(|m| match knobs.int(&format!("{}_ms", m.name())) {
            0 => u64::MAX,
            ms => ms.unsigned_abs() * 1_000_000,
        });
        let ring = Ring::new(Life::default(), SLICES as usize, window / SLICES);
        Health { ring, limits, far: knobs.float("bad"), errors: knobs.float("errors") }
    }

    /// A time of a request.
    pub fn time(&mut self, now: Duration, metric: Metric, time: Duration) {
        let i = metric as usize;
        let (limit, ns) = (self.limits[i], u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let far = ns as f64 > limit as f64 * self.far;
        let life = self.ring.at(now);
        life.times[i].add(time);
        let tally = &mut life.tallies[i];
        tally.all += 1;
        tally.over += u64::from(ns > limit);
        tally.far += u64::from(far);
    }

    /// A request ended; `failed`: through the server's fault, not the caller's.
    pub fn end(&mut self, now: Duration, failed: bool) {
        let life = self.ring.at(now);
        life.ended += 1;
        life.failed += u64::from(failed);
    }

    /// How it goes. Asking changes nothing.
    pub fn judge(&self, now: Duration) -> Judgement {
        let mut sums = [Tally::default(); METRICS];
        let (mut ended, mut failed) = (0, 0);
        for life in self.ring.last(now, self.ring.window()) {
            for (sum, t) in sums.iter_mut().zip(&life.tallies) {
                (sum.all, sum.over, sum.far) = (sum.all + t.all, sum.over + t.over, sum.far + t.far);
            }
            (ended, failed) = (ended + life.ended, failed + life.failed);
        }
        let mut worst = Judgement::default();
        for (m, sum) in Metric::ALL.into_iter().zip(sums) {
            let state = match (beyond(sum.far, sum.all, P99), beyond(sum.over, sum.all, P99)) {
                (true, _) => State::Bad,
                (_, true) => State::Degraded,
                _ => State::Ok,
            };
            if state > worst.state {
                let limit = Duration::from_nanos(self.limits[m as usize]);
                let reason = format!(
                    "{} of {} {} times of the last {} s exceed {} ms",
                    sum.over,
                    sum.all,
                    m.name(),
                    self.ring.window().as_secs(),
                    limit.as_millis()
                );
                worst = Judgement { state, reason, by_load: true };
            }
        }
        let state = match [self.errors * self.far, self.errors].map(|e| beyond(failed, ended, e.min(1.0))) {
            [true, _] => State::Bad,
            [_, true] => State::Degraded,
            _ => State::Ok,
        };
        if state > worst.state {
            let window = self.ring.window().as_secs();
            let reason = format!("{failed} of {ended} requests of the last {window} s failed");
            worst = Judgement { state, reason, by_load: false };
        }
        worst
    }

    /// Whether a newcomer should be sent away: load has made things bad, and others wait already. Without a queue
    /// nobody is: the window alone would refuse long after the load is gone.
    pub fn sheds(&self, now: Duration, waiting: usize) -> bool {
        waiting > 0 && {
            let j = self.judge(now);
            j.state == State::Bad && j.by_load
        }
    }

    /// The times of the window.
    pub fn times(&self, now: Duration, metric: Metric) -> Times {
        let mut all = Times::default();
        self.ring.last(now, self.ring.window()).for_each(|l| all.merge(&l.times[metric as usize]));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamp_base::settings::Settings;

    use super::*;

    fn health(sets: &[&str]) -> Health {
        let mut s = Settings::default();
        sets.iter().for_each(|x| s.add_set(&format!("server.health.monitor.{x}"), "test").unwrap());
        Health::new(&Knobs::read("server.health", &CARD, &s).unwrap())
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Exponential with this mean, from a counter.
    fn exponential(n: u64, mean_ms: f64) -> Duration {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let u = ((x >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        Duration::from_secs_f64(-u.min(1.0).ln() * mean_ms / 1000.0)
    }

    #[test]
    fn a_step_overload_is_seen_within_five_seconds_and_forgotten_after_the_window() {
        let mut h = health(&["ttft_ms=1000"]);
        let mut seen = None;
        for i in 0..2400u64 {
            // 10 requests a second; from second 60 to 120 each takes 4 s instead of 0.1 s.
            let now = ms(i * 100);
            let slow = (600..1200).contains(&i);
            h.time(now, Metric::Ttft, exponential(i, 100.0) + ms(if slow { 4000 } else { 0 }));
            let state = h.judge(now).state;
            match i {
                0..600 => assert_eq!(state, State::Ok, "false alarm at {i}"),
                600..1200 if state == State::Bad && seen.is_none() => seen = Some(i - 600),
                1510.. => assert_eq!(state, State::Ok, "still at {i}"),
                _ => {}
            }
        }
        let delay = seen.unwrap();
        assert!(delay <= 50, "{delay} requests");
    }

    #[test]
    fn a_tail_within_the_limit_raises_no_alarm_in_an_hour() {
        // Of exponential times 0.5 % lie beyond 5.3 means; and 1 % beyond 4.6, the worst that is still well, where a
        // run of bad luck in one window of an hour's 120 may be called what it looks like.
        for (limit, most) in [(530, 0), (461, 360)] {
            let mut h = health(&[&format!("ttft_ms={limit}")]);
            let mut alarms = 0;
            for i in 0..36_000u64 {
                h.time(ms(i * 100), Metric::Ttft, exponential(i, 100.0));
                alarms += u64::from(h.judge(ms(i * 100)).state > State::Ok);
            }
            assert!(alarms <= most, "{alarms} of 36000 moments at {limit} ms");
        }
    }

    #[test]
    fn failures_are_told_with_their_numbers_and_shed_nobody() {
        let mut h = health(&[]);
        (0..40).for_each(|i| h.end(ms(i * 10), i % 2 == 0));
        let j = h.judge(ms(500));
        assert_eq!((j.state, j.by_load), (State::Bad, false));
        assert_eq!(j.reason, "20 of 40 requests of the last 30 s failed");
        assert!(!h.sheds(ms(500), 10));
    }

    #[test]
    fn only_a_queue_sheds() {
        let mut h = health(&["queue_ms=10"]);
        (0..40).for_each(|_| h.time(ms(0), Metric::Queue, ms(100)));
        assert!(h.sheds(ms(1), 1));
        assert!(!h.sheds(ms(1), 0));
        assert_eq!(h.judge(ms(1)).reason, "40 of 40 queue times of the last 30 s exceed 10 ms");
    }

    proptest! {
        #[test]
        fn the_judgement_is_that_of_a_list_of_all_requests(
            events in prop::collection::vec((0u64..3000, 0u64..400, any::<bool>()), 1..120),
        ) {
            let mut h = health(&["ttft_ms=100", "window_s=30"]);
            let (mut now, mut list) = (0, Vec::new());
            for (wait, time, failed) in events {
                now += wait;
                h.time(ms(now), Metric::Ttft, ms(time));
                h.end(ms(now), failed);
                list.push((now / 1000, time, failed));
            }
            list.retain(|&(second, _, _)| second + 30 > now / 1000);
            let count = |f: &dyn Fn(&(u64, u64, bool)) -> bool| list.iter().filter(|x| f(x)).count() as u64;
            let n = list.len() as u64;
            let of = |far, over, a: f64, b: f64| match (beyond(far, n, a), beyond(over, n, b)) {
                (true, _) => State::Bad,
                (_, true) => State::Degraded,
                _ => State::Ok,
            };
            let by_time = of(count(&|x| x.1 > 300), count(&|x| x.1 > 100), 0.01, 0.01);
            let failed = count(&|x| x.2);
            let by_failure = of(failed, failed, 0.06, 0.02);
            prop_assert_eq!(h.judge(ms(now)).state, by_time.max(by_failure));
            prop_assert_eq!(h.times(ms(now), Metric::Ttft).count(), n);
        }
    }
}
