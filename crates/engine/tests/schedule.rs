//! Policies, budgets, deadlines and costs in the real loop: the tokens are those of a request alone, budgets are never
//! overspent, and every nanosecond of a step is somebody's.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tamp_base::clock::{Clock, ManualClock};
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, TenantId, Token};
use tamp_base::settings::Settings;
use tamp_engine::budget::{Budget, Think};
use tamp_engine::outlet::{Receiver, channel};
use tamp_engine::{Answer, Cancel, Engine, EngineOptions, Request, Who, policy};
use tamp_kernels::cpu::Cpu;
use tamp_sample::FinishReason;
use tamp_spec::{Draft, Kept, Proposer, SeqView};
use tamp_text::Tokenizer;

fn names() -> impl Iterator<Item = &'static str> {
    policy::TABLE.rows.iter().map(|e| e.card.name)
}

fn settings(uses: &[&str], sets: &[&str]) -> Settings {
    let mut s = Settings::default();
    uses.iter().for_each(|u| s.add_use(u, "").unwrap());
    sets.iter().for_each(|u| s.add_set(u, "").unwrap());
    s
}

fn with(policy: &str, options: EngineOptions) -> Engine<Cpu> {
    let forecast = ["engine.forecast=none", "engine.forecast=mean"][usize::from(policy == "sjf")];
    engine_with(&weights(), options, &settings(&[&format!("engine.policy={policy}"), forecast], &[]))
}

fn submit(e: &mut Engine<Cpu>, r: Request) -> Receiver {
    let (sender, receiver) = channel(usize::MAX);
    e.submit(r, Box::new(sender)).unwrap();
    receiver
}

/// Guesses what a request alone is answered with, and beside every right guess a wrong one.
struct Knows(Vec<Vec<Token>>);

