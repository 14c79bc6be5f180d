//! How sequences begin, wait, end and are refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tamp_base::settings::Settings;
use tamp_engine::outlet::channel;
use tamp_engine::{Cancel, Cause, Engine, EngineError, EngineOptions, Event, Request};
use tamp_kernels::cpu::Cpu;
use tamp_sample::FinishReason;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

fn steps(e: &mut Engine<Cpu>, n: usize) {
    for _ in 0..n {
        e.step().unwrap();
        e.integrity().unwrap();
    }
}

#[test]
fn a_cancelled_sequence_ends_within_one_step_and_frees_its_pages() {
    let mut e = engine(options(200, 64, 4));
    let (cancel, hung_up) = (Cancel::default(), channel(100));
    let (sender, receiver) = channel(100);
    let r = Request { cancel: cancel.clone(), ..request(prompt(1, 40), 100, greedy()) };
    e.submit(r, Box::new(sender)).unwrap();
    e.submit(request(prompt(2, 40), 100, greedy()), Box::new(hung_up.0)).unwrap();
    steps(&mut e, 5);
    cancel.cancel();
    drop(hung_up.1);
    steps(&mut e, 1);
    assert!(e.is_idle());
    let answer = drain(&receiver).1.unwrap();
    assert_eq!(answer.finish_reason, FinishReason::Cancelled);
    assert!(!answer.tokens.is_empty() && answer.tokens.len() < 10);
}

#[test]
fn a_full_outlet_pauses_its_own_sequence_only_and_loses_nothing() {
    let want: Vec<_> = (0..2).map(|i| alone(request(prompt(i, 20), 30, warm(i))).tokens).collect();
    let mut e = engine(options(60, 64, 2));
    let (slow, slow_rx) = channel(3);
    let (fast, fast_rx) = channel(1000);
    e.submit(request(prompt(0, 20), 30, warm(0)), Box::new(slow)).unwrap();
    e.submit(request(prompt(1, 20), 30, warm(1)), Box::new(fast)).unwrap();
    steps(&mut e, 40);
    assert_eq!(drain(&fast_rx).1.unwrap().tokens, want[1]);
    assert!(e.step().unwrap().parts.is_empty(), "nobody takes what the other one says");
    let mut got = vec![];
    let answer = loop {
        let (tokens, answer) = drain(&slow_rx);
        assert!(tokens.len() <= 3);
        got.extend(tokens);
        if let Some(answer) = answer {
            break answer;
        }
        steps(&mut e, 1);
    };
    assert_eq!((&got, &answer.tokens), (&want[0], &want[0]));
}

#[test]
fn a_stalled_reader_gives_its_pages_to_those_who_listen() {
    let want: Vec<_> = (0..2).map(|i| alone(request(prompt(i, 30), 30, warm(i))).tokens).collect();
    // four pages: one whole sequence
    let mut e = engine(EngineOptions { pages: 4, ..options(60, 64, 2) });
    let (stalled, stalled_rx) = channel(2);
    let (fast, fast_rx) = channel(1000);
    e.submit(request(prompt(0, 30), 30, warm(0)), Box::new(stalled)).unwrap();
    steps(&mut e, 3);
    e.submit(request(prompt(1, 30), 30, warm(1)), Box::new(fast)).unwrap();
    steps(&mut e, 40);
    assert_eq!(drain(&fast_rx).1.unwrap().tokens, want[1]);
    let mut got = vec![];
    while !e.is_idle() {
        got.extend(drain(&stalled_rx).0);
        steps(&mut e, 1);
    }
    got.extend(drain(&stalled_rx).0);
    assert_eq!(got, want[0]);
}

