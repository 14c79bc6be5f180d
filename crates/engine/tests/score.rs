//! What the model thinks of a given answer is what it would have chosen from.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use tamp_base::scored::log_softmax;
use tamp_base::settings::Settings;
use tamp_engine::{Engine, EngineError, Event, Request};
use tamp_kernels::cpu::Cpu;
use tamp_sample::Params;

fn scores(e: &mut Engine<Cpu>, prompt: &[u32], answer: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    e.score(prompt, answer, &mut |at, logits| -> Result<(), EngineError> {
        assert_eq!(at, all.len());
        all.push(logits.to_vec());
        Ok(())
    })
    .unwrap();
    e.integrity().unwrap();
    assert!(e.is_idle());
    all
}

#[test]
fn a_given_answer_has_the_probabilities_it_was_chosen_with_whatever_the_chunks() {
    let prompt = prompt(3, 50);
    let params = Params { logprobs: Some(2), seed: 4, temperature: 0.9, ..Params::default() };
    let mut told = Vec::new();
    let mut e = engine(options(200, 64, 1));
    let answer = e
        .generate(request(prompt.clone(), 24, params), &mut |event| {
            if let Event::Token { logprobs: Some(l), .. } = event {
                told.push(l.chosen);
            }
        })
        .unwrap();
    assert_eq!((answer.tokens.len(), told.len()), (24, 24));
    let all = scores(&mut e, &prompt, &answer.tokens);
    assert_eq!(all.len(), 24);
    for (i, (logits, want)) in all.iter().zip(&told).enumerate() {
        let got = log_softmax(logits).unwrap()[answer.tokens[i] as usize];
        assert!((got - f64::from(*want)).abs() < 1e-4, "{i}: {got} {want}");
    }
    for chunk in [1, 7] {
        let again = scores(&mut engine(options(200, chunk, 1)), &prompt, &answer.tokens);
        let bits = |v: &[Vec<f32>]| v.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&again) == bits(&all), "chunk {chunk}");
    }
}

#[test]
fn an_engine_chooses_again_after_it_has_scored_and_keys_and_values_count() {
    let prompt = prompt(5, 40);
    let want = alone(request(prompt.clone(), 20, greedy())).tokens;
    let mut e = engine(options(200, 64, 1));
    // Another answer than its own, so that one that is still given would be seen.
    let other: Vec<u32> = want.iter().map(|t| t ^ 1).collect();
    let native = scores(&mut e, &prompt, &other);
    let got = e.generate(request(prompt.clone(), 20, greedy()), &mut |_| ()).unwrap();
    assert_eq!(got.tokens, want);
    let mut settings = Settings::default();
    settings.add_use("kv.codec=f32", "test").unwrap();
    let exact = scores(&mut engine_with(&weights(), options(200, 64, 1), &settings), &prompt, &other);
    assert_ne!(native, exact, "what is scored is what decodes");
}

#[test]
fn a_score_that_cannot_be_is_refused_and_one_that_is_given_up_leaves_an_idle_engine() {
    let mut e = engine(options(64, 64, 2));
    let mut nothing = |_: usize, _: &[f32]| -> Result<(), EngineError> { Ok(()) };
    assert!(matches!(e.score(&prompt(1, 60), &[1; 10], &mut nothing), Err(EngineError::TooLong { .. })));
    assert!(matches!(e.score(&[1], &[u32::MAX], &mut nothing), Err(EngineError::Token { .. })));
    assert!(e.score(&[], &[1], &mut nothing).is_err() && e.score(&[1], &[], &mut nothing).is_err());
    let mut seen = 0;
    let gone = e.score(&prompt(1, 20), &[1; 10], &mut |at, _| {
        seen += 1;
        if at == 3 { Err(EngineError::Gone) } else { Ok(()) }
    });
    assert!(matches!(gone, Err(EngineError::Gone)) && seen == 4 && e.is_idle());
    e.integrity().unwrap();
    let (sender, _receiver) = tamp_engine::outlet::channel(100);
    let r = Request { ..request(prompt(1, 20), 10, greedy()) };
    e.submit(r, Box::new(sender)).unwrap();
    assert!(matches!(e.score(&[1], &[1], &mut nothing), Err(EngineError::Option { name: "score", .. })));
}