impl Proposer for Knows {
    fn propose(&mut self, seqs: &[SeqView<'_>]) -> Vec<Draft> {
        let one = |s: &SeqView<'_>| {
            let known = self.0.iter().find(|t| t.starts_with(s.tokens))?;
            let (mut d, mut at) = (Draft::default(), None);
            for &token in known[s.tokens.len()..].iter().take(5) {
                d.push((token + 1) % 250, at);
                at = d.push(token, at);
            }
            Some(d)
        };
        seqs.iter().map(|s| one(s).unwrap_or_default()).collect()
    }
    fn learn(&mut self, _: &[Kept<'_>]) {}
    fn forget(&mut self, _: SeqId) {}
    fn acts(&self) -> Acts {
        Acts::default()
    }
}

fn whole(a: &Answer) -> Vec<Token> {
    [&a.prompt_tokens[..], &a.tokens].concat()
}

#[test]
fn no_policy_changes_a_token_through_preemption_and_cancellation() {
    let who = |i: u64| Who {
        tenant: TenantId(i as u32 % 3),
        weight: 1.0 + i as f32,
        priority: i as i32 % 3 - 1,
        ..Who::default()
    };
    let requests: Vec<Request> = (0..8)
        .map(|i| Request {
            who: who(i),
            ..request(prompt(i, 8 + 9 * i as usize), 20 + 3 * i as usize, warm(i))
        })
        .collect();
    let want: Vec<Answer> = requests.iter().map(|r| alone(r.clone())).collect();
    for name in names() {
        for drafts in [false, true] {
            // the longest needs 8 pages
            let sizes = EngineOptions { pages: 8, share: 16, ..options(128, 48, 4) };
            let mut e = with(name, sizes);
            if drafts {
                e = e.with_proposer(Box::new(Knows(want.iter().map(whole).collect())));
            }
            let cancel = Cancel::default();
            let mut outs = vec![];
            for (i, r) in requests.iter().enumerate() {
                outs.push(submit(&mut e, r.clone()));
                if i % 3 == 0 {
                    outs.push(submit(&mut e, Request { cancel: cancel.clone(), ..r.clone() }));
                }
                e.step().unwrap();
            }
            for n in 0.. {
                if e.is_idle() {
                    break;
                }
                if n == 10 {
                    cancel.cancel();
                }
                e.step().unwrap();
                e.integrity().unwrap();
                assert!(n < 5000, "{name}: somebody starves");
            }
            assert!(e.stats().preemptions > 0, "{name}: the pool was large enough for all");
            let answers: Vec<Answer> = outs.iter().map(|o| drain(o).1.unwrap()).collect();
            let mut ended = 0;
            for a in answers {
                let want = want.iter().find(|w| w.prompt_tokens == a.prompt_tokens).unwrap();
                assert!(want.tokens.starts_with(&a.tokens), "{name}: an answer strayed");
                if a.finish_reason != FinishReason::Cancelled {
                    assert_eq!(a.tokens, want.tokens, "{name}");
                    ended += 1;
                }
            }
            assert!(ended >= 8, "{name}");
        }
    }
}

#[test]
fn a_deadline_ends_a_request_under_every_policy_whether_it_runs_or_waits() {
    for name in names() {
        let clock = Arc::new(ManualClock::default());
        let w = weights();
        let tokenizer = Arc::new(Tokenizer::from_meta(&w.meta).unwrap());
        let s = settings(&[&format!("engine.policy={name}")], &[]);
        let load = || Ok(tokenizer);
        let mut e =
            Engine::load(&w, device(), load, &s, options(200, 64, 1), clock.clone(), &mut |_, _| ()).unwrap();
        let late = Some(Duration::from_millis(50));
        let of = |i, deadline| Request { deadline, ..request(prompt(i, 20), 60, greedy()) };
        let outs = [of(0, late), of(1, late), of(2, None)].map(|r| submit(&mut e, r));
        for _ in 0..5 {
            e.step().unwrap();
        }
        clock.advance(Duration::from_millis(50));
        e.step().unwrap();
        for out in &outs[..2] {
            assert_eq!(drain(out).1.unwrap().finish_reason, FinishReason::Deadline, "{name}");
        }
        while !e.is_idle() {
            e.step().unwrap();
        }
        assert_eq!(drain(&outs[2]).1.unwrap().tokens.len(), 60, "{name}");
    }
}

#[test]
fn a_short_prompt_is_answered_while_a_long_one_prefills() {
    for name in names() {
        let mut e = with(name, EngineOptions { share: 32, ..options(1200, 128, 4) });
        let long = submit(&mut e, request(prompt(1, 1100), 2, greedy()));
        (0..3).for_each(|_| drop(e.step().unwrap()));
        let short = submit(&mut e, request(prompt(2, 60), 4, greedy()));
        e.step().unwrap();
        assert_eq!(drain(&short).0.len(), 1, "{name}: the first token comes with the next pass");
        let (mut passes, mut beside) = (0, 0);
        while drain(&long).1.is_none() {
            let turn = e.step().unwrap();
            let rows: usize = turn.parts.iter().map(|p| p.rows).sum();
            beside = beside.max(if turn.parts.len() > 1 { rows } else { 0 });
            passes += 1;
        }
        assert!(beside <= 32 + 4 + 1, "{name}: {beside} rows in a pass with an answer");
        assert!(passes < 45, "{name}: {passes} passes of 32 rows for 1000");
    }
}

/// Answers `lens.len()` requests that share a budget; tokens said, and what the budget says.
fn spend(
    tokens: u64,
    lens: &[(usize, usize)],
    drafts: bool,
    sets: &[&str],
    batch: usize,
) -> (Vec<Answer>, i64) {
    let requests: Vec<Request> =
        lens.iter().enumerate().map(|(i, &(p, n))| request(prompt(i as u64 % 6, p), n, warm(7))).collect();
    let budget = Arc::new(Budget::new(tokens));
    let mut e = engine_with(&weights(), options(120, 96, batch), &settings(&[], sets));
    if drafts {
        let truth = requests.iter().map(|r| whole(&alone(Request { max_tokens: Some(40), ..r.clone() })));
        e = e.with_proposer(Box::new(Knows(truth.collect())));
    }
    let who = Who { budget: Some(budget.clone()), ..Who::default() };
    let outs: Vec<Receiver> =
        requests.iter().map(|r| submit(&mut e, Request { who: who.clone(), ..r.clone() })).collect();
    for n in 0.. {
        if e.is_idle() {
            break;
        }
        e.step().unwrap();
        e.integrity().unwrap();
        assert!(n < 5000, "somebody waits for a budget for ever");
    }
    let answers: Vec<Answer> = outs.iter().map(|o| drain(o).1.unwrap()).collect();
    let said: usize = answers.iter().map(|a| a.tokens.len()).sum();
    assert_eq!(said as u64, budget.spent());
    assert_eq!(budget.free(), tokens as i64 - said as i64);
    assert!(!drafts || tokens < 20 || e.stats().work.draft_accepted > 0, "no draft was tried");
    (answers, budget.free())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_budget_is_spent_to_the_last_token_and_never_beyond_drafts_or_not(
        lens in prop::collection::vec((1usize..20, 1usize..20), 1..12),
        tokens in 0u64..120,
        batch in 1usize..5,
        drafts in any::<bool>(),
    ) {
        let asked: usize = lens.iter().map(|l| l.1).sum();
        let (answers, free) = spend(tokens, &lens, drafts, &[], batch);
        prop_assert!(free >= 0);
        let said: usize = answers.iter().map(|a| a.tokens.len()).sum();
        prop_assert_eq!(said, asked.min(tokens as usize));
        for (a, &(_, most)) in answers.iter().zip(&lens) {
            prop_assert!(a.tokens.len() <= most);
            prop_assert_eq!(a.finish_reason, FinishReason::Length);
        }
    }

    #[test]
    fn a_soft_budget_lets_answers_under_way_go_on_by_their_slack_and_none_begin(
        tokens in 0u64..60,
        drafts in any::<bool>(),
    ) {
        let lens = [(5, 18); 6];
        let sets = ["engine.gate.tokenbudget.mode=soft", "engine.gate.tokenbudget.slack=3"];
        let (answers, free) = spend(tokens, &lens, drafts, &sets, 3);
        let begun = answers.iter().filter(|a| !a.tokens.is_empty()).count() as i64;
        // of three at a time, all but those that had ended
        prop_assert!(free >= -3 * begun.min(3), "{free} of {tokens}");
        prop_assert!(tokens == 0 || tokens % 18 == 0 || free < 0, "nobody was let go on: {free} of {tokens}");
        prop_assert!(tokens > 0 || begun == 0);
    }
}

#[test]
fn ten_thousand_requests_overspend_nothing() {
    let full = std::env::var_os("TAMP_TEST_FULL").is_some();
    let rounds: usize = if full { 200 } else { 6 };
    for round in 0..rounds as u64 {
        let lens: Vec<_> = (0..50).map(|i| (1 + i % 7, 1 + (i + round as usize) % 9)).collect();
        let asked: usize = lens.iter().map(|l| l.1).sum();
        let tokens = 100 + 7 * (round % 20);
        let (answers, free) = spend(tokens, &lens, round % 2 == 0, &[], 1 + round as usize % 8);
        let said: usize = answers.iter().map(|a| a.tokens.len()).sum();
        assert_eq!((said, free), (asked.min(tokens as usize), tokens as i64 - said as i64));
    }
}

#[test]
fn a_gate_that_binds_nobody_still_counts() {
    let mut e = engine_with(&weights(), options(60, 64, 1), &settings(&["engine.gate=none"], &[]));
    let budget = Arc::new(Budget::new(5));
    let who = Who { budget: Some(budget.clone()), ..Who::default() };
    let out = submit(&mut e, Request { who, ..request(prompt(1, 9), 12, greedy()) });
    while !e.is_idle() {
        e.step().unwrap();
    }
    assert_eq!(drain(&out).1.unwrap().tokens.len(), 12);
    assert_eq!((budget.spent(), budget.free()), (12, -7));
}

/// What an engine answers to a request that may think `most` tokens, and the same with drafts. `open` opens a thought.
fn think(most: usize, open: Token, sets: &[&str], more: Request) -> Answer {
    let of = |drafts: Option<Vec<Token>>| {
        let mut e = engine_with(&weights(), options(120, 96, 1), &settings(&[], sets));
        if let Some(truth) = drafts {
            e = e.with_proposer(Box::new(Knows(vec![truth])));
        }
        let think = Some(Think { open, close: vec![201, 202, 203], inside: false, most });
        let out = submit(&mut e, Request { think, ..more.clone() });
        while !e.is_idle() {
            e.step().unwrap();
            e.integrity().unwrap();
        }
        (drain(&out).1.unwrap(), e.stats().work.draft_accepted)
    };
    let (plain, _) = of(None);
    let (drafted, accepted) = of(Some(whole(&plain)));
    assert_eq!(plain.tokens, drafted.tokens, "drafts changed what a thought says");
    assert!(accepted > 0, "no draft was accepted");
    assert_eq!(plain.timings.token_ns.len() + 1, plain.tokens.len());
    plain
}

#[test]
fn a_thought_ends_at_its_budget_and_the_answer_goes_on_drafts_or_not() {
    let r = request(prompt(3, 9), 60, penalised(4));
    let free = alone(r.clone()).tokens;
    for at in [0, 1, 4, 11] {
        // the first token that has not been said before opens the thought
        let at = (at..).find(|&i| !free[..i].contains(&free[i])).unwrap();
        let open = free[at];
        for most in [0, 1, 2, 7, 20] {
            let a = think(most, open, &[], r.clone());
            let end = at + 1 + most;
            if free[at + 1..end].contains(&201) {
                continue;
            }
            assert_eq!(a.tokens[..end], free[..end], "open at {at}, {most} tokens");
            assert_eq!(a.tokens[end..end + 3], [201, 202, 203], "open at {at}, {most} tokens");
            assert_eq!(a.tokens.len(), 60);
            let soft = ["engine.gate.tokenbudget.mode=soft", "engine.gate.tokenbudget.slack=5"];
            let s = think(most, open, &soft, r.clone());
            let over = (0..=5).find(|o| s.tokens[end + o..].starts_with(&[201, 202, 203]));
            assert!(over.is_some(), "a soft end within 5 of {end}: {:?}", s.tokens);
        }
    }
    // What ends the thought is the caller's too, and within the length.
    let budget = Arc::new(Budget::new(8));
    let mut e = engine(options(120, 96, 1));
    let who = Who { budget: Some(budget.clone()), ..Who::default() };
    let think_5 = Some(Think { open: free[0], close: vec![201, 202, 203], inside: false, most: 5 });
    let out = submit(&mut e, Request { who, think: think_5, ..r.clone() });
    while !e.is_idle() {
        e.step().unwrap();
    }
    assert_eq!(drain(&out).1.unwrap().tokens, [&free[..6], &[201, 202]].concat());
    assert_eq!((budget.spent(), budget.free()), (8, 0));
    let a = think(5, free[0], &[], Request { max_tokens: Some(8), ..r.clone() });
    assert_eq!((a.tokens.len(), a.finish_reason), (8, FinishReason::Length));
}

#[test]
fn a_thought_that_cannot_be_ended_is_refused() {
    let e = engine(options(60, 64, 1));
    let of = |close: Vec<Token>| {
        let think = Some(Think { open: 1, close, ..Think::default() });
        e.check(&Request { think, ..request(prompt(1, 4), 4, greedy()) })
    };
    assert!(of(vec![2, 3]).is_ok());
    assert!(of(vec![]).unwrap_err().to_string().contains("1 to 64 tokens"));
    assert!(of(vec![1; 65]).is_err() && of(vec![9_999_999]).is_err());
}

/// A clock that goes on by an odd amount whenever somebody looks.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Duration::from_nanos(n * 7_001 + (n * n) % 977)
    }
}

