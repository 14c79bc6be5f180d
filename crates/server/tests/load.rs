//! Many callers: one answer, leaving, stalling, the queue, the way out.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use common::{CTX, options, read, start, start_with};
use serde_json::{Value, json};
use tamp_engine::EngineOptions;
use tamp_server::error::ApiError;
use tamp_server::observe::{End, Facts, Observe, Observers, Served};
use tower::ServiceExt;

/// As long as the context allows.
fn long(stream: bool) -> Value {
    json!({"prompt": "a", "max_tokens": CTX - 8, "ignore_eos": true, "stream": stream})
}

#[test]
fn one_answer_whatever_else_is_served() {
    let s = start();
    let body = |i: u64| {
        json!({
            "prompt": "the cat sat on the mat ".repeat(1 + i as usize % 5), "seed": i, "max_tokens": 4 + i % 23,
            "temperature": (i % 3) as f64 * 0.5, "logprobs": 2, "ignore_eos": true,
        })
    };
    let ask = |i: u64| s.post("/v1/completions", &body(i)).json()["choices"].clone();
    let alone: Vec<Value> = (0..24).map(ask).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let noise = scope.spawn(|| {
            for i in 0..12 {
                let stream = s.begin("/v1/completions", &long(i % 2 == 0));
                std::thread::sleep(Duration::from_millis(5));
                drop(stream);
            }
        });
        let all: Vec<_> = (0..24).map(|i| scope.spawn(move || ask(i))).collect();
        let got = all.into_iter().map(|t| t.join().unwrap()).collect();
        noise.join().unwrap();
        got
    });
    assert_eq!(alone, together);
    s.idle();
}

#[test]
fn a_client_that_leaves_stops_costing_at_once() {
    let s = start();
    for streams in [true, false] {
        for _ in 0..5 {
            let stream = s.begin("/v1/completions", &long(streams));
            s.busy();
            drop(stream);
            let before = s.handle.stats().work;
            s.idle();
            let rows = s.handle.stats().work.target_positions - before.target_positions;
            assert!(rows < 1000, "{rows} rows after the client left");
        }
    }
    let stats = s.handle.stats();
    assert_eq!((stats.pages_free, stats.running), (stats.pages_total, 0));
}

#[test]
fn a_reader_that_stalls_pauses_itself_alone_and_loses_nothing() {
    let s = start();
    let router = tamp_server::route::router(s.app.clone());
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let request = Request::post("/v1/completions")
        .header("host", "127.0.0.1")
        .header("content-type", "application/json")
        .body(Body::from(long(true).to_string()))
        .unwrap();
    let response = rt.block_on(router.oneshot(request)).unwrap();
    assert_eq!(response.status(), 200);
    // Nobody reads: the sequence comes to a halt, with its pages.
    let mut last = 0;
    let halted = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let now = s.handle.stats().work.target_positions;
        std::mem::replace(&mut last, now) == now && s.handle.stats().running == 1
    });
    assert!(halted && last < 1000, "{last} rows for a reader that reads nothing");
    for _ in 0..3 {
        let r = s.post("/v1/completions", &json!({"prompt": "b", "max_tokens": 8, "ignore_eos": true}));
        assert_eq!(r.status, 200);
    }
    let body = rt.block_on(axum::body::to_bytes(response.into_body(), 1 << 28)).unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n") && text.contains("\"finish_reason\":\"length\""));
    s.idle();
}

#[test]
fn a_reader_that_never_comes_back_is_let_go() {
    let s = start_with(options(), |app| app.limits.stall = Duration::from_millis(200));
    let router = tamp_server::route::router(s.app.clone());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = Request::post("/v1/completions")
        .header("host", "127.0.0.1")
        .header("content-type", "application/json")
        .body(Body::from(long(true).to_string()))
        .unwrap();
    let response = rt.block_on(router.oneshot(request)).unwrap();
    s.idle();
    drop(response);
}

