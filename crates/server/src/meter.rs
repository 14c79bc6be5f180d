//! What the page at `/` and `/v1/status` show moving: tokens, rows and bytes per second, and what each tenant took.
//!
//! Tokens are counted as they come, one relaxed addition each; what the engine counts itself is noted once a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use tamp_engine::Stats;

use crate::app::App;
use crate::observe::{End, Facts, Observe};

/// Speeds are taken over so long.
pub const WINDOW: Duration = Duration::from_secs(3);
/// The engine's counters are noted so often.
pub const EVERY: Duration = Duration::from_secs(1);
/// Notes that are kept: two minutes.
const KEPT: usize = 121;
/// Tenants that are told apart here; the operator's list has fewer rows in practice, and the rest is summed.
const MOST_TENANTS: usize = 256;
/// Where tenants beyond those are summed.
const REST: &str = "others";

/// Of one model, counted where tokens pass.
#[derive(Default)]
struct Counted {
    tokens: AtomicU64,
    firsts: AtomicU64,
    notes: Mutex<VecDeque<Note>>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Note {
    at: Duration,
    tokens: u64,
    firsts: u64,
    rows: u64,
    tested: u64,
    accepted: u64,
    bytes: u64,
    busy_ns: u64,
}

/// How fast a model runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// tokens of answers per second
    pub decode_tok_s: f64,
    /// rows of prompts per second
    pub prefill_tok_s: f64,
    /// share of the time in which the engine worked
    pub busy: f64,
    /// weight bytes read per second of that time, 10⁹; 0 when it did not work
    pub read_gb_s: f64,
    /// tokens of answers per second, a figure per second, oldest first
    pub history: Vec<f64>,
}

#[derive(Default)]
struct Taken {
    live: AtomicI64,
    requests: AtomicU64,
    prompt: AtomicU64,
    cached: AtomicU64,
    tokens: AtomicU64,
    engine_ns: AtomicU64,
}

/// What a tenant took since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// sequences of it that have not ended
    pub live: u64,
    /// sequences that ended
    pub requests: u64,
    /// tokens of prompts
    pub prompt_tokens: u64,
    /// of them out of the prefix cache
    pub cached_tokens: u64,
    /// tokens of answers
    pub tokens: u64,
    /// engine time, s
    pub engine_s: f64,
}

/// Counts. One per server; it is one of the observers.
pub struct Meter {
    zero: Instant,
    models: RwLock<BTreeMap<Arc<str>, Arc<Counted>>>,
    tenants: RwLock<BTreeMap<Arc<str>, Arc<Taken>>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of a name, made when it is new.
fn entry<T: Default>(all: &RwLock<BTreeMap<Arc<str>, Arc<T>>>, name: &Arc<str>, most: usize) -> Arc<T> {
    if let Some(found) = all.read().unwrap_or_else(PoisonError::into_inner).get(name) {
        return found.clone();
    }
    let mut all = all.write().unwrap_or_else(PoisonError::into_inner);
    let name = if all.len() < most || all.contains_key(name) { name.clone() } else { REST.into() };
    all.entry(name).or_default().clone()
}

impl Default for Meter {
    fn default() -> Self {
        Meter { zero: Instant::now(), models: RwLock::default(), tenants: RwLock::default() }
    }
}

impl Meter {
    fn model(&self, name: &Arc<str>) -> Arc<Counted> {
        entry(&self.models, name, usize::MAX)
    }

    fn tenant(&self, facts: &Facts) -> Arc<Taken> {
        entry(&self.tenants, &facts.who, MOST_TENANTS)
    }

    fn note(&self, at: Duration, counted: &Counted, stats: &Stats) -> Note {
        Note {
            at,
            tokens: counted.tokens.load(Ordering::Relaxed),
            firsts: counted.firsts.load(Ordering::Relaxed),
            rows: stats.work.target_positions,
            tested: stats.work.draft_tested,
            accepted: stats.work.draft_accepted,
            bytes: stats.work.weight_bytes,
            busy_ns: stats.busy_ns,
        }
    }

    /// Notes what an engine says of itself.
    pub fn sample(&self, model: &Arc<str>, stats: &Stats) {
        let counted = self.model(model);
        let note = self.note(self.zero.elapsed(), &counted, stats);
        let mut notes = lock(&counted.notes);
        // A model that was loaded again counts from nothing.
        if notes.back().is_some_and(|n| n.rows > note.rows || n.busy_ns > note.busy_ns) {
            notes.clear();
        }
        notes.push_back(note);
        if notes.len() > KEPT {
            notes.pop_front();
        }
    }

    /// How fast a model runs now.
    pub fn speed(&self, model: &Arc<str>, stats: &Stats) -> Speed {
        let counted = self.model(model);
        let now = self.note(self.zero.elapsed(), &counted, stats);
        let notes = lock(&counted.notes);
        speed(&notes, now)
    }

