//! Requests that come and go at random over a small pool, with drafts and slow readers: the books balance after every
//! step, and every finished answer is the one its request gets alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::OnceLock;

use common::*;
use proptest::prelude::*;
use tamp_base::count::Acts;
use tamp_base::ids::{SeqId, TenantId, Token};
use tamp_base::settings::Settings;
use tamp_engine::outlet::{Receiver, channel};
use tamp_engine::{Answer, Cancel, EngineOptions, Request, Who, policy};
use tamp_sample::{FinishReason, Params};
use tamp_spec::{Draft, Kept, Proposer, SeqView};

const REQUESTS: usize = 9;

/// Requests and the answers they get alone.
fn book() -> &'static Vec<(Request, Answer)> {
    static BOOK: OnceLock<Vec<(Request, Answer)>> = OnceLock::new();
    BOOK.get_or_init(|| {
        (0..REQUESTS as u64)
            .map(|i| {
                let params = [greedy(), warm(i), penalised(i)][i as usize % 3].clone();
                let long = [3, 17, 31, 48][i as usize % 4];
                let r = request(prompt(i, long), 8 + 3 * i as usize, Params { seed: i, ..params });
                let answer = alone(r.clone());
                (r, answer)
            })
            .collect()
    })
}

/// Half right, half wrong, always a tree; asks nobody.
struct Hints;

impl Proposer for Hints {
    fn propose(&mut self, seqs: &[SeqView<'_>]) -> Vec<Draft> {
        let one = |s: &SeqView<'_>| {
            let whole =
                |(_, a): &(Request, Answer)| -> Vec<Token> { [&a.prompt_tokens[..], &a.tokens].concat() };
            let known = book().iter().map(whole).find(|t| t.starts_with(s.tokens))?;
            let mut d = Draft::default();
            d.push(7, None);
            let first = d.push(*known.get(s.tokens.len())?, None);
            d.push(9, first);
            d.push(*known.get(s.tokens.len() + 1)?, first);
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

#[derive(Clone, Debug)]
enum Act {
    Submit(usize, usize),
    Cancel(usize),
    Read(usize),
    HangUp(usize),
    Step(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        5 => (0..REQUESTS, 1usize..12).prop_map(|(r, cap)| Act::Submit(r, cap)),
        1 => (0usize..8).prop_map(Act::Cancel),
        1 => (0usize..8).prop_map(Act::HangUp),
        3 => (0usize..8).prop_map(Act::Read),
        6 => (1usize..6).prop_map(Act::Step),
    ];
    prop::collection::vec(act, 5..50)
}

struct Live {
    request: usize,
    receiver: Receiver,
    cancel: Cancel,
    got: Vec<Token>,
}

/// Reads what is there; true when the sequence is done and right.
fn read(live: &mut Live) -> Result<bool, TestCaseError> {
    let want = &book()[live.request].1;
    let (tokens, answer) = drain(&live.receiver);
    live.got.extend(tokens);
    prop_assert!(want.tokens.starts_with(&live.got), "request {} strayed", live.request);
    let Some(a) = answer else { return Ok(false) };
    prop_assert_eq!(&a.tokens, &live.got);
    if a.finish_reason != FinishReason::Cancelled {
        prop_assert_eq!(&a.tokens, &want.tokens);
        prop_assert_eq!(&a.text, &want.text);
        prop_assert_eq!(a.finish_reason, want.finish_reason);
    }
    Ok(true)
}

fn storm(acts: Vec<Act>, sizes: EngineOptions, policy: usize, drafts: bool) -> Result<(), TestCaseError> {
    let mut settings = Settings::default();
    let name = policy::TABLE.rows[policy % policy::TABLE.rows.len()].card.name;
    settings.add_use(&format!("engine.policy={name}"), "").unwrap();
    settings.add_use(["engine.forecast=mean", "engine.forecast=prompt"][policy / 4], "").unwrap();
    let mut e = engine_with(&weights(), sizes, &settings);
    if drafts {
        e = e.with_proposer(Box::new(Hints));
    }
    let mut live: Vec<Live> = vec![];
    for act in acts {
        match act {
            Act::Submit(request, cap) => {
                let (sender, receiver) = channel(cap);
                let cancel = Cancel::default();
                let who = Who {
                    tenant: TenantId(request as u32 % 3),
                    weight: 1.0 + request as f32,
                    most_running: request % 4,
                    priority: cap as i32 - 6,
                    ..Who::default()
                };
                let r = Request { cancel: cancel.clone(), who, ..book()[request].0.clone() };
                e.submit(r, Box::new(sender)).unwrap();
                live.push(Live { request, receiver, cancel, got: vec![] });
            }
            Act::Cancel(i) if i < live.len() => live[i].cancel.cancel(),
            Act::HangUp(i) if i < live.len() => drop(live.remove(i)),
            Act::Read(i) if i < live.len() && read(&mut live[i])? => drop(live.remove(i)),
            Act::Step(n) => {
                for _ in 0..n {
                    e.step().unwrap();
                    e.integrity().map_err(TestCaseError::fail)?;
                }
            }
            _ => {}
        }
    }
    // Everybody listens now: all must finish.
    for _ in 0..20_000 {
        if e.is_idle() {
            break;
        }
        for l in &mut live {
            read(l)?;
        }
        e.step().unwrap();
        e.integrity().map_err(TestCaseError::fail)?;
    }
    prop_assert!(e.is_idle(), "somebody starves: {:?}", e.stats());
    for l in &mut live {
        read(l)?;
    }
    e.integrity().map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_around_it_an_answer_is_the_same(
        acts in acts(),
        chunk in prop_oneof![Just(4usize), Just(20), Just(64)],
        batch in 1usize..5,
        // the longest request needs 5 pages
        pages in 5usize..16,
        share in prop_oneof![Just(3usize), Just(64)],
        policy in 0usize..8,
        drafts in any::<bool>(),
    ) {
        storm(acts, EngineOptions { pages, share, ..options(80, chunk, batch) }, policy, drafts)?;
    }
}
