//! Beside the loop: spans tell what happened, short memory costs time and never an answer.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use tamp_base::settings::Settings;
use tamp_base::span::Kind;
use tamp_engine::outlet::channel;
use tamp_engine::pressure::{Actions, Facts, Pressure};
use tamp_engine::{Cause, KvEvent, Request};

fn requests() -> Vec<Request> {
    (0..6).map(|i| request(prompt(i, 20 + 9 * i as usize), 12, warm(i))).collect()
}

fn traced() -> Settings {
    let mut settings = Settings::default();
    settings.add_use("engine.trace=spans", "test").unwrap();
    settings
}

#[test]
fn the_spans_of_a_request_add_up_to_what_it_was() {
    let mut e = engine_with(&weights(), options(128, 32, 3), &traced());
    let asked: Vec<_> =
        requests().into_iter().zip(100u64..).map(|(r, trace)| Request { trace, ..r }).collect();
    let answers = run_all(&mut e, asked.clone());
    let ring = e.spans().unwrap();
    let (spans, _) = ring.since(0);
    assert_eq!((spans.len() as u64, ring.lost()), (ring.recorded(), 0));
    for (r, a) in asked.iter().zip(&answers) {
        let of = |kind| spans.iter().filter(move |s| s.trace == r.trace && s.kind == kind);
        assert_eq!(of(Kind::Queue).count(), 1);
        let ends: Vec<_> = of(Kind::Request).map(|s| s.rows as usize).collect();
        assert_eq!(ends, [a.tokens.len()]);
        let prefilled: usize = of(Kind::Prefill).map(|s| s.rows as usize).sum();
        assert_eq!(prefilled as u64, a.timings.prompt_rows);
        let chosen: usize = of(Kind::Prefill).chain(of(Kind::Decode)).map(|s| s.kept as usize).sum();
        assert_eq!(chosen, a.tokens.len());
    }
    let steps: Vec<_> = spans.iter().filter(|s| s.kind == Kind::Step).collect();
    let work = e.stats().work;
    assert_eq!(steps.len() as u64, work.target_forwards);
    assert_eq!(steps.iter().map(|s| u64::from(s.rows)).sum::<u64>(), work.target_positions);
}

#[test]
fn tracing_does_not_change_the_answer() {
    let plain = run_all(&mut engine(options(128, 32, 3)), requests());
    let told = run_all(&mut engine_with(&weights(), options(128, 32, 3), &traced()), requests());
    for (a, b) in plain.iter().zip(&told) {
        assert_eq!(a.tokens, b.tokens);
    }
    assert!(engine(options(128, 32, 3)).spans().is_none());
}

/// Says what the turn's number says.
struct Script(fn(u64) -> Actions, u64);

impl Pressure for Script {
    fn look(&mut self, _: Duration, measure: &mut dyn FnMut() -> Facts) -> Actions {
        let facts = measure();
        assert!(facts.pages_free <= facts.pages_total && facts.page > 0);
        self.1 += 1;
        self.0(self.1)
    }
}

#[test]
fn short_memory_takes_pages_back_and_loses_no_answer() {
    let want = run_all(&mut engine(options(128, 32, 6)), requests());
    // Every seventh turn nearly all must go, in between it relaxes: the worst a monitor could do.
    let flutter: fn(u64) -> Actions = |n| match n % 7 {
        5 | 6 => Actions { level: 3, most_running: 1, no_draft: true, ..Actions::default() },
        _ => Actions::default(),
    };
    let mut e = engine(options(128, 32, 6)).with_pressure(Box::new(Script(flutter, 0)));
    let got = run_all(&mut e, requests());
    assert!(e.stats().preemptions > 0, "it never had to give anything up");
    for (a, b) in want.iter().zip(&got) {
        assert_eq!(a.tokens, b.tokens);
    }
}

#[test]
fn no_more_run_than_short_memory_allows() {
    let two: fn(u64) -> Actions = |_| Actions { level: 3, most_running: 2, ..Actions::default() };
    let mut e = engine(options(128, 32, 6)).with_pressure(Box::new(Script(two, 0)));
    let receivers: Vec<_> = requests()
        .into_iter()
        .map(|r| {
            let (sender, receiver) = channel(usize::MAX);
            e.submit(r, Box::new(sender)).unwrap();
            receiver
        })
        .collect();
    let mut most = 0;
    while !e.is_idle() {
        assert!(!e.step().unwrap().parts.is_empty() || e.is_idle());
        e.integrity().unwrap();
        most = most.max(e.stats().running);
    }
    assert_eq!(most, 2);
    assert!(receivers.iter().all(|r| drain(r).1.unwrap().failure.is_none()));
}

#[test]
fn newcomers_are_refused_while_memory_is_short_and_those_inside_finish() {
    let later: fn(u64) -> Actions =
        |n| if n > 3 { Actions { level: 4, refuse_s: 9, ..Actions::default() } } else { Actions::default() };
    let mut e = engine(options(128, 32, 6)).with_pressure(Box::new(Script(later, 0)));
    let intake = e.intake();
    let (first, inside) = channel(usize::MAX);
    intake.send(requests().remove(0), Box::new(first)).unwrap();
    (0..4).for_each(|_| drop(e.step().unwrap()));
    let (second, outside) = channel(usize::MAX);
    intake.send(requests().remove(1), Box::new(second)).unwrap();
    e.step().unwrap();
    let failure = drain(&outside).1.unwrap().failure.unwrap();
    assert_eq!(failure.cause, Cause::Resource);
    assert!(failure.message.contains("try again in 9 s"), "{}", failure.message);
    while !e.is_idle() {
        e.step().unwrap();
    }
    assert!(drain(&inside).1.unwrap().failure.is_none());
}

#[test]
fn short_memory_drops_cached_prefixes_and_listeners_are_told_of_each() {
    let mut settings = Settings::default();
    settings.add_use("kv.prefix=tree", "test").unwrap();
    let late: fn(u64) -> Actions = |n| match n {
        0..1000 => Actions::default(),
        _ => Actions { level: 1, evict_pages: 1000, ..Actions::default() },
    };
    let calm = Script(late, 0);
    let mut e = engine_with(&weights(), options(128, 32, 3), &settings).with_pressure(Box::new(calm));
    e.listen_kv(10_000);
    run_all(&mut e, requests());
    let cached = e.stats().pages_cached;
    assert!(cached > 6, "{cached}");
    let stored = e.take_kv_events();
    let is_stored = |k: &KvEvent| matches!(k, KvEvent::Stored { .. });
    assert_eq!(stored.iter().filter(|k| is_stored(k)).count(), cached);
    let mut e = e.with_pressure(Box::new(Script(late, 1000)));
    e.step().unwrap();
    assert_eq!(e.stats().pages_cached, 0);
    let gone = e.take_kv_events();
    assert_eq!(gone.iter().filter(|k| matches!(k, KvEvent::Removed { .. })).count(), cached);
    e.integrity().unwrap();
}
