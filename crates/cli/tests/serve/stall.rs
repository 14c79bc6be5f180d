//! A reader that stalls is waited for by nobody else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{CTX, Host, full, quantile, scale, text};

/// New tokens of the stalled reader's answers, and how many answers.
const LONG: usize = CTX - 200;
const CHOICES: usize = 4;

/// Events of 64 likelihoods each, more than what sockets hold on their way.
fn wide(i: usize) -> Value {
    json!({"prompt": text(i, 50), "max_tokens": LONG, "temperature": 0.8, "seed": i, "ignore_eos": true,
        "logprobs": 64, "n": CHOICES})
}

/// Gaps between events of eight readers, ms, until `until` says that it is enough.
fn others(host: &Host, rounds: usize) -> (Vec<f64>, Vec<String>) {
    let body = |i: usize| json!({"prompt": text(100 * i, 60), "max_tokens": 150, "temperature": 0.8, "seed": i, "ignore_eos": true});
    let read = |i: usize| {
        let (mut gaps, mut said) = (vec![], String::new());
        for _ in 0..rounds {
            let mut events = host.stream(&body(i));
            let mut before = None;
            while let Some((event, at)) = events.next() {
                gaps.extend(before.replace(at).map(|b| (at - b).as_secs_f64() * 1e3));
                said += event["choices"][0]["text"].as_str().unwrap();
            }
        }
        (gaps, said)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|i| scope.spawn(move || read(i))).collect();
        let all: Vec<_> = all.into_iter().map(|t| t.join().unwrap()).collect();
        let (gaps, said): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (gaps.concat(), said)
    })
}

#[test]
fn a_reader_that_stalls_delays_nobody_and_gets_its_whole_answer_later() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::start(home.path(), &["--batch", "16"]);
    let rounds = scale(2, 6);
    others(&host, 1);
    let (mut quiet, said) = others(&host, rounds);
    let mut stalled = host.stream(&wide(1));
    stalled.next().unwrap();
    // It comes to a halt when the sockets are full, with its pages.
    let tokens = || host.metric("tamp_generation_tokens_total", "");
    host.until("halted", |_| {
        let before = tokens();
        std::thread::sleep(Duration::from_millis(300));
        tokens() == before
    });
    assert!(host.metric("tamp_num_requests_running", "") >= 1.0, "it ended before it could stall");
    let start = std::time::Instant::now();
    let (mut beside, again) = others(&host, rounds);
    std::thread::sleep(Duration::from_secs(scale(3, 30) as u64).saturating_sub(start.elapsed()));
    let got = stalled.rest();
    let (without, with) = (quantile(&mut quiet, 0.99), quantile(&mut beside, 0.99));
    println!(
        "p99 between tokens of 8 others: {without:.2} ms without the stalled reader, {with:.2} ms with it: ×{:.2}",
        with / without
    );
    assert_eq!(said, again, "the others' answers");
    let tokens = |e: &Value| e["choices"][0]["logprobs"]["tokens"].as_array().map_or(0, Vec::len);
    assert_eq!(1 + got.iter().map(tokens).sum::<usize>(), CHOICES * LONG, "tokens of the stalled reader");
    let ends = got.iter().filter(|e| e["choices"][0]["finish_reason"] == "length").count();
    assert_eq!(ends, CHOICES);
    if full() {
        assert!(with <= 1.1 * without, "the others waited");
    }
    host.idle();
    host.stop();
}
