//! An answer is the same alone and among others, whatever happens to those.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Draw, Host, scale, text};

/// Request `i`: lengths, temperatures and beginnings mixed. A third of the prompts begin alike.
fn body(i: usize) -> Value {
    let mut draw = Draw(i as u64);
    let own = text(draw.below(4000) as usize, 20 + draw.below(300) as usize);
    let prompt = if i.is_multiple_of(3) { text(0, 600) + &own } else { own };
    json!({
        "prompt": prompt, "max_tokens": 1 + draw.below(40), "temperature": (i % 2) as f64 * 0.8, "seed": i,
        "logprobs": 3, "ignore_eos": true,
    })
}

#[test]
fn requests_get_the_same_tokens_and_likelihoods_alone_and_sixteen_at_once() {
    let home = tempfile::tempdir().unwrap();
    let all = scale(24, 200);
    let alone: Vec<Value> = {
        let host = Host::start(home.path(), &["--ctx", "1024", "--use", "kv.prefix=none"]);
        let said = (0..all).map(|i| host.complete(&body(i))["choices"].clone()).collect();
        host.stop();
        said
    };
    // Pages of a context and a half: a fraction of what sixteen take.
    let sizes = ["--ctx", "1024", "--batch", "16"];
    let few = ["--set", "engine.core.pages=96", "--set", "engine.core.chunk=64"];
    let host = Host::start(home.path(), &[&sizes[..], &few].concat());
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let wrong = std::thread::scope(|scope| {
        // Others grow around them beyond what the pages hold, so that some must give theirs up …
        for k in 0..4 {
            let (host, over) = (&host, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let long = json!({"prompt": text(500 * k, 100), "max_tokens": 700, "ignore_eos": true});
                    let mut stream = host.begin("/v1/completions", &long);
                    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    let waits =
                        |e: &std::io::Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    while stream.read(&mut [0; 4096]).is_err_and(|e| waits(&e))
                        && !over.load(Ordering::Relaxed)
                    {}
                }
            });
        }
        // … and others come and are left halfway.
        for k in 0..4 {
            let (host, over) = (&host, &over);
            scope.spawn(move || {
                let mut draw = Draw(1000 + k);
                while !over.load(Ordering::Relaxed) {
                    let prompt = text(if draw.below(2) == 0 { 0 } else { 777 }, 700);
                    let long = json!({"prompt": prompt, "max_tokens": 300, "ignore_eos": true,
                        "stream": draw.below(2) == 0});
                    let stream = host.begin("/v1/completions", &long);
                    std::thread::sleep(Duration::from_millis(50 + draw.below(200)));
                    drop(stream);
                }
            });
        }
        let ask = || {
            let mut wrong = vec![];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= all {
                    return wrong;
                }
                let got = host.complete(&body(i))["choices"].clone();
                if got != alone[i] {
                    wrong.push((i, got));
                }
            }
        };
        let askers: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        let wrong: Vec<_> = askers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        wrong
    });
    assert!(wrong.is_empty(), "{} differ, such as {:?}\nalone {}", wrong.len(), wrong[0], alone[wrong[0].0]);
    host.idle();
    let hits = host.metric("tamp_prefix_cache_hits_total", "");
    let left = host.metric("tamp_request_success_total", "abort");
    let preempted = host.metric("tamp_num_preemptions_total", "");
    println!(
        "{all} requests alike; around them {left} left, {preempted} preemptions, {hits} tokens from the cache"
    );
    assert!(hits > 0.0 && left > 0.0 && preempted > 0.0, "nothing happened around them");
    host.stop();
}