#[test]
fn what_cannot_work_is_refused_in_one_sentence() {
    let mut e = engine(EngineOptions { pages: 5, ..options(100, 64, 1) });
    let mut refuse = |r: Request, want: &str| {
        let (sender, _receiver) = channel(9);
        assert_eq!(e.submit(r, Box::new(sender)).unwrap_err().to_string(), want);
        assert!(e.is_idle());
        e.integrity().unwrap();
    };
    refuse(request(vec![], 5, greedy()), "the prompt has no tokens; give at least one");
    refuse(
        request(prompt(1, 100), 1, greedy()),
        "the prompt has 100 tokens, and the context holds 100; shorten the prompt or use a larger --ctx",
    );
    refuse(
        request(prompt(1, 90), 11, greedy()),
        "90 prompt tokens and 11 new tokens need 101 positions, more than the context of 100; use a smaller --max-tokens or a \
         larger --ctx",
    );
    refuse(
        request(prompt(1, 60), 40, greedy()),
        "100 tokens need 7 KV pages, and there are 5; use a smaller --max-tokens or a larger --ctx",
    );
    refuse(request(prompt(1, 4), 0, greedy()), "max_tokens = 0 does not work: ask for at least 1");
    let mut hot = greedy();
    hot.temperature = f32::NAN;
    refuse(
        request(prompt(1, 4), 4, hot),
        "temperature = NaN is out of range; expected a number from 0 to 100",
    );
    let r = Request { stop: vec![String::new()], ..request(prompt(1, 4), 4, greedy()) };
    refuse(r, "stop = a string of 0 bytes is out of range; expected 1 to 512 bytes");
    let (sender, _receiver) = channel(9);
    let odd = e.submit(request(vec![99_999], 4, greedy()), Box::new(sender)).unwrap_err();
    assert!(matches!(odd, EngineError::Token { token: 99_999, .. }));
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let shape = engine(options(64, 64, 1)).model().shape.clone();
    let refuse = |o: EngineOptions| o.resolve(&shape).unwrap_err().to_string();
    assert_eq!(
        refuse(options(4096, 64, 1)),
        "ctx = 4096 does not work: the model was made for 2048 positions"
    );
    assert_eq!(refuse(options(64, 0, 1)), "chunk = 0 does not work: it must be at least 1");
    assert_eq!(options(0, 64, 1).resolve(&shape).unwrap().ctx, 2048);
    let mut windowed = shape.clone();
    windowed.window = Some(128);
    assert_eq!(options(0, 64, 1).resolve(&windowed).unwrap().ctx, 128);
    assert!(options(129, 64, 1).resolve(&windowed).is_err());
}

#[test]
fn an_answer_ends_before_its_stop_string_and_at_its_end_token() {
    let whole = alone(request(prompt(4, 12), 60, warm(4)));
    let text: Vec<char> = whole.text.chars().collect();
    let stop: String = text[text.len() / 2..text.len() / 2 + 3].iter().collect();
    let r = Request { stop: vec![stop.clone()], ..request(prompt(4, 12), 60, warm(4)) };
    let mut streamed = String::new();
    let a = engine(options(80, 64, 1))
        .generate(r, &mut |event| match event {
            Event::Token { text, .. } | Event::Text(text) => streamed += text,
            Event::Done(_) => {}
        })
        .unwrap();
    assert_eq!(a.finish_reason, FinishReason::Stop);
    assert_eq!(a.text, whole.text[..whole.text.find(&stop).unwrap()]);
    assert_eq!(streamed, a.text);
    assert_eq!(a.tokens[..], whole.tokens[..a.tokens.len()]);

    let mut e = engine(options(80, 64, 1));
    let end = e.tokenizer().ends().next().unwrap();
    let mut biased = greedy();
    biased.logit_bias = vec![(end, 100.0)];
    let r = Request { ignore_eos: false, ..request(prompt(4, 12), 60, biased.clone()) };
    let a = e.generate(r, &mut |_| ()).unwrap();
    assert_eq!((a.finish_reason, a.tokens.len(), a.text.as_str()), (FinishReason::Stop, 0, ""));
    let a = e.generate(request(prompt(4, 12), 3, biased), &mut |_| ()).unwrap();
    assert_eq!((a.finish_reason, a.tokens), (FinishReason::Length, vec![end; 3]));
}

