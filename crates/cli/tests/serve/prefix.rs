//! What many prompts begin with is computed once, and what a server knew is known again after a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, full, scale, text};

/// Positions of a KV page: only full ones are shared.
const PAGE: usize = 16;

/// A text of about `tokens` tokens, and how many they are.
fn long(host: &Host, tokens: usize) -> (String, usize) {
    let chars = tokens * 1000 / host.count(&text(0, 1000)).max(1);
    let all = text(0, chars);
    let n = host.count(&all);
    (all, n)
}

fn cached(answer: &Value) -> usize {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() as usize
}

#[test]
fn sixteen_requests_that_come_together_compute_their_common_prompt_once() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::start(home.path(), &["--use", "engine.coalesce=prefix"]);
    let (system, tokens) = long(&host, 1000);
    let body = |i: usize| {
        let prompt = format!("{system}\n\nQuestion {i}: what does line {i} say?");
        json!({"prompt": prompt, "max_tokens": 12, "temperature": 0.8, "seed": i, "ignore_eos": true, "logprobs": 1})
    };
    let rows = || host.metric("tamp_forward_rows_total", "");
    let before = rows();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|i| {
                scope.spawn({
                    let b = body(i);
                    let h = &host;
                    move || h.complete(&b)
                })
            })
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let computed = rows() - before;
    let own: usize = together
        .iter()
        .map(|a| a["usage"]["prompt_tokens"].as_u64().unwrap() as usize - tokens + PAGE + 12)
        .sum();
    let hits: usize = together.iter().map(cached).sum();
    println!("16 × {tokens} common tokens: {hits} from the cache, {computed} rows computed");
    // A page at the seam may split otherwise than the text does.
    let shared = (tokens / PAGE - 1) * PAGE;
    assert!(hits >= 15 * shared, "{hits} of {} tokens were shared", 15 * shared);
    assert!(computed <= (tokens + own + 16 * PAGE) as f64, "{computed} rows");
    host.stop();
    let alone = Host::start(home.path(), &["--use", "kv.prefix=none"]);
    for i in [0, 7, 15] {
        assert_eq!(alone.complete(&body(i))["choices"], together[i]["choices"]);
    }
    alone.stop();
}

/// Time to the first event, and everything said.
fn timed(host: &Host, body: &Value) -> (Duration, Vec<Value>, usize) {
    let mut body = body.clone();
    body["stream_options"] = json!({"include_usage": true});
    let start = Instant::now();
    let mut events = host.stream(&body);
    let (first, at) = events.next().unwrap();
    let mut all = vec![first];
    all.extend(events.rest());
    let usage = all.pop().unwrap();
    (at - start, all.into_iter().map(|e| e["choices"].clone()).collect(), cached(&usage))
}

fn with_disk(home: &Path) -> Host {
    let dir = format!("kv.tier.disk.dir={}", home.join("pages").display());
    Host::start(home, &["--use", "kv.tier=disk", "--set", &dir])
}

#[test]
fn a_prompt_is_answered_alike_cold_warm_and_from_the_disk_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let host = with_disk(home.path());
    let (prompt, tokens) = long(&host, 2000);
    let body = json!({"prompt": prompt, "max_tokens": 16, "temperature": 0.8, "seed": 3, "ignore_eos": true, "logprobs": 2});
    // What a first request pays for once is not what is compared.
    host.complete(&json!({"prompt": "warm", "max_tokens": 4}));
    let (cold, said, none) = timed(&host, &body);
    let (warm, again, most) = timed(&host, &body);
    assert_eq!((none, &said), (0, &again));
    host.stop();
    let mut ratios = vec![];
    let mut disk = Duration::MAX;
    for _ in 0..scale(1, 5) {
        let host = with_disk(home.path());
        host.complete(&json!({"prompt": "warm", "max_tokens": 4}));
        let (took, again, got) = timed(&host, &body);
        assert_eq!(said, again, "from the disk");
        assert!(
            got + PAGE >= tokens && got <= most,
            "{got} of {tokens} tokens were read, {most} were in memory"
        );
        ratios.push(cold.as_secs_f64() / took.as_secs_f64());
        disk = disk.min(took);
        host.stop();
    }
    println!(
        "{tokens} tokens: first after {cold:?} cold, {warm:?} warm, {disk:?} from the disk; ratios {ratios:.1?}"
    );
    if full() {
        let best = ratios.iter().copied().fold(0.0, f64::max);
        assert!(best >= 10.0, "from the disk {best:.1} times faster");
    }
}
