//! The client of a load against a small server of its own, which can be told to be wrong in every way the rows name.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tamp_bench::serve::spawn::Spawned;
use tamp_bench::serve::versus::versus;
use tamp_bench::serve::{Arrival, Ask, Load, Process, ServeRow, Slo, Stall, Target, Tenant, Work, serve};

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Do {
    Well,
    /// closes the connection after so many chunks
    Drop(usize),
    /// says nothing more after so many chunks
    Hush(usize),
    Status(u16),
    /// usage says so many tokens more
    Miscount(i64),
    /// a chunk that is no JSON
    Nonsense,
    /// an error in the middle of the stream
    ErrorEvent,
    /// no usage at all
    NoUsage,
    /// an answer that is no stream
    Whole,
    /// ends without the end mark, as some servers do
    NoMark,
    /// says another text each time
    Fickle,
    /// closes kept connections, so that the next request needs a fresh one
    Close,
}

/// A request as the server saw it.
struct Seen {
    body: Value,
    key: String,
    /// chunks written before the end or the caller's leaving
    written: usize,
    finished: bool,
}

struct Stub {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    most: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

/// How a stub answers.
#[derive(Clone)]
struct Manner {
    /// by the number of the request, from 0
    what: fn(usize) -> Do,
    /// time per token
    token: Duration,
    /// prompt tokens that are told as cached
    cached: u64,
    /// bytes of a token
    wide: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Manner { what: |_| Do::Well, token: Duration::ZERO, cached: 0, wide: 2 }
    }
}