#[test]
fn without_a_limit_the_context_is_the_limit() {
    let r = Request { max_tokens: None, ..request(prompt(1, 10), 1, greedy()) };
    let a = engine(options(40, 64, 1)).generate(r, &mut |_| ()).unwrap();
    assert_eq!((a.tokens.len(), a.finish_reason), (30, FinishReason::Length));
}

#[test]
fn broken_logits_end_their_sequence_and_no_other() {
    const POISON: u32 = 251;
    let file = Tiny::new(Arch::Qwen2, 7).tied(false).build();
    let healthy = Weights::from_gguf_bytes(file.clone()).unwrap();
    let weights = {
        let (mut file, row) = (file, healthy.tensor("token_embd.weight").unwrap().unwrap());
        let bytes = row.bytes.len() / row.shape[1];
        let row = &row.bytes[POISON as usize * bytes..][..bytes];
        let at = file.windows(bytes).position(|w| w == row).unwrap();
        file[at..at + bytes].fill(0xff);
        Weights::from_gguf_bytes(file).unwrap()
    };
    for params in [greedy(), warm(3)] {
        let good = request(prompt(1, 40), 20, params.clone());
        let want = engine_with(&healthy, options(100, 64, 1), &Settings::default())
            .generate(good.clone(), &mut |_| ())
            .unwrap();
        let bad = request([prompt(2, 30), vec![POISON; 20]].concat(), 20, params);
        let mut e =
            engine_with(&weights, EngineOptions { pages: 12, ..options(100, 64, 3) }, &Settings::default());
        // before, beside and after the broken one, over the same pages
        for requests in [vec![good.clone(), bad.clone()], vec![bad.clone(), good.clone()], vec![good.clone()]]
        {
            for answer in run_all(&mut e, requests) {
                if answer.prompt_tokens == good.prompt {
                    assert_eq!(answer.tokens, want.tokens);
                    continue;
                }
                assert_eq!(answer.finish_reason, FinishReason::Error);
                let failure = answer.failure.unwrap();
                assert_eq!(failure.cause, Cause::Model, "{}", failure.message);
            }
        }
    }
}

#[test]
fn an_engine_lives_on_a_thread_of_its_own() {
    let want: Vec<_> = (0..4).map(|i| alone(request(prompt(i, 20), 20, warm(i))).tokens).collect();
    let mut e = engine(options(60, 64, 4));
    let intake = e.intake();
    let server = std::thread::spawn(move || {
        while e.stats().finished < 4 {
            if e.step().unwrap().parts.is_empty() {
                e.wait(Duration::from_millis(5));
            }
        }
        e.integrity().unwrap();
    });
    let receivers: Vec<_> = (0..4)
        .map(|i| {
            let (sender, receiver) = channel(4);
            intake.send(request(prompt(i, 20), 20, warm(i)), Box::new(sender)).unwrap();
            receiver
        })
        .collect();
    let (sender, refused) = channel(4);
    intake.send(request(vec![], 20, greedy()), Box::new(sender)).unwrap();
    for (receiver, want) in receivers.iter().zip(&want) {
        let mut got = vec![];
        let answer = loop {
            match receiver.recv_timeout(Duration::from_secs(20)).expect("the engine went silent") {
                Event::Token { token, .. } => got.push(token),
                Event::Text(_) => {}
                Event::Done(a) => break a,
            }
        };
        assert_eq!((&got, &answer.tokens), (want, want));
    }
    let Some(Event::Done(a)) = refused.recv_timeout(Duration::from_secs(20)) else { panic!("no answer") };
    assert_eq!(a.failure.unwrap().cause, Cause::Request);
    server.join().unwrap();
    let (sender, _r) = channel(4);
    let gone = intake.send(request(vec![1], 1, greedy()), Box::new(sender));
    assert!(matches!(gone, Err(EngineError::Gone)));
}

