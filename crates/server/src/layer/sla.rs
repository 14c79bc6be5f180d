//! Promises to tenants and how fast they are being spent.
//!
//! An objective says which share of a tenant's requests must meet a limit; the rest is its budget. The burn rate is
//! how many times faster than allowed the budget goes: 1 spends exactly the budget. A level is reached when the burn
//! rate is beyond its threshold over a short *and* a long window: the long one keeps a blip from alarming, the short
//! one ends the alarm soon after the trouble. Asking changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tamp_base::card::{Card, Effect, Knob, KnobKind, Knobs};
use tamp_base::ids::TenantId;

use crate::health::Metric;
use crate::rolling::{Ring, Slice};

const fn limit(name: &'static str, about: &'static str) -> Knob {
    Knob { name, about, kind: KnobKind::Int(0, 86_400_000), default: "0" }
}

const fn number(name: &'static str, about: &'static str, lo: f64, hi: f64, default: &'static str) -> Knob {
    Knob { name, about, kind: KnobKind::Float(lo, hi), default }
}

/// The card of [`Sla`].
pub static CARD: Card = Card {
    name: "burn",
    aka: "SLAMonitor (wave 21/22)",
    about: "objectives per tenant, judged by how fast their budget burns over two windows",
    paper: "",
    claim: "SLA response time: escalation alerts",
    effect: Effect::Service,
    needs: &[],
    knobs: &[
        limit("ttft_ms", "time to the first token that must be met, ms; 0 = no objective"),
        limit("itl_ms", "time between two tokens that must be met, ms; 0 = no objective"),
        limit("e2e_ms", "whole time that must be met, ms; 0 = no objective"),
        number("share", "share of requests that must meet each limit", 0.0, 0.99999, "0.99"),
        number("errors", "share of requests that may fail; 1 = no objective", 0.000_01, 1.0, "0.01"),
        Knob { name: "short_s", about: "the short window, s", kind: KnobKind::Int(1, 86_400), default: "60" },
        Knob { name: "long_s", about: "the long window, s", kind: KnobKind::Int(1, 86_400), default: "600" },
        number("warning", "burn rate of level warning", 0.1, 1e6, "2"),
        number("critical", "burn rate of level critical", 0.1, 1e6, "10"),
        Knob {
            name: "boost",
            about: "added to the priority of a tenant at level critical",
            kind: KnobKind::Int(0, 1000),
            default: "0",
        },
    ],
};

/// What a tenant is promised; a missing word takes the card's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// time to first token, ms
    pub ttft_ms: Option<u64>,
    /// time between tokens, ms
    pub itl_ms: Option<u64>,
    /// whole time, ms
    pub e2e_ms: Option<u64>,
    /// share of requests that must meet each limit
    pub share: Option<f64>,
    /// share of requests that may fail
    pub errors: Option<f64>,
}

/// How urgent it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// within budget
    #[default]
    Ok,
    /// the budget will not last
    Warning,
    /// it is going fast
    Critical,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    /// nothing
    #[default]
    None,
    /// tell the operator
    Alert,
    /// tell the operator, and let the tenant's requests go first by so much
    Boost {
        /// added to the priority
        by: i32,
    },
}

/// One objective's standing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// `ttft`, `itl`, `e2e` or `errors`
    pub objective: &'static str,
    /// how urgent
    pub level: Level,
    /// burn rate over the short window
    pub short: f64,
    /// burn rate over the long window
    pub long: f64,
    /// minutes so far in which more than the budget's share missed
    pub violated_minutes: u64,
}

/// A tenant's standing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// the worst of its objectives
    pub level: Level,
    /// what is to be done
    pub action: Action,
    /// each objective
    pub standings: Vec<Standing>,
}

const OBJECTIVES: usize = 4;
const NAMES: [&str; OBJECTIVES] = ["ttft", "itl", "e2e", "errors"];
/// Slices per short window.
const PER_SHORT: u32 = 6;
/// Slices at most, whatever the windows: 16 bytes each.
const MOST_SLICES: u128 = 4096;
const MINUTE: Duration = Duration::from_secs(60);
/// Tenants that are told apart; the operator's list is far shorter.
const MOST_TENANTS: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: u64,
    missed: u64,
}

impl Slice for Tally {
    fn clear(&mut self) {
        *self = Tally::default();
    }
}

/// One objective of one tenant.
struct Budget {
    name: &'static str,
    /// a time above it misses; failures miss by themselves
    limit: Duration,
    /// share that may miss
    may_miss: f64,
    ring: Ring<Tally>,
    minute: u64,
    present: Tally,
    violated: u64,
}

impl Budget {
    fn add(&mut self, now: Duration, missed: bool) {
        let slice = self.ring.at(now);
        slice.all += 1;
        slice.missed += u64::from(missed);
        let minute = now.as_secs() / MINUTE.as_secs();
        if minute > self.minute {
            self.violated = self.violated();
            (self.minute, self.present) = (minute, Tally::default());
        }
        self.present.all += 1;
        self.present.missed += u64::from(missed);
    }

