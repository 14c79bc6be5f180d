//! Ordered degradation by measured memory: let cached prefixes go, stop guessing, run fewer sequences, refuse
//! newcomers; and back in the opposite order, each step a margin below where it was taken.

use std::time::Duration;

use tamp_base::card::{Card, Effect, Entry, Knob, KnobKind, Knobs};

use super::{Actions, Facts, Pressure};

const fn fraction(name: &'static str, about: &'static str, default: &'static str) -> Knob {
    Knob { name, about, kind: KnobKind::Float(0.0, 1.0), default }
}

pub(super) static ENTRY: Entry<dyn Pressure, ()> = Entry {
    card: Card {
        name: "degrade",
        aka: "FaultHandler (wave 21/22)",
        about: "gives up cached prefixes, then drafts, then sequences, then newcomers as measured memory runs short",
        paper: "",
        claim: "OOM prevention: ordered degradation",
        effect: Effect::Service,
        needs: &[],
        knobs: &[
            fraction("evict", "share of memory in use at which cached prefixes go", "0.85"),
            fraction("draft", "share at which nothing is guessed any more", "0.90"),
            fraction("batch", "share at which half of the sequences give their pages up", "0.93"),
            fraction("refuse", "share at which newcomers are refused", "0.96"),
            fraction("margin", "share below its threshold at which a step is taken back", "0.04"),
            Knob {
                name: "every_ms",
                about: "milliseconds between two measurements",
                kind: KnobKind::Int(1, 60_000),
                default: "100",
            },
            Knob {
                name: "retry_s",
                about: "seconds after which a refused newcomer may come again",
                kind: KnobKind::Int(1, 3600),
                default: "2",
            },
        ],
    },
    open: |(), knobs| Ok(Box::new(Degrade::new(knobs))),
};

/// Levels, by what each adds.
const EVICT: u8 = 1;
const DRAFT: u8 = 2;
const BATCH: u8 = 3;
const REFUSE: u8 = 4;

struct Degrade {
    /// share at which level `i + 1` begins; never falling
    at: [f64; 4],
    margin: f64,
    every: Duration,
    retry_s: u32,
    measured: Option<Duration>,
    said: Actions,
}

impl Degrade {
    fn new(knobs: &Knobs) -> Degrade {
        let mut at = ["evict", "draft", "batch", "refuse"].map(|n| knobs.float(n));
        // A later step never comes before an earlier one, however the knobs are set.
        for i in 1..at.len() {
            at[i] = at[i].max(at[i - 1]);
        }
        Degrade {
            at,
            margin: knobs.float("margin"),
            every: Duration::from_millis(knobs.int("every_ms") as u64),
            retry_s: knobs.int("retry_s") as u32,
            measured: None,
            said: Actions::default(),
        }
    }

    /// The level for a share of memory in use, given the one that holds.
    fn level(&self, share: f64) -> u8 {
        let up = self.at.iter().filter(|&&t| share >= t).count() as u8;
        let stays = self.at.iter().filter(|&&t| share >= t - self.margin).count() as u8;
        up.max(stays.min(self.said.level))
    }

    /// What to do at a share of memory in use with so many sequences running.
    fn evaluate(&mut self, share: f64, running: usize) -> Actions {
        let level = self.level(share);
        let held = self.said.most_running;
        let most_running = match level >= BATCH {
            false => 0,
            // Halved again only once the last halving has been obeyed and was not enough.
            true if held > 0 && (running < held || share < self.at[2]) => held,
            true => (running / 2).max(1),
        };
        Actions {
            level,
            evict_pages: 0,
            no_draft: level >= DRAFT,
            most_running,
            refuse_s: if level >= REFUSE { self.retry_s } else { 0 },
        }
    }

    fn decide(&mut self, facts: &Facts) -> Actions {
        let share = memory_share(facts);
        let mut actions = self.evaluate(share, facts.running);
        // A full pool is no danger, the policy handles it: cached pages and drafts give way, nothing else.
        let pool = 1.0 - facts.pages_free as f64 / facts.pages_total.max(1) as f64;
        if actions.level < DRAFT {
            let by_pool = self.level(pool).min(DRAFT);
            actions.level = actions.level.max(by_pool);
            actions.no_draft = actions.level >= DRAFT;
        }
        // The buffers of an idle engine stand already, and refusing everybody for ever helps nobody.
        if facts.running + facts.waiting == 0 {
            actions.level = actions.level.min(BATCH);
            actions.refuse_s = 0;
        }
        if actions.level >= EVICT {
            let goal = self.at[0] - self.margin;
            let whole = facts.used.saturating_add(facts.available) as f64;
            let by_memory = (share - goal).max(0.0) * whole / facts.page.max(1) as f64;
            let by_pool = (pool - goal).max(0.0) * facts.pages_total as f64;
            actions.evict_pages = (by_memory.max(by_pool).ceil() as usize).clamp(1, facts.pages_total.max(1));
        }
        actions
    }
}

/// The share that is in use of what this process has or could have. Free pages that were written before count as free:
/// new work takes them first, and without that an engine would never recover from its own peak.
fn memory_share(facts: &Facts) -> f64 {
    if facts.available == 0 && facts.used == 0 {
        return 0.0;
    }
    let whole = facts.used.saturating_add(facts.available).max(1);
    let free = facts.available.saturating_add(facts.idle).min(whole);
    1.0 - free as f64 / whole as f64
}