impl Stub {
    fn new(manner: Manner) -> Stub {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let s = Stub { port, seen: Arc::default(), most: Arc::default(), connections: Arc::default() };
        let (seen, most, connections) = (s.seen.clone(), s.most.clone(), s.connections.clone());
        let (number, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let (manner, seen, most) = (manner.clone(), seen.clone(), most.clone());
                let (number, now) = (number.clone(), now.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some((key, body)) = request(&mut reader) {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let n = number.fetch_add(1, Ordering::SeqCst);
                        let what = (manner.what)(n);
                        let (written, finished) = answer(&stream, &body, what, &manner, n);
                        now.fetch_sub(1, Ordering::SeqCst);
                        seen.lock().unwrap().push(Seen { body, key, written, finished });
                        if !finished || what == Do::Close {
                            break;
                        }
                    }
                });
            }
        });
        s
    }

    /// What was seen, once that is `n` requests: the last line is written after the caller has its answer.
    fn seen(&self, n: usize) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        for _ in 0..500 {
            let seen = self.seen.lock().unwrap();
            if seen.len() >= n {
                return seen;
            }
            drop(seen);
            thread::sleep(Duration::from_millis(20));
        }
        self.seen.lock().unwrap()
    }

    fn ask(&self) -> Ask {
        Ask {
            target: format!("http://127.0.0.1:{}/v1", self.port).parse().unwrap(),
            model: "stub".into(),
            load: Load::Closed { concurrency: 4 },
            requests: Some(24),
            duration: None,
            warmup: 0,
            work: Work::Chat,
            prompt_tokens: (8, 64),
            max_tokens: (4, 12),
            turns: 3,
            tenants: vec![Tenant::default()],
            stream: true,
            hang_up: 0.0,
            stall: None,
            slo: Slo::default(),
            timeout: Duration::from_secs(20),
            seed: 3,
            temperature: 0.0,
            ignore_eos: false,
            chunk_tokens: 1,
            max_in_flight: 256,
            body: Map::new(),
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => key = value.strip_prefix("Bearer ").unwrap_or("").to_string(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((key, serde_json::from_slice(&body).unwrap()))
}

/// Chunks written, and whether the answer was written to its end.
fn answer(s: &TcpStream, body: &Value, what: Do, m: &Manner, n: usize) -> (usize, bool) {
    let prompt = body["messages"].as_array().map_or(body["prompt"].to_string(), |m| json!(m).to_string());
    let tokens = body["max_tokens"].as_u64().unwrap() as usize;
    let chat = body.get("messages").is_some();
    if let Do::Status(status) = what {
        let text = r#"{"error":{"message":"no room"}}"#;
        let head =
            format!("HTTP/1.1 {status} X\r\nRetry-After: 0\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        return (0, (&mut &*s).write_all(head.as_bytes()).is_ok());
    }
    let seed = prompt.bytes().map(usize::from).sum::<usize>() + if what == Do::Fickle { n } else { 0 };
    let word = |i: usize| char::from(b'a' + ((seed + i) % 26) as u8).to_string().repeat(m.wide);
    let miscount = if let Do::Miscount(by) = what { by } else { 0 };
    let usage = json!({"prompt_tokens": prompt.len() / 4, "completion_tokens": tokens as i64 + miscount,
                       "prompt_tokens_details": {"cached_tokens": m.cached}});
    if body["stream"] != true || what == Do::Whole {
        thread::sleep(m.token * tokens as u32);
        let text: String = (0..tokens).map(word).collect();
        let choice = if chat {
            json!({"message": {"role": "assistant", "content": text}, "finish_reason": "length"})
        } else {
            json!({"text": text, "finish_reason": "length"})
        };
        let text = json!({"choices": [choice], "usage": usage}).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        return (tokens, (&mut &*s).write_all(head.as_bytes()).is_ok());
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut out = s;
    let mut say = |data: &str| {
        let event = format!("data: {data}\n\n");
        let ok = out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).is_ok();
        ok && out.flush().is_ok()
    };
    let chunk = |text: &str, end: Value| {
        let choice = if chat {
            json!({"delta": {"content": text}, "finish_reason": end})
        } else {
            json!({"text": text, "finish_reason": end})
        };
        json!({"choices": [choice]}).to_string()
    };
    let mut s2 = s;
    if s2.write_all(head.as_bytes()).is_err() {
        return (0, false);
    }
    if chat && !say(r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#) {
        return (0, false);
    }
    for i in 0..tokens {
        match what {
            Do::Drop(at) if i == at => return (i, false),
            Do::Hush(at) if i == at => {
                thread::sleep(Duration::from_secs(3));
                return (i, false);
            }
            Do::Nonsense if i == 1 => drop(say("{\"choices\": [")),
            Do::ErrorEvent if i == 1 => drop(say(r#"{"error":{"message":"the model is ill"}}"#)),
            _ => {}
        }
        thread::sleep(m.token);
        if !say(&chunk(&word(i), Value::Null)) {
            return (i, false);
        }
    }
    let mut ok = say(&chunk("", json!("length")));
    if what != Do::NoUsage {
        ok &= say(&json!({"choices": [], "usage": usage}).to_string());
    }
    if what != Do::NoMark {
        ok &= say("[DONE]");
    }
    (tokens, ok && s2.write_all(b"0\r\n\r\n").is_ok())
}

fn process() -> Process<'static> {
    Process { cpu: &|| None, progress: Rc::new(|_| ()), text: None, decision_grade: true }
}

fn run(ask: &Ask) -> ServeRow {
    serve(ask, &process()).unwrap()
}

#[test]
fn every_request_is_answered_once_and_every_token_counted_once() {
    let stub = Stub::new(Manner { cached: 2, ..Manner::default() });
    let ask = Ask { warmup: 3, ..stub.ask() };
    let r = run(&ask);
    assert_eq!((r.requests, r.ok, r.errors.len(), &r.void), (24, 24, 0, &None), "{:?}", r.error_examples);
    let seen = stub.seen(27);
    assert_eq!(seen.len(), 27);
    let told: u64 = seen.iter().map(|s| s.body["max_tokens"].as_u64().unwrap()).sum();
    let warm: u64 = seen.iter().map(|s| s.body["max_tokens"].as_u64().unwrap()).take(3).sum();
    assert_eq!((r.tokens.new, r.tokens.chunks), (told - warm, told - warm));
    assert_eq!((r.tokens.cached, r.tokens.lost), (48, 0));
    assert!(r.decode_tok_s > 0.0 && r.wall_s > 0.0);
    assert_eq!(r.latencies.ttft_ms.unwrap().count, 24);
    assert_eq!(r.latencies.itl_ms.unwrap().count, r.tokens.new - 24);
    assert!(stub.most.load(Ordering::SeqCst) <= 4);
    // The three of the warm-up and the four callers, each with a connection that is used again.
    assert!(stub.connections.load(Ordering::SeqCst) <= 7, "{}", stub.connections.load(Ordering::SeqCst));
}

#[test]
fn every_fault_is_counted_as_its_kind_and_costs_only_its_own_request() {
    let what = |n: usize| match n {
        1 => Do::Drop(2),
        2 => Do::Drop(0),
        4 => Do::Hush(1),
        6 => Do::Status(429),
        7 => Do::Status(500),
        8 => Do::Status(400),
        10 => Do::Miscount(1),
        11 => Do::Miscount(-1),
        13 => Do::Nonsense,
        14 => Do::ErrorEvent,
        16 => Do::NoUsage,
        17 => Do::NoMark,
        18 => Do::Whole,
        19 => Do::Close,
        _ => Do::Well,
    };
    let stub = Stub::new(Manner { what, ..Manner::default() });
    let r = run(&Ask { timeout: Duration::from_secs(1), ..stub.ask() });
    let want = [
        ("429", 1),
        ("4xx", 1),
        ("5xx", 1),
        ("bad_json", 2),
        ("count", 2),
        ("cut", 2),
        ("in_answer", 1),
        ("timeout", 1),
    ];
    assert_eq!(r.errors, want.into(), "{:?}", r.error_examples);
    assert_eq!((r.requests, r.ok, r.tokens.without_usage), (24, 13, 1));
    assert!(r.tokens.lost > 0);
}

#[test]
fn a_server_that_is_not_there_is_refused_and_voids_the_row() {
    let port = tamp_bench::serve::spawn::free_port().unwrap();
    let target = Target { host: "127.0.0.1".into(), port, path: String::new() };
    let stub = Stub::new(Manner::default());
    let r = run(&Ask { target, requests: Some(3), ..stub.ask() });
    assert_eq!(r.errors, [("refused", 3)].into());
    assert!(r.void.is_some());
}

#[test]
fn an_open_loop_waits_for_nobody_and_latency_counts_from_the_intended_time() {
    let stub = Stub::new(Manner { token: Duration::from_millis(30), ..Manner::default() });
    let open = Load::Open { rate: 1000.0, arrival: Arrival::Burst };
    let ask = Ask { load: open, requests: Some(12), max_tokens: (5, 5), ..stub.ask() };
    let r = run(&ask);
    assert_eq!((r.ok, stub.most.load(Ordering::SeqCst)), (12, 12));
    // Two at a time: the last pair waits for five others, 150 ms each, and says so.
    let r = run(&Ask { max_in_flight: 2, ..ask });
    let ttft = r.latencies.ttft_ms.unwrap();
    assert!(ttft.max > 750.0 && r.latencies.queue_ms.unwrap().max > 700.0, "{ttft:?}");
    assert!(r.latencies.e2e_ms.unwrap().max >= ttft.max);
}

#[test]
fn a_duration_ends_a_load_and_what_is_under_way_is_finished() {
    let stub = Stub::new(Manner { token: Duration::from_millis(5), ..Manner::default() });
    let start = Instant::now();
    let r = run(&Ask { requests: None, duration: Some(Duration::from_millis(400)), ..stub.ask() });
    assert!(start.elapsed() < Duration::from_secs(15));
    assert!(r.requests >= 4 && r.ok == r.requests, "{}", r.requests);
}

#[test]
fn answers_that_come_whole_have_a_first_token_as_late_as_their_last() {
    let stub = Stub::new(Manner { token: Duration::from_millis(2), ..Manner::default() });
    for work in [Work::Chat, Work::Completion] {
        let r = run(&Ask { stream: false, work, ..stub.ask() });
        assert_eq!((r.ok, r.tokens.chunks, r.latencies.itl_ms), (24, 0, None), "{:?}", r.error_examples);
        assert!(r.tokens.new > 0);
        assert_eq!(r.latencies.ttft_ms, r.latencies.e2e_ms);
    }
}

#[test]
fn each_tenant_sends_with_its_own_key_as_much_as_its_load() {
    let stub = Stub::new(Manner { token: Duration::from_millis(2), ..Manner::default() });
    let tenant =
        |name: &str, load| Tenant { name: name.into(), key: Some(format!("sk-{name}")), load, weight: 1.0 };
    let tenants = vec![tenant("heavy", 3.0), tenant("light", 1.0)];
    let r = run(&Ask { tenants, requests: Some(40), ..stub.ask() });
    let seen = stub.seen(40);
    for t in &r.tenants {
        let by_key = seen.iter().filter(|s| s.key == format!("sk-{}", t.name)).count();
        assert_eq!((t.requests, t.ok), (by_key, by_key), "{}", t.name);
    }
    let (heavy, light) = (r.tenants[0].requests, r.tenants[1].requests);
    assert!(heavy > light && light >= 5, "{heavy} {light}");
    assert!(r.jain.unwrap() < 0.95 && (r.tenants[0].entitled_share - 0.5).abs() < 1e-9, "{:?}", r.jain);
    let words = serde_json::to_string(&r).unwrap();
    assert!(!words.contains("sk-heavy"), "a row shows no key");
}

#[test]
fn an_agent_sends_what_was_answered_before() {
    let stub = Stub::new(Manner::default());
    let r = run(&Ask { work: Work::Agent, requests: Some(9), ..stub.ask() });
    assert_eq!(r.ok, 9);
    let seen = stub.seen(9);
    let mut lengths: Vec<usize> = seen.iter().map(|s| s.body["messages"].as_array().unwrap().len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [2, 2, 2, 4, 4, 4, 6, 6, 6]);
    for s in seen.iter().filter(|s| s.body["messages"].as_array().unwrap().len() == 4) {
        assert!(!s.body["messages"][2]["content"].as_str().unwrap().is_empty());
    }
}

#[test]
fn long_prompts_go_beside_short_ones_that_were_measured_alone_before() {
    let stub = Stub::new(Manner { token: Duration::from_millis(3), ..Manner::default() });
    let r = run(&Ask { work: Work::LongPrompt, requests: Some(12), ..stub.ask() });
    let kind = |name: &str| r.kinds.iter().find(|k| k.kind == name).map_or(0, |k| k.requests);
    assert_eq!(kind("short, alone"), 12);
    assert_eq!(kind("short, beside long") + kind("short, between long"), 12);
    assert!(kind("long") >= 1);
    let long = |s: &Seen| s.body["messages"][0]["content"].as_str().unwrap().len() > 4 * 3500;
    let seen = stub.seen.lock().unwrap();
    let first_long = seen.iter().position(long).unwrap();
    assert!(first_long >= 8, "the short ones alone come first, and one long prompt at a time: {first_long}");
}

#[test]
fn callers_that_hang_up_are_seen_by_the_server_and_in_no_percentile() {
    let stub = Stub::new(Manner { token: Duration::from_millis(20), ..Manner::default() });
    let r = run(&Ask { hang_up: 1.0, max_tokens: (40, 40), requests: Some(16), ..stub.ask() });
    assert_eq!(
        (r.hung_up, r.ok, r.latencies.ttft_ms, r.errors.len()),
        (16, 0, None, 0),
        "{:?}",
        r.error_examples
    );
    let seen = stub.seen(16);
    assert_eq!(seen.len(), 16);
    let cut = seen.iter().filter(|s| !s.finished).count();
    assert!(cut >= 14, "{cut} of 16 answers were cut short");
    let points: std::collections::BTreeSet<usize> = seen.iter().map(|s| s.written).collect();
    assert!(points.len() > 5, "at different moments: {points:?}");
}

#[test]
fn a_stalled_reader_holds_the_server_back_and_no_other_caller() {
    // Tokens of 64 kB, so that what the system buffers does not hide the stall.
    let stub = Stub::new(Manner { wide: 1 << 16, ..Manner::default() });
    let stall = Some(Stall { readers: 1, time: Duration::from_millis(1500) });
    let ask = Ask { stall, max_tokens: (120, 120), requests: Some(6), ..stub.ask() };
    let start = Instant::now();
    let r = run(&ask);
    assert!(start.elapsed() > Duration::from_millis(1500));
    assert_eq!((r.ok, r.stalled), (6, 1), "{:?}", r.error_examples);
    assert_eq!(r.latencies.e2e_ms.unwrap().count, 5);
}

#[test]
fn together_and_one_after_another_are_the_same_requests_with_the_same_texts() {
    let stub = Stub::new(Manner { token: Duration::from_millis(10), ..Manner::default() });
    let ask = Ask { requests: Some(8), max_tokens: (6, 6), ..stub.ask() };
    let v = versus(&ask, 3, &process()).unwrap();
    assert_eq!((v.identical, v.errors, v.pairs.len(), &v.void), (Some(true), 0, 3, &None));
    // Four callers, whom the server serves without one costing another anything.
    assert!(v.ratio > 2.0 && v.ratio < 4.5, "{}", v.ratio);
    assert!(v.ratio_low.unwrap() <= v.ratio && v.ratio <= v.ratio_high.unwrap());
    let mut bodies: Vec<String> = stub.seen(8 * 7).iter().map(|s| s.body.to_string()).collect();
    bodies.sort();
    // One uncounted pass and six halves.
    assert_eq!(bodies.len(), 8 * 7);
    bodies.dedup();
    assert_eq!(bodies.len(), 8);
}

#[test]
fn another_text_is_found_and_a_failure_voids_the_comparison() {
    let stub =
        Stub::new(Manner { what: |n| if n == 20 { Do::Fickle } else { Do::Well }, ..Manner::default() });
    let ask = Ask { requests: Some(8), ..stub.ask() };
    let v = versus(&ask, 1, &process()).unwrap();
    assert_eq!((v.identical, v.differing.len(), v.void), (Some(false), 1, None));
    assert_eq!((v.ratio_low, v.ratio_high), (None, None));
    let stub =
        Stub::new(Manner { what: |n| if n == 20 { Do::Drop(1) } else { Do::Well }, ..Manner::default() });
    let v = versus(&Ask { requests: Some(8), ..stub.ask() }, 1, &process()).unwrap();
    assert!(v.errors == 1 && v.void.unwrap().contains("failed"));
}

/// Python, where there is one: a server in a process of its own.
fn python(program: &str) -> Option<Command> {
    let there = Command::new("python3")
        .arg("-c")
        .arg("import http.server")
        .output()
        .is_ok_and(|o| o.status.success());
    let mut c = Command::new("python3");
    c.arg("-c").arg(program);
    there.then_some(c)
}

const SERVER: &str = r#"
import http.server, sys, time
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/models" else 404); self.end_headers()
    def log_message(self, *a): pass
time.sleep(0.3)
s = http.server.HTTPServer(("127.0.0.1", int(PORT)), H)
sys.stderr.write("noise\ntamp: listening on http://127.0.0.1:%d (1 model)\n" % s.server_port); sys.stderr.flush()
s.serve_forever()
"#;

#[test]
fn a_server_is_waited_for_in_both_ways_and_ended() {
    let within = Duration::from_secs(60);
    let Some(told) = python(&SERVER.replace("PORT", "0")) else { return };
    let s = Spawned::told(told, within, tamp_os::process::terminate).unwrap();
    assert!(s.target.port > 0);
    assert!(TcpStream::connect(("127.0.0.1", s.target.port)).is_ok());
    let port = s.target.port;
    s.end().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it is gone");

    let port = tamp_bench::serve::spawn::free_port().unwrap();
    let target = Target { host: "127.0.0.1".into(), port, path: String::new() };
    let asked = python(&SERVER.replace("PORT", &port.to_string())).unwrap();
    let s = Spawned::asked(asked, target, within, tamp_os::process::terminate).unwrap();
    drop(s);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "dropping ends it too");
}

#[test]
fn a_server_that_fails_says_why_and_one_that_is_silent_is_not_waited_for_forever() {
    let Some(bad) = python("import sys; sys.exit('no such model')") else { return };
    let why = Spawned::told(bad, Duration::from_secs(60), |_| false).err().unwrap().to_string();
    assert!(why.contains("no such model") && why.contains("before"), "{why}");
    let silent = python("import time; time.sleep(60)").unwrap();
    let why = Spawned::told(silent, Duration::from_millis(300), |_| false).err().unwrap().to_string();
    assert!(why.contains("within"), "{why}");
    let nobody = Spawned::told(Command::new("/no/such/program"), Duration::from_secs(1), |_| false);
    assert!(nobody.err().unwrap().to_string().contains("cannot start"));
}