    /// Violated minutes, the present one included.
    fn violated(&self) -> u64 {
        let t = self.present;
        self.violated + u64::from(t.missed as f64 > self.may_miss * t.all as f64)
    }

    fn burn(&self, now: Duration, window: Duration) -> f64 {
        let (mut all, mut missed) = (0u64, 0u64);
        for t in self.ring.last(now, window) {
            (all, missed) = (all + t.all, missed + t.missed);
        }
        if all == 0 { 0.0 } else { missed as f64 / all as f64 / self.may_miss }
    }
}

/// Watches every tenant's objectives. Whoever shares it puts a lock around it.
pub struct Sla {
    usual: Objectives,
    own: BTreeMap<TenantId, Objectives>,
    tenants: BTreeMap<TenantId, [Option<Budget>; OBJECTIVES]>,
    short: Duration,
    long: Duration,
    warning: f64,
    critical: f64,
    boost: i32,
}

impl Sla {
    /// With the card's objectives for everybody but those in `own`.
    pub fn new(knobs: &Knobs, own: BTreeMap<TenantId, Objectives>) -> Sla {
        let ms = |name| Some(knobs.int(name).unsigned_abs()).filter(|&n| n > 0);
        let seconds = |name| Duration::from_secs(knobs.int(name).max(1) as u64);
        Sla {
            usual: Objectives {
                ttft_ms: ms("ttft_ms"),
                itl_ms: ms("itl_ms"),
                e2e_ms: ms("e2e_ms"),
                share: Some(knobs.float("share")),
                errors: Some(knobs.float("errors")),
            },
            own,
            tenants: BTreeMap::new(),
            short: seconds("short_s"),
            long: seconds("long_s").max(seconds("short_s")),
            warning: knobs.float("warning"),
            critical: knobs.float("critical").max(knobs.float("warning")),
            boost: knobs.int("boost") as i32,
        }
    }

    fn budgets(&mut self, tenant: TenantId) -> Option<&mut [Option<Budget>; OBJECTIVES]> {
        if !self.tenants.contains_key(&tenant) {
            if self.tenants.len() >= MOST_TENANTS {
                return None;
            }
            let made = self.make(tenant);
            self.tenants.insert(tenant, made);
        }
        self.tenants.get_mut(&tenant)
    }

    fn make(&self, tenant: TenantId) -> [Option<Budget>; OBJECTIVES] {
        let (own, usual) = (self.own.get(&tenant).cloned().unwrap_or_default(), &self.usual);
        let may_miss = 1.0 - own.share.or(usual.share).unwrap_or(0.99).clamp(0.0, 0.999_99);
        let errors = own.errors.or(usual.errors).unwrap_or(1.0).clamp(0.000_01, 1.0);
        let limits =
            [own.ttft_ms.or(usual.ttft_ms), own.itl_ms.or(usual.itl_ms), own.e2e_ms.or(usual.e2e_ms)];
        let each = self.short / PER_SHORT;
        let slices = self.long.as_nanos().div_ceil(each.as_nanos().max(1)) + 1;
        let each = if slices > MOST_SLICES { self.long / MOST_SLICES as u32 } else { each };
        let ring = Ring::new(Tally::default(), slices.min(MOST_SLICES) as usize, each);
        let budget = |i: usize, limit: Duration, may_miss| Budget {
            name: NAMES[i],
            limit,
            may_miss,
            ring: ring.clone(),
            minute: 0,
            present: Tally::default(),
            violated: 0,
        };
        std::array::from_fn(|i| match limits.get(i) {
            Some(ms) => ms.map(|ms| budget(i, Duration::from_millis(ms), may_miss)),
            None => (errors < 1.0).then(|| budget(i, Duration::ZERO, errors)),
        })
    }

    /// A time of one of a tenant's requests.
    pub fn time(&mut self, now: Duration, tenant: TenantId, metric: Metric, time: Duration) {
        let i = match metric {
            Metric::Queue => return,
            Metric::Ttft => 0,
            Metric::Itl => 1,
            Metric::E2e => 2,
        };
        if let Some(budget) = self.budgets(tenant).and_then(|b| b[i].as_mut()) {
            budget.add(now, time > budget.limit);
        }
    }

    /// One of a tenant's requests ended; `failed`: through the server's fault.
    pub fn end(&mut self, now: Duration, tenant: TenantId, failed: bool) {
        if let Some(budget) = self.budgets(tenant).and_then(|b| b[3].as_mut()) {
            budget.add(now, failed);
        }
    }

    fn level(&self, budget: &Budget, now: Duration) -> (Level, f64, f64) {
        let (short, long) = (budget.burn(now, self.short), budget.burn(now, self.long));
        let both = short.min(long);
        let level = match () {
            () if both >= self.critical => Level::Critical,
            () if both >= self.warning => Level::Warning,
            () => Level::Ok,
        };
        (level, short, long)
    }

    /// How a tenant stands. Asking changes nothing.
    pub fn check(&self, now: Duration, tenant: TenantId) -> Report {
        let Some(budgets) = self.tenants.get(&tenant) else { return Report::default() };
        let standing = |b: &Budget| {
            let (level, short, long) = self.level(b, now);
            Standing { objective: b.name, level, short, long, violated_minutes: b.violated() }
        };
        let standings: Vec<Standing> = budgets.iter().flatten().map(standing).collect();
        let level = standings.iter().map(|s| s.level).max().unwrap_or_default();
        Report { level, action: self.action(level), standings }
    }

