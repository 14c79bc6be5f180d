//! The same tokens whatever runs beside a request and however its rows are cut (DESIGN 5.1).
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use tamp_sample::{FinishReason, Params};

fn lively(tokens: &[u32]) {
    let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
    assert!(distinct.len() > tokens.len() / 3, "only {} distinct tokens: {tokens:?}", distinct.len());
}

fn all_params() -> [Params; 3] {
    [greedy(), warm(11), penalised(5)]
}

#[test]
fn the_chunk_size_does_not_change_the_answer() {
    for params in all_params() {
        let want = alone(request(prompt(1, 70), 30, params.clone()));
        assert_eq!(want.tokens.len(), 30);
        assert_eq!(want.finish_reason, FinishReason::Length);
        lively(&want.tokens);
        for chunk in [1, 7, 16, 33, 70] {
            let mut e = engine(options(100, chunk, 1));
            let got = e.generate(request(prompt(1, 70), 30, params.clone()), &mut |_| ()).unwrap();
            assert_eq!(got.tokens, want.tokens, "chunk {chunk}");
            assert_eq!(got.text, want.text, "chunk {chunk}");
        }
    }
}

#[test]
fn company_does_not_change_the_answer() {
    let requests: Vec<_> = (0..7)
        .map(|i| {
            let params = all_params()[i as usize % 3].clone();
            request(prompt(i, 5 + 13 * i as usize), 10 + i as usize, Params { seed: i, ..params })
        })
        .collect();
    let want: Vec<_> = requests.iter().map(|r| alone(r.clone()).tokens).collect();
    for (chunk, batch) in [(8, 2), (24, 7), (256, 16)] {
        let got = run_all(&mut engine(options(200, chunk, batch)), requests.clone());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(&got.tokens, want, "request {i}, chunk {chunk}, batch {batch}");
        }
    }
}

#[test]
fn losing_its_pages_does_not_change_an_answer() {
    let requests: Vec<_> = (0..5).map(|i| request(prompt(i, 30), 40, warm(i))).collect();
    let want: Vec<_> = requests.iter().map(|r| alone(r.clone()).tokens).collect();
    // Three sequences start; there are pages for two whole ones.
    let mut e = engine(tamp_engine::EngineOptions { pages: 10, ..options(70, 64, 5) });
    let got = run_all(&mut e, requests);
    assert!(e.stats().preemptions > 0, "the pool was large enough for all");
    assert_eq!(got.iter().map(|a| u64::from(a.timings.preemptions > 0)).max(), Some(1));
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(&got.tokens, want);
    }
}

#[test]
fn seed_and_choice_name_the_answer() {
    let answer = |params| alone(request(prompt(3, 9), 20, params)).tokens;
    assert_eq!(answer(warm(1)), answer(warm(1)));
    assert_ne!(answer(warm(1)), answer(warm(2)));
    assert_ne!(answer(warm(1)), answer(Params { choice: 1, ..warm(1) }));
    assert_eq!(answer(Params { seed: 1, ..greedy() }), answer(Params { seed: 2, ..greedy() }));
}

#[test]
fn an_f32_memory_answers_too() {
    let mut s = tamp_base::settings::Settings::default();
    s.add_use("kv.codec=f32", "--use").unwrap();
    s.add_use("weights.decode=f32", "--use").unwrap();
    let mut e = engine_with(&weights(), options(64, 64, 1), &s);
    let a = e.generate(request(prompt(3, 9), 20, greedy()), &mut |_| ()).unwrap();
    lively(&a.tokens);
    assert_eq!(e.plan().kv.formats, ["f32"]);
}