#[test]
fn a_full_queue_says_when_to_come_back_and_loses_nobody() {
    let s = start_with(EngineOptions { queue: 2, batch: 1, ..options() }, |_| ());
    let body = json!({"prompt": "a", "max_tokens": 400, "ignore_eos": true});
    let answers: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..24).map(|_| scope.spawn(|| s.post("/v1/completions", &body))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut refused = 0;
    for r in &answers {
        match r.status {
            200 => assert_eq!(r.json()["usage"]["completion_tokens"], 400),
            429 => {
                refused += 1;
                assert_eq!(r.code(), "queue_full");
                assert!(r.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
            }
            other => panic!("{other}: {r:?}"),
        }
    }
    assert!(refused > 0 && refused < 24, "{refused} of 24 were refused");
    s.idle();
}

#[test]
fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut s = start();
    let mut streams: Vec<_> = (0..8)
        .map(|i| {
            s.begin(
                "/v1/completions",
                &json!({"prompt": "a", "max_tokens": 600, "ignore_eos": true, "stream": i % 2 == 0}),
            )
        })
        .collect();
    let start = Instant::now();
    while s.app.drain.busy() < 8 {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(s.get("/ready").status, 200);
    s.app.drain.begin();
    let (live, health, ready) = (s.get("/live"), s.get("/health"), s.get("/ready"));
    assert_eq!((live.status, health.status, ready.status), (200, 503, 503));
    assert!(live.body.is_empty() && health.body.is_empty());
    let new = s.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1}));
    assert_eq!((new.status, &*new.code()), (503, "draining"));
    assert!(new.header("retry-after").is_some());
    for (i, stream) in streams.iter_mut().enumerate() {
        let r = read(stream).unwrap();
        assert_eq!(r.status, 200);
        if i % 2 == 0 {
            assert!(String::from_utf8_lossy(&r.body).ends_with("data: [DONE]\n\n"));
        } else {
            assert_eq!(r.json()["usage"]["completion_tokens"], 600);
        }
    }
    assert!(s.thread.take().unwrap().join().unwrap().unwrap(), "not all was finished");
}

#[test]
fn a_drain_has_a_deadline() {
    let mut s = start_with(options(), |app| app.limits.drain = Duration::from_millis(100));
    let mut stream = s.begin("/v1/completions", &long(true));
    s.busy();
    s.app.drain.begin();
    let start = Instant::now();
    assert!(!s.thread.take().unwrap().join().unwrap().unwrap());
    assert!(start.elapsed() < Duration::from_secs(10));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[derive(Default)]
struct Book(Mutex<Vec<(String, u32)>>);

impl Book {
    fn note(&self, what: &str, f: &Facts) {
        assert!(f.route == "/v1/completions" && &*f.model == "tiny" && &*f.who == "anonymous");
        self.0.lock().unwrap().push((what.into(), f.choice));
    }
}

impl Observe for Book {
    fn admit(&self, f: &Facts) -> Result<(), ApiError> {
        match f.prompt_tokens {
            1 => Ok(()),
            _ => {
                Err(ApiError::unavailable("shed", "too long a prompt for this book", Duration::from_secs(3)))
            }
        }
    }
    fn queued(&self, f: &Facts) {
        self.note("queued", f);
    }
    fn first(&self, f: &Facts, since: Duration) {
        assert!(since > Duration::ZERO);
        self.note("first", f);
    }
    fn token(&self, f: &Facts, _: Duration) {
        self.note("token", f);
    }
    fn ended(&self, f: &Facts, end: &End) {
        self.note(&format!("{:?} {}", end.finish, end.tokens), f);
    }
    fn served(&self, s: &Served) {
        self.0.lock().unwrap().push((format!("{} {:?}", s.status, s.code), 0));
    }
}

#[test]
fn a_life_is_told_in_order_and_to_its_end() {
    let book = Arc::new(Book::default());
    let s = start_with(options(), |app| app.observers = Observers::new(vec![book.clone()]));
    let body = json!({"prompt": [5], "max_tokens": 3, "ignore_eos": true, "n": 2});
    assert_eq!(s.post("/v1/completions", &body).status, 200);
    let all = std::mem::take(&mut *book.0.lock().unwrap());
    for choice in 0..2 {
        let life: Vec<&str> =
            all.iter().filter(|e| e.1 == choice && !e.0.starts_with("200")).map(|e| &*e.0).collect();
        assert_eq!(life, ["queued", "first", "token", "token", "Length 3"]);
    }
    let r = s.post("/v1/completions", &json!({"prompt": [5, 6], "max_tokens": 3}));
    assert_eq!((r.status, r.header("retry-after")), (503, Some("3")));
    let all = std::mem::take(&mut *book.0.lock().unwrap());
    assert_eq!(all, [("503 Some(\"shed\")".to_string(), 0)]);
    let gone = s.begin("/v1/completions", &json!({"prompt": [5], "max_tokens": CTX - 8, "ignore_eos": true}));
    // The engine's own figures still show the sequences before, so the book is asked.
    let told = |what: &str| {
        let start = Instant::now();
        while !book.0.lock().unwrap().iter().any(|e| e.0.starts_with(what)) {
            assert!(start.elapsed() < Duration::from_secs(30), "nobody told `{what}`");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    told("queued");
    drop(gone);
    told("Cancelled");
    let all = std::mem::take(&mut *book.0.lock().unwrap());
    assert_eq!(all.iter().filter(|e| e.0.starts_with("Cancelled")).count(), 1, "{:?}", all.last());
}