    fn action(&self, level: Level) -> Action {
        match level {
            Level::Ok => Action::None,
            Level::Critical if self.boost > 0 => Action::Boost { by: self.boost },
            Level::Warning | Level::Critical => Action::Alert,
        }
    }

    /// What a tenant's next request gains in priority.
    pub fn boost(&self, now: Duration, tenant: TenantId) -> i32 {
        match self.boost {
            0 => 0,
            _ => match self.check(now, tenant).action {
                Action::Boost { by } => by,
                _ => 0,
            },
        }
    }

    /// Tenants that were seen.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> {
        self.tenants.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tamp_base::settings::Settings;

    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);

    fn sla(sets: &[&str], own: &[(TenantId, Objectives)]) -> Sla {
        let mut s = Settings::default();
        sets.iter().for_each(|x| s.add_set(&format!("server.sla.burn.{x}"), "test").unwrap());
        Sla::new(&Knobs::read("server.sla", &CARD, &s).unwrap(), own.iter().cloned().collect())
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_step_overload_escalates_within_its_windows_and_the_alarm_ends_soon_after() {
        let mut s = sla(&["ttft_ms=500", "boost=5"], &[]);
        let mut reached = BTreeMap::new();
        let mut ended = None;
        // One request a second for 40 minutes; ten bad minutes from minute 20 on.
        for second in 0..2400u64 {
            let bad = (1200..1800).contains(&second);
            let now = ms(second * 1000);
            s.time(now, A, Metric::Ttft, ms(if bad { 900 } else { 100 }));
            let report = s.check(now, A);
            if second < 1200 {
                assert_eq!(report.level, Level::Ok, "false alarm at {second}");
            }
            reached.entry(report.level).or_insert(second);
            if second >= 1800 && report.level == Level::Ok && ended.is_none() {
                ended = Some(second - 1800);
            }
        }
        // 2 % of ten minutes are 12 bad seconds, 10 % are 60.
        assert!(reached[&Level::Warning] - 1200 <= 13, "{reached:?}");
        assert!(reached[&Level::Critical] - 1200 <= 61, "{reached:?}");
        assert!(ended.unwrap() <= 72, "{ended:?}");
        let report = s.check(ms(2_399_000), A);
        assert_eq!(report.standings[0].violated_minutes, 10);
    }

    #[test]
    fn tenants_have_their_own_promises_and_only_the_one_in_trouble_goes_first() {
        let strict = Objectives { e2e_ms: Some(50), ..Objectives::default() };
        let mut s = sla(&["e2e_ms=1000", "boost=7"], &[(B, strict)]);
        for i in 0..1000 {
            s.time(ms(i * 100), A, Metric::E2e, ms(60));
            s.time(ms(i * 100), B, Metric::E2e, ms(60));
        }
        let now = ms(100_000);
        assert_eq!((s.boost(now, A), s.boost(now, B)), (0, 7));
        assert_eq!(s.check(now, A).level, Level::Ok);
        assert_eq!(s.check(now, TenantId(9)), Report::default());
        assert_eq!(s.tenants().collect::<Vec<_>>(), [A, B]);
    }

    #[test]
    fn asking_changes_nothing() {
        let fill = |ask: bool| {
            let mut s = sla(&["itl_ms=10"], &[]);
            for i in 0..500u64 {
                let now = ms(i * 1300);
                s.time(now, A, Metric::Itl, ms(i % 23));
                s.end(now, A, i % 97 == 0);
                if ask {
                    (0..5).for_each(|k| drop(s.check(now + ms(k * 100_000), A)));
                }
            }
            s.check(ms(500 * 1300), A)
        };
        assert_eq!(fill(true), fill(false));
    }

    proptest! {
        #[test]
        fn burn_rates_are_those_of_a_list_of_all_requests(
            events in prop::collection::vec((0u64..40_000, 0u64..200), 1..150), share in 0.5f64..0.999,
        ) {
            let mut s = sla(&["ttft_ms=100", &format!("share={share}")], &[]);
            let (mut now, mut list) = (0, Vec::new());
            for (wait, time) in events {
                now += wait;
                s.time(ms(now), A, Metric::Ttft, ms(time));
                list.push((now / 10_000, time > 100));
            }
            let naive = |slices: u64| {
                let of: Vec<bool> = list.iter().filter(|(n, _)| n + slices > now / 10_000).map(|x| x.1).collect();
                of.iter().filter(|&&m| m).count() as f64 / of.len() as f64 / (1.0 - share)
            };
            let got = &s.check(ms(now), A).standings[0];
            prop_assert!((got.short - naive(6)).abs() < 1e-6 * (1.0 + got.short), "{} {}", got.short, naive(6));
            prop_assert!((got.long - naive(60)).abs() < 1e-6 * (1.0 + got.long), "{} {}", got.long, naive(60));
        }
    }
}