    /// What each tenant took, by name.
    pub fn shares(&self) -> BTreeMap<Arc<str>, Share> {
        let all = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let share = |t: &Taken| Share {
            live: u64::try_from(t.live.load(Ordering::Relaxed)).unwrap_or(0),
            requests: get(&t.requests),
            prompt_tokens: get(&t.prompt),
            cached_tokens: get(&t.cached),
            tokens: get(&t.tokens),
            engine_s: get(&t.engine_ns) as f64 / 1e9,
        };
        all.iter().map(|(name, t)| (name.clone(), share(t))).collect()
    }
}

/// Differences since the newest note that is a window old, or the oldest there is.
fn speed(notes: &VecDeque<Note>, now: Note) -> Speed {
    let old = |n: &&Note| now.at.saturating_sub(n.at) >= WINDOW;
    let from = notes.iter().rev().find(old).or(notes.front()).copied().unwrap_or(now);
    let pairs = notes.iter().zip(notes.iter().skip(1));
    let history = pairs.map(|(a, b)| per_second(a, b, b.tokens.saturating_sub(a.tokens))).collect();
    let since = |f: fn(&Note) -> u64| f(&now).saturating_sub(f(&from));
    let (tokens, tested) = (since(|n| n.tokens), since(|n| n.tested));
    // The first token of an answer comes out of a row of its prompt; accepted drafts have no row of their own beside
    // the one that was tested.
    let chosen = tokens.saturating_sub(since(|n| n.firsts)).saturating_sub(since(|n| n.accepted)) + tested;
    let busy_ns = since(|n| n.busy_ns);
    let wall = now.at.saturating_sub(from.at).as_nanos().max(1) as f64;
    Speed {
        decode_tok_s: per_second(&from, &now, tokens),
        prefill_tok_s: per_second(&from, &now, since(|n| n.rows).saturating_sub(chosen)),
        busy: (busy_ns as f64 / wall).min(1.0),
        read_gb_s: if busy_ns == 0 { 0.0 } else { since(|n| n.bytes) as f64 / busy_ns as f64 },
        history,
    }
}

fn per_second(from: &Note, to: &Note, n: u64) -> f64 {
    let seconds = to.at.saturating_sub(from.at).as_secs_f64();
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

impl Observe for Meter {
    fn queued(&self, facts: &Facts) {
        self.tenant(facts).live.fetch_add(1, Ordering::Relaxed);
    }

    fn first(&self, facts: &Facts, _: Duration) {
        let model = self.model(&facts.model);
        model.tokens.fetch_add(1, Ordering::Relaxed);
        model.firsts.fetch_add(1, Ordering::Relaxed);
    }

    fn token(&self, facts: &Facts, _: Duration) {
        self.model(&facts.model).tokens.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self, facts: &Facts, end: &End) {
        let t = self.tenant(facts);
        t.live.fetch_sub(1, Ordering::Relaxed);
        t.requests.fetch_add(1, Ordering::Relaxed);
        t.prompt.fetch_add(facts.prompt_tokens as u64, Ordering::Relaxed);
        t.cached.fetch_add(end.usage.cached_tokens as u64, Ordering::Relaxed);
        t.tokens.fetch_add(end.tokens as u64, Ordering::Relaxed);
        let c = &end.usage.cost;
        t.engine_ns.fetch_add(c.prefill_ns + c.decode_ns + c.wasted_ns, Ordering::Relaxed);
    }
}

/// Notes every loaded model's counters until the server is gone.
pub(crate) async fn watch(app: Weak<App>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(app) = app.upgrade() else { return };
        app.models.loaded().iter().for_each(|m| app.meter.sample(&m.name, &m.handle.stats()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at_ms: u64, tokens: u64, firsts: u64, rows: u64) -> Note {
        Note { at: Duration::from_millis(at_ms), tokens, firsts, rows, ..Note::default() }
    }

    #[test]
    fn rows_are_split_into_those_of_prompts_and_those_that_choose() {
        // In three seconds: a prompt of 90 rows whose last gives the first of 31 tokens.
        let notes: VecDeque<Note> = [note(0, 0, 0, 0), note(1000, 11, 1, 100)].into();
        let s = speed(&notes, note(3000, 31, 1, 120));
        assert_eq!((s.decode_tok_s, s.prefill_tok_s), (31.0 / 3.0, 30.0));
        assert_eq!(s.history, [11.0]);
        // A guess of four, two of them right: five rows, three tokens, no row of a prompt.
        let guessed = Note { tested: 4, accepted: 2, ..note(3000, 3, 0, 5) };
        let s = speed(&[note(0, 0, 0, 0)].into(), guessed);
        assert_eq!((s.decode_tok_s, s.prefill_tok_s), (1.0, 0.0));
    }

    #[test]
    fn bytes_are_read_per_second_of_work_and_speeds_are_those_of_the_last_seconds() {
        let at = |s: u64, busy_s: u64, bytes: u64| Note {
            busy_ns: busy_s * 1_000_000_000,
            bytes,
            ..note(s * 1000, 0, 0, 0)
        };
        let notes: VecDeque<Note> = (0..60).map(|s| at(s, s / 2, s * 1_000_000_000)).collect();
        let s = speed(&notes, at(60, 30, 60_000_000_000));
        assert_eq!((s.busy, s.read_gb_s), (2.0 / 3.0, 1.5), "three seconds, two of them of work");
        assert_eq!(speed(&VecDeque::new(), at(9, 4, 5)), Speed::default());
        assert_eq!(s.history.len(), 59);
    }

    #[test]
    fn tenants_beyond_the_bound_are_summed() {
        let all: RwLock<BTreeMap<Arc<str>, Arc<AtomicU64>>> = RwLock::default();
        for i in 0..5 {
            entry(&all, &format!("t{i}").into(), 2).fetch_add(1, Ordering::Relaxed);
        }
        let seen: Vec<(String, u64)> =
            all.read().unwrap().iter().map(|(k, v)| (k.to_string(), v.load(Ordering::Relaxed))).collect();
        assert_eq!(seen, [("others".into(), 3), ("t0".into(), 1), ("t1".into(), 1)]);
    }
}