#[test]
fn times_are_told_from_receipt() {
    let w = weights();
    let clock = Arc::new(tamp_base::clock::ManualClock::default());
    let tokenizer = Arc::new(tamp_text::Tokenizer::from_meta(&w.meta).unwrap());
    let mut e = Engine::load(
        &w,
        device(),
        || Ok(tokenizer),
        &Settings::default(),
        options(60, 8, 1),
        clock.clone(),
        &mut |_, _| (),
    )
    .unwrap();
    clock.advance(Duration::from_nanos(1000));
    let (sender, receiver) = channel(100);
    e.submit(request(prompt(1, 20), 3, greedy()), Box::new(sender)).unwrap();
    // three prompt chunks and two more tokens; every step begins 10 ns after the last
    for _ in 0..5 {
        clock.advance(Duration::from_nanos(10));
        e.step().unwrap();
    }
    let t = drain(&receiver).1.unwrap().timings;
    assert_eq!((t.received_ns, t.queue_ns, t.prefill_ns, t.first_token_ns), (1000, 10, 20, 30));
    assert_eq!((t.token_ns, t.total_ns, t.prompt_rows), (vec![10, 10], 50, 20));
    let work = e.stats().work;
    assert_eq!((work.target_forwards, work.target_positions), (5, 22));
}

#[test]
fn a_plan_says_what_runs_and_its_hash_follows() {
    let a = engine(options(64, 64, 1));
    let b = engine(options(64, 64, 1));
    let c = engine(options(48, 64, 1));
    assert_eq!(a.plan().hash, b.plan().hash);
    assert_eq!(a.plan().memory.kv, b.plan().memory.kv);
    assert_ne!(a.plan().hash, c.plan().hash);
    let text = a.plan().to_string();
    for word in
        ["kernel ffn_down", "spec.propose: none", "engine.policy: fcfs", "MB after load", &a.plan().hash]
    {
        assert!(text.contains(word), "{word} is missing from\n{text}");
    }
    let json = serde_json::to_value(a.plan()).unwrap();
    assert_eq!((json["kind"].as_str(), json["v"].as_u64()), (Some("tamp.plan"), Some(1)));
    let m = a.plan().memory;
    assert!(m.after_load > 0 && m.at_full > m.after_load + m.kv);
}

#[test]
fn a_tokenizer_that_cannot_be_made_while_the_weights_load_is_the_error_of_the_load() {
    let w = weights();
    let clock = Arc::new(tamp_base::clock::ManualClock::default());
    let empty = tamp_base::meta::Meta::default();
    let tokenizer = || Ok(Arc::new(tamp_text::Tokenizer::from_meta(&empty)?));
    let settings = Settings::default();
    let e = Engine::load(&w, device(), tokenizer, &settings, options(60, 8, 1), clock, &mut |_, _| ());
    assert!(matches!(e.err(), Some(EngineError::Text(_))));
}

#[test]
fn a_default_that_is_said_aloud_is_the_same_plan_and_another_choice_is_not() {
    let plan = |used: &[&str]| {
        let mut settings = Settings::default();
        used.iter().for_each(|u| settings.add_use(u, "--use").unwrap());
        engine_with(&weights(), options(64, 64, 1), &settings).plan().clone()
    };
    let (usual, aloud, other) = (plan(&[]), plan(&["kv.codec=f16"]), plan(&["kv.codec=f32"]));
    let from = |p: &tamp_engine::Plan| p.techniques.iter().map(|t| t.from.clone()).collect::<Vec<_>>();
    assert_ne!(from(&usual), from(&aloud), "the plan still says who chose");
    assert_eq!(usual.hash, aloud.hash);
    assert_ne!(usual.hash, other.hash);
}
