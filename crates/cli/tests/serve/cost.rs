//! What requests are told they cost is what the engine was busy with.

use serde_json::{Value, json};

use crate::host::{Host, quantile, scale, text};

fn cost(answer: &Value) -> f64 {
    let c = &answer["usage"]["cost"];
    ["prefill_ms", "decode_ms", "wasted_ms"].iter().map(|p| c[p].as_f64().unwrap()).sum::<f64>() / 1e3
}

/// Answers of mixed lengths, eight at once; seconds of engine time by what the answers say, and new tokens per second.
fn load(host: &Host, all: usize) -> (f64, f64) {
    let body = |i: usize| {
        json!({"prompt": text(90 * i, 50 + 40 * (i % 9)), "max_tokens": 5 + i % 60, "temperature": 0.8, "seed": i,
            "ignore_eos": true, "n": 1 + i % 3})
    };
    let start = std::time::Instant::now();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let some =
            |k: usize| move || (k..all).step_by(8).map(|i| host.complete(&body(i))).collect::<Vec<_>>();
        let parts: Vec<_> = (0..8).map(|k| scope.spawn(some(k))).collect();
        parts.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let tokens: u64 = answers.iter().map(|a| a["usage"]["completion_tokens"].as_u64().unwrap()).sum();
    (answers.iter().map(cost).sum(), tokens as f64 / start.elapsed().as_secs_f64())
}

#[test]
fn the_costs_of_all_requests_sum_to_the_engines_busy_time() {
    let home = tempfile::tempdir().unwrap();
    // Few pages: what is computed twice is somebody's cost too.
    let host = Host::start(home.path(), &["--batch", "16", "--set", "engine.core.pages=256"]);
    let all = scale(60, 400);
    let (told, _) = load(&host, all);
    // One that leaves is charged as well, though it is told nothing.
    drop(host.begin("/v1/completions", &json!({"prompt": "a", "max_tokens": 50})));
    host.idle();
    let (busy, charged) =
        (host.metric("tamp_busy_seconds_total", ""), host.metric("tamp_request_cost_seconds_total", ""));
    println!("{all} requests: {told:.4} s told, {charged:.4} s charged, {busy:.4} s busy");
    assert!((charged / busy - 1.0).abs() <= 0.01, "{charged} s charged of {busy} s");
    assert!((told / busy - 1.0).abs() <= 0.05 && told <= charged * 1.0001, "{told} s told of {busy} s");
    host.stop();
}

#[test]
fn spans_are_kept_and_what_they_take_is_printed() {
    let home = tempfile::tempdir().unwrap();
    let off = Host::start(home.path(), &["--batch", "16"]);
    let on = Host::start(home.path(), &["--batch", "16", "--use", "engine.trace=spans"]);
    let all = scale(24, 200);
    let (mut without, mut with): (Vec<f64>, Vec<f64>) = (vec![], vec![]);
    for round in 0..scale(3, 11) {
        // In turn, and who begins changes.
        for first in [round % 2 == 0, round % 2 != 0] {
            let (host, rates) = if first { (&off, &mut without) } else { (&on, &mut with) };
            rates.push(load(host, all).1);
        }
    }
    let ratio = quantile(&mut with, 0.5) / quantile(&mut without, 0.5);
    println!("with spans {ratio:.3} of the throughput without");
    assert!(on.metric("tamp_spans_total", "") > 0.0, "nothing was traced");
    assert_eq!(off.metric("tamp_spans_total", ""), 0.0);
    assert!(on.get("/debug/trace").json()["traceEvents"].as_array().is_some_and(|e| !e.is_empty()));
    on.stop();
    off.stop();
}
