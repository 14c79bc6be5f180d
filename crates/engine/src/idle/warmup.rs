//! The prefixes asked for most are in memory before somebody asks again: after a start, and after an eviction.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind};
use tamp_base::count::Acts;
use tamp_kv::Hot;

use super::Idle;

pub(super) static ENTRY: Entry<dyn Idle, ()> = Entry {
    card: Card {
        name: "warmup",
        aka: "CacheWarmupPredictor (wave 21/22)",
        about: "when idle, fetches or computes the prefixes asked for most, by uses that fade with time",
        paper: "",
        claim: "cold-start TTFT: top-k prefix hits",
        effect: Effect::Identical,
        needs: &[],
        knobs: &[
            Knob {
                name: "top",
                about: "prefixes to keep in memory",
                kind: KnobKind::Int(1, 1024),
                default: "8",
            },
            Knob {
                name: "tokens",
                about: "positions computed per look at most, so that a wrong guess stays cheap",
                kind: KnobKind::Int(16, 1 << 24),
                default: "8192",
            },
            Knob {
                name: "every_ms",
                about: "time between two looks at what is missing",
                kind: KnobKind::Int(1, 86_400_000),
                default: "1000",
            },
        ],
    },
    open: |(), knobs| {
        Ok(Box::new(Warmup {
            top: knobs.int("top") as usize,
            tokens: knobs.int("tokens") as usize,
            every: Duration::from_millis(knobs.int("every_ms") as u64),
            looked: None,
            list: Vec::new(),
            left: 0,
            acts: Acts::default(),
        }))
    },
};

struct Warmup {
    top: usize,
    tokens: usize,
    every: Duration,
    looked: Option<Duration>,
    /// what is still to come of the last look, least wanted first
    list: Vec<Hot>,
    left: usize,
    acts: Acts,
}

impl Idle for Warmup {
    fn next(
        &mut self,
        now: Duration,
        hot: &mut dyn FnMut(usize) -> Vec<Hot>,
        missing: &dyn Fn(&Hot) -> usize,
    ) -> Option<Hot> {
        if self.list.is_empty() {
            if self.looked.is_some_and(|at| now < at + self.every) {
                return None;
            }
            self.looked = Some(now);
            self.acts.asked += 1;
            (self.list, self.left) = (hot(self.top), self.tokens);
            self.list.reverse();
        }
        while let Some(next) = self.list.pop() {
            let cost = missing(&next);
            if cost > 0 && cost <= self.left {
                self.left -= cost;
                self.acts.acted += 1;
                return Some(next);
            }
        }
        None
    }

    fn acts(&self) -> Acts {
        Acts { declined: self.acts.asked.saturating_sub(self.acts.acted), ..self.acts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tamp_base::settings::Settings;
    use tamp_kv::PrefixKey;

    #[test]
    fn the_most_wanted_come_first_within_the_budget_and_not_before_it_is_time() {
        let root = PrefixKey { hash: [0; 32], namespace: 0 };
        let hot = |n: usize| Hot { root, tokens: vec![1; n], uses: 1.0 };
        let mut s = Settings::default();
        for set in ["top=4", "tokens=100", "every_ms=10"] {
            s.add_set(&format!("engine.idle.warmup.{set}"), "test").unwrap();
        }
        s.add_use("engine.idle=warmup", "test").unwrap();
        let (mut warmup, _) = super::super::TABLE.open(&(), &s).unwrap();
        let mut ask = |ms: u64, there: usize| {
            let mut list = |n: usize| [64, 80, 16, 32, 48].into_iter().take(n).map(hot).collect();
            let missing = |h: &Hot| h.tokens.len().saturating_sub(there);
            warmup.next(Duration::from_millis(ms), &mut list, &missing).map(|h| h.tokens.len())
        };
        // 80 no longer fits after 64, the fifth is not asked for.
        assert_eq!([ask(0, 0), ask(1, 0), ask(2, 0), ask(3, 0)], [Some(64), Some(16), None, None]);
        assert_eq!([ask(9, 0), ask(10, 70), ask(11, 70)], [None, Some(80), None]);
        assert_eq!((warmup.acts().asked, warmup.acts().acted), (2, 3));
    }
}
