//! The chain against slow and obvious versions of itself.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tamp_sample::noise::Noise;
use tamp_sample::{Chain, Params, SampleError};

fn logits(seed: u64, n: usize, spread: f64) -> Vec<f32> {
    let row = Noise::new(seed, 9).at(0);
    (0..n).map(|t| (row.gumbel(t as u32) * spread) as f32).collect()
}

/// Every stage written the long way, with full sorts.
fn naive(p: &Params, prompt: &[u32], answer: &[u32], logits: &[f32], position: usize) -> u32 {
    let mut x: Vec<f32> = logits.to_vec();
    for &(t, b) in &p.logit_bias {
        x[t as usize] += b;
    }
    for t in 0..x.len() as u32 {
        let count = answer.iter().filter(|&&a| a == t).count();
        if count > 0 || prompt.contains(&t) {
            let v = &mut x[t as usize];
            *v = if *v > 0.0 { *v / p.repetition_penalty } else { *v * p.repetition_penalty };
        }
        if count > 0 {
            x[t as usize] -= p.presence_penalty + p.frequency_penalty * count as f32;
        }
    }
    let mut order: Vec<u32> = (0..x.len() as u32).collect();
    order.sort_by(|&a, &b| x[b as usize].total_cmp(&x[a as usize]).then(a.cmp(&b)));
    if p.temperature == 0.0 {
        return order[0];
    }
    let l = |t: u32| f64::from(x[t as usize]) * (1.0 / f64::from(p.temperature));
    if p.top_k > 0 {
        order.truncate(p.top_k);
    }
    let max = l(order[0]);
    let weight = |t: u32| (l(t) - max).exp();
    if p.top_p < 1.0 {
        let goal = f64::from(p.top_p) * order.iter().map(|&t| weight(t)).sum::<f64>();
        let mut mass = 0.0;
        let last = order.iter().position(|&t| {
            mass += weight(t);
            mass >= goal
        });
        order.truncate(last.unwrap_or(order.len() - 1) + 1);
    }
    order.retain(|&t| weight(t) >= f64::from(p.min_p));
    let row = Noise::new(p.seed, p.choice).at(position);
    let score = |t: u32| l(t) + row.gumbel(t);
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    order[0]
}

fn params() -> impl Strategy<Value = Params> {
    let temperature = prop_oneof![1 => Just(0.0f32), 3 => 0.05f32..3.0];
    let off = |s: std::ops::Range<f32>, none: f32| prop_oneof![Just(none), s];
    (
        temperature,
        prop_oneof![Just(0usize), 1usize..40],
        off(0.05..1.0, 1.0),
        off(0.01..0.5, 0.0),
        off(0.5..2.0, 1.0),
        (off(-2.0..2.0, 0.0), off(-2.0..2.0, 0.0)),
        prop::collection::vec((0u32..64, -8f32..8.0), 0..4),
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, min_p, rep, (pres, freq), logit_bias, seed)| Params {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: rep,
            presence_penalty: pres,
            frequency_penalty: freq,
            logit_bias,
            seed,
            choice: (seed % 3) as u32,
            logprobs: None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_chain_is_its_slow_version(
        p in params(),
        prompt in prop::collection::vec(0u32..64, 0..6),
        answer in prop::collection::vec(0u32..64, 0..6),
        cut in 0usize..6,
        seed in any::<u64>(),
        position in 0usize..5000,
    ) {
        let x = logits(seed, 64, 2.0);
        let want = naive(&p, &prompt, &answer, &x, position);
        // committed or on the path, the same tokens give the same choice
        let cut = cut.min(answer.len());
        let mut chain = Chain::new(p, &prompt, 64).unwrap();
        answer[..cut].iter().for_each(|&t| chain.advance(t));
        let first = chain.choose_after(&answer[cut..], &mut x.clone(), position).unwrap().token;
        prop_assert_eq!(first, want);
        let again = chain.choose_after(&answer[cut..], &mut x.clone(), position).unwrap().token;
        prop_assert_eq!(again, want, "judging changes no state");
        answer[cut..].iter().for_each(|&t| chain.advance(t));
        prop_assert_eq!(chain.choose(&mut x.clone(), position).unwrap().token, want);
        if !chain.needs_full() {
            let best = (0..64).fold(0, |b, i| if x[i] > x[b] { i } else { b });
            prop_assert_eq!(chain.take_best(best as u32, false, position).unwrap().token, want);
        }
    }
}

#[test]
fn draws_follow_the_softmax() {
    let x = [0.0f32, 1.0, 2.0, -1.0, 0.5, 2.0];
    let p = Params { temperature: 0.8, seed: 77, ..Params::default() };
    let chain = Chain::new(p, &[], x.len()).unwrap();
    let n = 60_000;
    let mut counts = [0f64; 6];
    for position in 0..n {
        counts[chain.choose(&mut x.clone(), position).unwrap().token as usize] += 1.0;
    }
    let w: Vec<f64> = x.iter().map(|&v| (f64::from(v) / 0.8).exp()).collect();
    let total: f64 = w.iter().sum();
    let chi2: f64 = counts
        .iter()
        .zip(&w)
        .map(|(c, w)| {
            let e = n as f64 * w / total;
            (c - e) * (c - e) / e
        })
        .sum();
    // 5 degrees of freedom: P(χ² > 25.7) = 1e-4
    assert!(chi2 < 25.7, "χ² = {chi2}, counts {counts:?}");
}

#[test]
fn ties_go_to_the_lowest_id() {
    let chain = Chain::new(Params::default(), &[], 4).unwrap();
    assert_eq!(chain.choose(&mut [1.0, 3.0, 3.0, 2.0], 0).unwrap().token, 1);
}

#[test]
fn broken_logits_are_an_error_not_a_choice() {
    let chain = Chain::new(Params { temperature: 1.0, ..Params::default() }, &[], 3).unwrap();
    let nan = chain.choose(&mut [0.0, f32::NAN, 1.0], 7).unwrap_err();
    assert!(matches!(nan, SampleError::Logit { token: 1, position: 7, .. }), "{nan}");
    assert!(chain.choose(&mut [0.0, f32::INFINITY, 1.0], 7).is_err());
    let none = f32::NEG_INFINITY;
    assert_eq!(chain.choose(&mut [none; 3], 7), Err(SampleError::Empty { position: 7 }));
    assert_eq!(chain.choose(&mut [none, none, -5.0], 7).unwrap().token, 2);
    assert!(chain.take_best(1, true, 7).is_err());
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let p = Params { logprobs: Some(2), logit_bias: vec![(0, 50.0)], ..Params::default() };
    let chain = Chain::new(p, &[], 3).unwrap();
    let c = chain.choose(&mut [0.0, 1.0, 2.0], 0).unwrap();
    assert_eq!(c.token, 0);
    let l = c.logprobs.unwrap();
    let z = (1f64 + 1f64.exp() + 2f64.exp()).ln();
    assert!((f64::from(l.chosen) + z).abs() < 1e-6);
    assert_eq!(l.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
    assert!((f64::from(l.top[0].1) - (2.0 - z)).abs() < 1e-6);
}