impl Pressure for Degrade {
    fn look(&mut self, now: Duration, measure: &mut dyn FnMut() -> Facts) -> Actions {
        if self.measured.is_some_and(|at| now < at + self.every) {
            return Actions { evict_pages: 0, ..self.said };
        }
        self.measured = Some(now);
        self.said = self.decide(&measure());
        self.said
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamp_base::settings::Settings;

    use super::*;

    fn degrade() -> Degrade {
        let mut settings = Settings::default();
        settings.add_set("engine.pressure.degrade.every_ms=1", "test").unwrap();
        Degrade::new(&Knobs::read("engine.pressure", &ENTRY.card, &settings).unwrap())
    }

    fn facts(share: f64, running: usize) -> Facts {
        let used = (share * 1e9) as u64;
        Facts {
            used,
            available: 1_000_000_000 - used,
            idle: 0,
            page: 100_000,
            pages_free: 500,
            pages_total: 1000,
            running,
            waiting: 0,
        }
    }

    #[test]
    fn each_step_comes_in_its_order_and_goes_back_a_margin_later() {
        let mut d = degrade();
        let mut say = |share| {
            d.said = d.decide(&facts(share, 8));
            (d.said.level, d.said.no_draft, d.said.most_running > 0, d.said.refuse_s > 0)
        };
        let steps = [
            (0.50, (0, false, false, false)),
            (0.86, (1, false, false, false)),
            (0.82, (1, false, false, false)),
            (0.91, (2, true, false, false)),
            (0.94, (3, true, true, false)),
            (0.97, (4, true, true, true)),
            (0.93, (4, true, true, true)),
            (0.915, (3, true, true, false)),
            (0.88, (2, true, false, false)),
            (0.80, (0, false, false, false)),
        ];
        for (share, want) in steps {
            assert_eq!(say(share), want, "{share}");
        }
    }

    #[test]
    fn sequences_are_halved_until_it_is_enough_and_never_below_one() {
        let mut d = degrade();
        let mut running = 8;
        let mut seen = vec![];
        for _ in 0..6 {
            d.said = d.decide(&facts(0.94, running));
            running = running.min(d.said.most_running);
            seen.push(running);
        }
        assert_eq!(seen, [4, 2, 1, 1, 1, 1]);
        // Slow to obey: the bound waits for it.
        let mut d = degrade();
        d.said = d.decide(&facts(0.94, 8));
        d.said = d.decide(&facts(0.91, 3));
        assert_eq!(d.said.most_running, 4);
    }

    #[test]
    fn memory_of_free_pages_lets_an_engine_recover_from_its_own_peak() {
        let mut d = degrade();
        let peak = facts(0.97, 8);
        d.said = d.decide(&peak);
        assert_eq!(d.said.level, 4);
        let after = Facts { idle: 400_000_000, running: 0, pages_free: 1000, ..peak };
        d.said = d.decide(&after);
        assert_eq!(d.said, Actions::default());
    }

    #[test]
    fn a_full_pool_gives_up_cached_pages_and_drafts_and_nothing_else() {
        let mut d = degrade();
        let said = d.decide(&Facts { pages_free: 0, ..facts(0.1, 8) });
        assert_eq!((said.level, said.no_draft, said.most_running, said.refuse_s), (2, true, 0, 0));
        assert!(said.evict_pages > 0 && said.evict_pages <= 1000, "{said:?}");
    }

    #[test]
    fn an_idle_engine_refuses_nobody_and_an_unknown_memory_changes_nothing() {
        let mut d = degrade();
        assert_eq!(d.decide(&facts(0.99, 0)).refuse_s, 0);
        let blind = Facts { pages_free: 10, pages_total: 10, running: 3, ..Facts::default() };
        assert_eq!(degrade().decide(&blind), Actions::default());
    }

    #[test]
    fn it_measures_no_more_often_than_it_was_told() {
        let mut d = Degrade { every: Duration::from_millis(100), ..degrade() };
        let mut measured = 0;
        for ms in 0..1000 {
            d.look(Duration::from_millis(ms), &mut || {
                measured += 1;
                facts(0.5, 1)
            });
        }
        assert_eq!(measured, 10);
    }

    proptest! {
        #[test]
        fn any_facts_give_actions_that_contain_each_other(
            used: u64, available: u64, idle: u64, page: u64,
            free in 0usize..2000, total in 0usize..2000, running in 0usize..2000, before in 0u8..5,
        ) {
            let mut d = degrade();
            d.said.level = before;
            let facts = Facts { used, available, idle, page, pages_free: free, pages_total: total, running, waiting: 1 };
            let a = d.decide(&facts);
            prop_assert!(a.level <= REFUSE);
            prop_assert_eq!(a.evict_pages > 0, a.level >= EVICT);
            prop_assert_eq!(a.no_draft, a.level >= DRAFT);
            prop_assert_eq!(a.most_running > 0, a.level >= BATCH);
            prop_assert_eq!(a.refuse_s > 0, a.level >= REFUSE);
        }
    }
}
