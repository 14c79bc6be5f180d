//! The way out: what was begun is finished, nothing is begun, and whoever insists is obeyed.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{CTX, Host, scale, text};
use crate::http::read;

const UNDER_WAY: usize = 50;

#[test]
fn after_a_signal_fifty_requests_are_finished_new_ones_are_refused_and_the_code_is_0() {
    let home = tempfile::tempdir().unwrap();
    let mut host = Host::start(home.path(), &["--batch", "16", "--drain-seconds", "600"]);
    let new = scale(1000, 200);
    let body = |i: usize| json!({"prompt": text(60 * i, 40), "max_tokens": new, "ignore_eos": true, "stream": i.is_multiple_of(2)});
    let mut streams: Vec<TcpStream> =
        (0..UNDER_WAY).map(|i| host.begin("/v1/completions", &body(i))).collect();
    host.until("all are in", |h| {
        let ended = h.metric("tamp_request_success_total", "");
        assert_eq!(ended, 0.0, "some ended before all were in");
        h.under_way() >= UNDER_WAY as f64
    });
    host.signal("-TERM");
    host.until("draining", |h| h.get("/ready").status == 503);
    let refused = host.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    assert_eq!((refused.status, &*refused.code()), (503, "draining"));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(host.get("/live").status, 200, "a supervisor would kill it");
    // Read side by side: who is read last must not be the one that holds the others up.
    let finished: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = streams.iter_mut().map(|s| scope.spawn(|| read(s).unwrap())).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (i, r) in finished.iter().enumerate() {
        assert_eq!(r.status, 200, "request {i}");
        let length = |v: &Value| v["choices"][0]["finish_reason"] == "length";
        match i.is_multiple_of(2) {
            true => assert!(length(r.events().last().unwrap()), "stream {i}"),
            false => {
                assert!(length(&r.json()) && r.json()["usage"]["completion_tokens"] == new, "answer {i}")
            }
        }
    }
    assert_eq!(host.ended().code(), Some(0), "{}", host.said());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut host = Host::start(home.path(), &["--drain-seconds", "600"]);
    // Nobody reads it, so it never ends by itself.
    let wide = json!({"prompt": "a", "max_tokens": CTX - 50, "ignore_eos": true, "logprobs": 64, "n": 4});
    let mut stalled = host.stream(&wide);
    stalled.next().unwrap();
    host.signal("-TERM");
    host.until("draining", |h| h.get("/ready").status == 503);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        host.child.try_wait().unwrap().is_none(),
        "it did not wait for what is under way: {}",
        host.said()
    );
    let start = Instant::now();
    host.signal("-TERM");
    host.ended();
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    assert!(host.said().contains("was ended"), "{}", host.said());
}