#[test]
fn the_costs_of_all_requests_sum_to_the_engines_busy_time() {
    for name in names() {
        let w = weights();
        let tokenizer = Arc::new(Tokenizer::from_meta(&w.meta).unwrap());
        let s = settings(&[&format!("engine.policy={name}")], &[]);
        let sizes = EngineOptions { pages: 12, share: 16, ..options(128, 48, 4) };
        let clock = Arc::new(Ticking::default());
        let requests: Vec<Request> =
            (0..8).map(|i| request(prompt(i, 8 + 9 * i as usize), 20 + 3 * i as usize, warm(i))).collect();
        let truth = requests.iter().map(|r| whole(&alone(r.clone()))).collect();
        let mut e = Engine::load(&w, device(), || Ok(tokenizer), &s, sizes, clock.clone(), &mut |_, _| ())
            .unwrap()
            .with_proposer(Box::new(Knows(truth)));
        let began = clock.now().as_nanos() as u64;
        let answers = run_all(&mut e, requests);
        let passed = clock.now().as_nanos() as u64 - began;
        let cost = |f: fn(&Answer) -> u64| answers.iter().map(f).sum::<u64>();
        let prefill = cost(|a| a.usage.cost.prefill_ns);
        let decode = cost(|a| a.usage.cost.decode_ns);
        let wasted = cost(|a| a.usage.cost.wasted_ns);
        assert_eq!(prefill + decode + wasted, e.stats().busy_ns, "{name}");
        assert!(prefill > 0 && decode > 0 && wasted > 0, "{name}: {prefill} {decode} {wasted}");
        let busy = e.stats().busy_ns as f64 / passed as f64;
        assert!((0.8..=1.0).contains(&busy), "{name}: busy for {busy:.3} of the time");
        let tested = cost(|a| a.usage.draft_tested);
        assert_eq!(tested, e.stats().work.draft_tested, "{name}");
        assert_eq!(cost(|a| a.usage.draft_accepted), e.stats().work.draft_accepted, "{name}");
    }
}

#[test]
fn pages_are_charged_for_the_time_they_are_held() {
    let clock = Arc::new(ManualClock::default());
    let w = weights();
    let tokenizer = Arc::new(Tokenizer::from_meta(&w.meta).unwrap());
    let none = Settings::default();
    let mut e = Engine::load(
        &w,
        device(),
        || Ok(tokenizer),
        &none,
        options(64, 64, 2),
        clock.clone(),
        &mut |_, _| (),
    )
    .unwrap();
    let cancel = Cancel::default();
    let out = submit(&mut e, Request { cancel: cancel.clone(), ..request(prompt(1, 40), 20, greedy()) });
    // 40 positions are three pages, and eight more still are
    for _ in 0..8 {
        e.step().unwrap();
        clock.advance(Duration::from_millis(10));
    }
    cancel.cancel();
    e.step().unwrap();
    assert_eq!(drain(&out).1.unwrap().usage.cost.page_ms, 3 * 80);
}
