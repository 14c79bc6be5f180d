//! The chain against slow and obvious versions of itself.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use tamp_sample::noise::Noise;
use tamp_sample::{Chain, Params, SampleError, dry};
use tamp_text::Tokenizer;
use tamp_text::grammar::{Grammar, GrammarSpec, Grammars};

fn logits(seed: u64, n: usize, spread: f64) -> Vec<f32> {
    let row = Noise::new(seed, 9).at(0);
    (0..n).map(|t| (row.gumbel(t as u32) * spread) as f32).collect()
}

/// Every stage written the long way, with full sorts.
fn naive(p: &Params, prompt: &[u32], answer: &[u32], logits: &[f32], position: usize) -> u32 {
    naive_at(p, prompt, answer, logits, position, &mut None)
}

/// `mu`: mirostat's state, none before the first token.
fn naive_at(
    p: &Params,
    prompt: &[u32],
    answer: &[u32],
    logits: &[f32],
    position: usize,
    mu: &mut Option<f64>,
) -> u32 {
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
    if p.dry_multiplier > 0.0 {
        let mut context = [prompt, answer].concat();
        let last_n = p.dry_last_n.unwrap_or(context.len()).min(context.len());
        context.drain(..context.len() - last_n);
        let punished = x.clone();
        for t in 0..x.len() as u32 {
            let prolonged = |at: usize| {
                (1..=at)
                    .take_while(|&n| {
                        let end = context[context.len() - n];
                        context[at - n] == end && !p.dry_breakers.contains(&end)
                    })
                    .count()
            };
            let places = (1..context.len()).filter(|&at| context[at] == t);
            let n = places.map(prolonged).max().unwrap_or(0);
            if n >= p.dry_allowed_length && !p.dry_breakers.contains(&t) {
                let power = (n - p.dry_allowed_length) as i32;
                let by = f64::from(p.dry_multiplier) * f64::from(p.dry_base).powi(power);
                x[t as usize] = punished[t as usize] - by as f32;
            }
        }
    }
    let mut order: Vec<u32> = (0..x.len() as u32).collect();
    order.sort_by(|&a, &b| x[b as usize].total_cmp(&x[a as usize]).then(a.cmp(&b)));
    if p.temperature == 0.0 {
        return order[0];
    }
    let l = |t: u32| f64::from(x[t as usize]) * (1.0 / f64::from(p.temperature));
    let row = Noise::new(p.seed, p.choice).at(position);
    let score = |t: u32| l(t) + row.gumbel(t);
    let draw = |order: &[u32]| {
        let mut order = order.to_vec();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        order[0]
    };
    let prob = |order: &[u32], t: u32| (l(t) - log_sum(order.iter().map(|&t| l(t)))).exp();
    if p.mirostat == 2 {
        let tau = f64::from(p.mirostat_tau);
        let allowed = mu.unwrap_or(2.0 * tau);
        let kept: Vec<u32> = order
            .iter()
            .enumerate()
            .filter(|&(i, &t)| i == 0 || -prob(&order, t).log2() <= allowed || l(t) == l(order[0]))
            .map(|(_, &t)| t)
            .collect();
        let token = draw(&kept);
        *mu = Some(allowed - f64::from(p.mirostat_eta) * (-prob(&kept, token).log2() - tau));
        return token;
    }
    if p.top_n_sigma > 0.0 {
        let n = order.len() as f64;
        let mean = order.iter().map(|&t| l(t)).sum::<f64>() / n;
        let sd = (order.iter().map(|&t| (l(t) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let floor = l(order[0]) - f64::from(p.top_n_sigma) * sd;
        order.retain(|&t| l(t) >= floor);
    }
    if p.top_k > 0 {
        order.truncate(p.top_k);
    }
    if p.typical_p < 1.0 {
        let entropy: f64 = order.iter().map(|&t| -prob(&order, t) * prob(&order, t).ln()).sum();
        let mut near = order.clone();
        let far = |t: u32| (-prob(&order, t).ln() - entropy).abs();
        near.sort_by(|&a, &b| far(a).total_cmp(&far(b)));
        let mut mass = 0.0;
        let last = near.iter().position(|&t| {
            mass += prob(&order, t);
            mass >= f64::from(p.typical_p)
        });
        near.truncate(last.unwrap_or(near.len() - 1) + 1);
        order.retain(|t| near.contains(t));
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
    if row.coin() < f64::from(p.xtc_probability) {
        let likely = order.iter().filter(|&&t| prob(&order, t) >= f64::from(p.xtc_threshold)).count();
        order.drain(..likely.saturating_sub(1));
    }
    draw(&order)
}

fn log_sum(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = x.clone().fold(f64::NEG_INFINITY, f64::max);
    max + x.map(|v| (v - max).exp()).sum::<f64>().ln()
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
            ..Params::default()
        })
}

/// The same with the stages that are rarely on.
fn all_params() -> impl Strategy<Value = Params> {
    let off = |s: std::ops::Range<f32>, none: f32| prop_oneof![Just(none), s];
    let dry = (off(0.1..3.0, 0.0), 1f32..3.0, 1usize..4, prop::option::of(0usize..12));
    let mirostat = (prop::bool::weighted(0.25), 0.5f32..6.0, 0f32..0.5);
    let keep = (off(0.2..3.0, 0.0), off(0.05..1.0, 1.0));
    (params(), keep, (off(0.1..1.0, 0.0), 0.01f32..0.5), dry, prop::collection::vec(0u32..64, 0..8), mirostat)
        .prop_map(|(p, keep, xtc, dry, breakers, (mirostat, tau, eta))| {
            let temperature = p.temperature.max(0.05);
            let p = Params {
                temperature,
                dry_multiplier: dry.0,
                dry_base: dry.1,
                dry_allowed_length: dry.2,
                dry_last_n: dry.3,
                dry_breakers: breakers,
                ..p
            };
            if mirostat {
                let p = Params { top_k: 0, top_p: 1.0, min_p: 0.0, mirostat: 2, ..p };
                return Params { mirostat_tau: tau, mirostat_eta: eta, ..p };
            }
            let p = Params { top_n_sigma: keep.0, typical_p: keep.1, ..p };
            Params { xtc_probability: xtc.0, xtc_threshold: xtc.1, ..p }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stage_together_is_its_slow_version_committed_or_drafted(
        p in all_params(),
        prompt in prop::collection::vec(0u32..6, 0..24),
        seed in any::<u64>(),
        accepted in prop::collection::vec(1usize..4, 1..4),
        cut in 0usize..3,
    ) {
        let mut mu = None;
        let mut chain = Chain::new(p.clone(), &prompt, 64).unwrap();
        let mut answer = Vec::new();
        for (round, n) in accepted.into_iter().enumerate() {
            // a draft judged to `n` tokens, after a look at fewer that is thrown away
            let rows: Vec<Vec<f32>> =
                (0..n).map(|i| logits(seed ^ (round * 8 + i) as u64, 64, 2.0)).collect();
            for look in [cut.min(n), n] {
                let (mut path, mut slow) = (Vec::new(), mu);
                for x in &rows[..look] {
                    let all = [answer.clone(), path.clone()].concat();
                    let position = prompt.len() + all.len();
                    let want = naive_at(&p, &prompt, &all, x, position, &mut slow);
                    for _ in 0..2 {
                        let got = chain.choose_after(&path, &mut x.clone(), position).unwrap().token;
                        prop_assert_eq!(got, want, "round {} at {}", round, path.len());
                    }
                    path.push(want);
                }
                if look == n {
                    path.iter().for_each(|&t| chain.advance(t));
                    answer.extend(path);
                    mu = slow;
                }
            }
        }
    }

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

/// 256 bytes, then `true`; the end token is 257.
fn tokenizer() -> Arc<Tokenizer> {
    let spell = |b: u8| match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b),
        0..=0x20 => char::from_u32(0x100 + u32::from(b)).unwrap(),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(b) - 0x7f).unwrap(),
        0xad => '\u{143}',
    };
    let mut vocab = serde_json::Map::new();
    (0..=255u8).for_each(|b| drop(vocab.insert(spell(b).to_string(), b.into())));
    vocab.insert("true".into(), 256.into());
    let file = serde_json::json!({
        "added_tokens": [{"id": 257, "content": "<|im_end|>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Arc::new(Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap())
}

const END: u32 = 257;

fn grammar(regex: &str) -> Grammar {
    Grammars::new(&tokenizer()).compile(&GrammarSpec::Regex(regex.into())).unwrap()
}

#[test]
fn a_constrained_answer_matches_at_every_temperature_drafted_or_not() {
    let grammar = grammar("(true|[0-9]{2,4}),(yes|no)");
    for seed in 0..60u64 {
        let temperature = [0.0, 0.7, 2.0][seed as usize % 3];
        let p =
            Params { temperature, seed, repetition_penalty: 1.3, dry_multiplier: 1.0, ..Params::default() };
        let mut plain = Chain::with_constraint(p.clone(), &[1, 2], 300, &grammar).unwrap();
        let mut drafted = plain.clone();
        assert!(plain.needs_full());
        let mut answer = Vec::new();
        while answer.last() != Some(&END) {
            let x = logits(seed * 100 + answer.len() as u64, 300, 3.0);
            let t = plain.choose(&mut x.clone(), answer.len()).unwrap().token;
            assert!(!plain.must_end() || t == END, "what must end has only the end token");
            plain.advance(t);
            answer.push(t);
            assert!(answer.len() < 20);
        }
        // the same answer when three tokens at a time are judged and two of them kept
        let mut again = Vec::new();
        while again.last() != Some(&END) {
            let mut path = Vec::new();
            for i in 0..3 {
                let at = again.len() + i;
                let mut x = logits(seed * 100 + at as u64, 300, 3.0);
                path.push(drafted.choose_after(&path, &mut x, at).unwrap().token);
            }
            for &t in path.iter().take(2) {
                drafted.advance(t);
                again.push(t);
                if t == END {
                    break;
                }
            }
        }
        assert_eq!(again, answer);
        let text: Vec<u8> = answer.iter().flat_map(|&t| tokenizer().bytes(t).to_vec()).collect();
        let text = String::from_utf8(text).unwrap();
        let (first, rest) = text.strip_suffix("<|im_end|>").unwrap().split_once(',').unwrap();
        assert!(first == "true" || (2..=4).contains(&first.len()) && first.parse::<u32>().is_ok(), "{text}");
        assert!(rest == "yes" || rest == "no", "{text}");
    }
}

#[test]
fn a_constraint_leaves_the_logprobs_of_the_raw_logits() {
    let p = Params { logprobs: Some(1), ..Params::default() };
    let grammar = grammar("true");
    let chain = Chain::with_constraint(p, &[], 258, &grammar).unwrap();
    let mut x = vec![0.0f32; 258];
    x[7] = 2.0;
    let c = chain.choose(&mut x, 0).unwrap();
    assert!(c.token == u32::from(b't') || c.token == 256);
    let l = c.logprobs.unwrap();
    let z = (2f64.exp() + 257.0).ln();
    assert_eq!(l.top[0].0, 7);
    assert!((f64::from(l.chosen) + z).abs() < 1e-5);
}

#[test]
fn a_token_against_the_grammar_fails_the_next_choice_in_a_sentence() {
    let mut chain = Chain::with_constraint(Params::default(), &[], 258, &grammar("true")).unwrap();
    chain.advance(u32::from(b'x'));
    let e = chain.choose(&mut [0.0; 258], 1).unwrap_err().to_string();
    assert_eq!(
        e,
        "no token can be chosen at position 1: the grammar does not allow the token 120 (`x`) here"
    );
    assert!(!chain.must_end());
    let chain = Chain::with_constraint(Params::default(), &[], 258, &grammar("true")).unwrap();
    let mut none = vec![f32::NEG_INFINITY; 258];
    none[9] = 1.0;
    assert_eq!(chain.choose(&mut none, 3), Err(SampleError::Empty { position: 3 }));
}

#[test]
fn what_a_constraint_forces_is_a_guess_that_its_masks_take() {
    let chain = Chain::with_constraint(Params::default(), &[], 258, &grammar("true, (a|b)")).unwrap();
    let run = chain.forced(&[]);
    assert!(!run.is_empty());
    let mut path = Vec::new();
    for t in run {
        let mut x = vec![0.0f32; 258];
        x[t as usize] = 1.0;
        assert_eq!(chain.choose_after(&path, &mut x, path.len()).unwrap().token, t);
        path.push(t);
    }
    assert_eq!(tokenizer().decode(&path, false), b"true, ");
    assert!(Chain::new(Params::default(), &[], 258).unwrap().forced(&[]).is_empty());
}

#[test]
fn mirostat_brings_the_surprise_to_what_was_asked() {
    let tau = 2.5;
    let p = Params {
        temperature: 1.0,
        mirostat: 2,
        mirostat_tau: tau,
        mirostat_eta: 0.1,
        seed: 5,
        ..Params::default()
    };
    let mut chain = Chain::new(p, &[], 512).unwrap();
    let (n, mut sum) = (3000, 0.0);
    for position in 0..n {
        let x = logits(position as u64, 512, 1.0);
        let t = chain.choose(&mut x.clone(), position).unwrap().token;
        chain.advance(t);
        let all = x.iter().map(|&v| f64::from(v));
        sum += (log_sum(all) - f64::from(x[t as usize])) / std::f64::consts::LN_2;
    }
    // Surprise is corrected among the kept tokens; under all of them it is higher by the mass that was cut.
    let mean = sum / n as f64;
    assert!(mean > f64::from(tau) && mean < f64::from(tau) + 1.5, "{mean} bits per token");
}

#[test]
fn breakers_are_the_tokens_that_hold_the_string() {
    let t = tokenizer();
    assert_eq!(dry::breakers(&t, &["ru".into(), "\n".into()]).unwrap(), [10, 256]);
    assert!(dry::breakers(&t, &[String::new()]).is_err());
    assert!(dry::breakers(&t, &vec!["a".into(); 33]).is_err());
}
