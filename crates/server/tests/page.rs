//! The page at `/`: its files, what it is told, and a real browser in front of it.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};
use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_engine::Engine;
use tamp_engine::drive::drive;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_server::app::App;
use tamp_server::board::{Board, Finding};
use tamp_server::keys::{Keys, key_of, row_text};
use tamp_server::model::{Fixed, Served};
use tamp_server::observe::{Facts, Observe, Observers};
use tamp_server::ops::Ops;
use tamp_server::serve::Server;
use tamp_text::{Tokenizer, template_of};
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

/// Makes a tiny model speak at the speed of a large one, so that there is time to stop it.
struct Slow;

impl Observe for Slow {
    fn token(&self, _: &Facts, _: Duration) {
        std::thread::sleep(Duration::from_millis(8));
    }
}

/// A server with everything that the page shows: spans, health, objectives, a ceiling, a finding.
fn full(addr: &str, keys: Option<Keys>) -> Running {
    let weights =
        Weights::from_gguf_bytes(Tiny { context: CTX, ..Tiny::new(Arch::Qwen2, 7) }.build()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let device = Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()));
    let clock = Arc::new(SystemClock::default());
    let mut s = Settings::default();
    s.add_use("engine.trace=spans", "test").unwrap();
    let load = Engine::load(&weights, device, || Ok(tokenizer), &s, options(), clock, &mut |_, _| ());
    let (handle, driver) = drive(load.unwrap()).unwrap();
    let template = template_of(&weights.meta).map(str::to_string);
    let model = Served::new("tiny", handle.clone(), template.as_deref(), 1).unwrap().owning(driver);
    let mut s = Settings::default();
    for u in ["server.health=monitor", "server.sla=burn", "server.cost=rows"] {
        s.add_use(u, "test").unwrap();
    }
    s.add_set("server.sla.burn.ttft_ms=60000", "test").unwrap();
    let ops = Arc::new(Ops::new(&s, BTreeMap::new()).unwrap());
    let mut app = App::new(Box::new(Fixed::new(vec![Arc::new(model)])));
    app.settings = s;
    app.keys = keys.map(Arc::new);
    app.limits.drain = Duration::from_millis(300);
    app.observers = Observers::new(vec![ops.clone(), Arc::new(Slow)]);
    app.ops = Some(ops);
    let finding = Finding {
        title: "half the bytes".into(),
        verdict: "no effect".into(),
        reason: "the interval holds 1".into(),
        metric: "decode_tok_s".into(),
        ratio: 1.01,
        interval: (0.98, 1.04),
        pairs: vec![0.99, 1.0, 1.03],
        row: "00".into(),
    };
    app.board = Board {
        ceilings: [("tiny".into(), 10.0)].into(),
        findings: [("kv.codec.f16".into(), vec![finding])].into(),
        ..Board::default()
    };
    let server = Server::bind(app, addr.parse().unwrap()).unwrap();
    let (addr, app) = (server.addr(), server.app().clone());
    let thread = Some(std::thread::spawn(move || server.run(false)));
    Running { addr, app, handle, thread }
}

const FREE: &str = "127.0.0.1:0";

#[test]
fn the_pages_files_are_sent_once_and_may_load_nothing_from_elsewhere() {
    let s = start();
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/board.js", "text/javascript"),
        ("/text.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let r = s.get(path);
        assert_eq!((r.status, r.header("content-type").unwrap().starts_with(kind)), (200, true), "{path}");
        let policy = r.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(r.header("x-content-type-options"), Some("nosniff"));
        let text = String::from_utf8(r.body.clone()).unwrap();
        let own = text.replace("http://www.w3.org/", "");
        let code = own.lines().filter(|l| !l.contains("https?:"));
        assert!(code.clone().all(|l| !l.contains("http://") && !l.contains("https://")), "{path}");
        for hole in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!text.contains(hole), "{path}: {hole}");
        }
        let tag = r.header("etag").unwrap().to_string();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
            let again = s.request("GET", path, &[("if-none-match", &known)], b"");
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {known}");
        }
        let stale = s.request("GET", path, &[("if-none-match", "\"0000000000000000\"")], b"");
        assert_eq!((stale.status, stale.body), (200, r.body), "{path}");
    }
}

#[test]
fn status_counts_what_was_asked_and_says_what_is_in_use() {
    let s = full(FREE, None);
    let all = s.get("/v1/status").json();
    let m = &all["models"][0];
    assert_eq!((&m["name"], &m["alive"], m["running"].as_u64()), (&json!("tiny"), &json!(true), Some(0)));
    let (total, free) = (m["pages"]["total"].as_u64().unwrap(), m["pages"]["free"].as_u64().unwrap());
    assert!(total > 0 && free <= total, "{m}");
    assert_eq!(m["read"]["ceiling_gb_s"], json!(10.0));
    let body = json!({"model": "tiny", "prompt": "abc abc", "max_tokens": 150, "ignore_eos": true});
    let began = Instant::now();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| s.post("/v1/completions", &body));
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let now = s.get("/v1/status?parts=models").json();
            assert!(now.get("levers").is_none() && now.get("tenants").is_none(), "{now}");
            let m = &now["models"][0];
            let fraction = m["read"]["fraction"].as_f64().unwrap();
            let share = m["busy"].as_f64().unwrap();
            let moves = m["decode_tok_s"].as_f64().unwrap() > 0.0 && m["running"] == 1;
            if moves && fraction > 0.0 && share > 0.0 && share <= 1.0 {
                break;
            }
            assert!(Instant::now() < end, "nothing moved: {now}");
            std::thread::sleep(Duration::from_millis(20));
        }
        asked.join().unwrap().json()
    });
    s.idle();
    let all = s.get("/v1/status").json();
    let took = &all["tenants"][0]["took"];
    assert_eq!(all["tenants"][0]["name"], "anonymous");
    assert_eq!(took["tokens"], answer["usage"]["completion_tokens"]);
    assert_eq!(took["prompt_tokens"], answer["usage"]["prompt_tokens"]);
    assert_eq!((&took["live"], &took["requests"]), (&json!(0), &json!(1)));
    assert!(took["engine_s"].as_f64().unwrap() > 0.0);
    assert_eq!(all["health"]["health"]["state"], "ok");
    assert_eq!(all["tenants"][0]["sla"]["level"], "ok");
    // Spans go out of sight after ten seconds, which a busy machine may take.
    if began.elapsed() < Duration::from_secs(8) {
        timeline(all["spans"].as_array().unwrap());
    }
    in_use(all["levers"].as_array().unwrap());
    let r = s.get("/v1/status?parts=models,nine");
    assert_eq!(r.status, 400);
    assert!(r.message().contains("`nine`") && r.message().contains("models, tenants"), "{}", r.message());
}

fn timeline(spans: &[Value]) {
    let of = |kind: &str| -> Vec<&Value> { spans.iter().filter(|x| x["kind"] == kind).collect() };
    assert_eq!((of("queue").len(), of("request").len()), (1, 0), "{spans:?}");
    let passes: u64 = of("decode").iter().map(|x| x["passes"].as_u64().unwrap()).sum();
    assert_eq!(passes, 149, "one pass for each token after the first: {spans:?}");
    assert!(of("decode").len() < 50, "passes that follow each other are one bar");
}

fn in_use(levers: &[Value]) {
    let lever = |id: &str| levers.iter().find(|l| l["id"] == id).unwrap_or_else(|| panic!("{id}"));
    assert_eq!(lever("engine.trace.spans")["uses"][0]["model"], "tiny");
    assert_eq!(lever("engine.trace.none")["uses"], json!([]));
    assert_eq!(lever("server.health.monitor")["uses"][0]["knobs"]["window_s"], "30");
    assert_eq!(lever("server.health.none")["uses"], json!([]));
    assert_eq!(lever("kv.codec.f16")["found"][0]["verdict"], "no effect");
    let rooms: std::collections::BTreeSet<&str> =
        levers.iter().map(|l| l["room"].as_str().unwrap()).collect();
    // What is chosen before there is a plan stands in none: the core's sizes, the instruction set.
    let used = |room: &str| levers.iter().filter(|l| l["room"] == room && l["uses"] != json!([])).count();
    assert!(rooms.iter().all(|room| used(room) <= 1), "a room has one technique in use");
    for room in ["engine.policy", "kv.codec", "kv.prefix", "spec.propose", "server.stream", "server.sla"] {
        assert_eq!(used(room), 1, "{room}");
    }
}

#[test]
fn who_has_no_key_sees_the_page_and_nothing_of_the_server() {
    let key = key_of([5; 32]);
    let s = full(FREE, Some(Keys::parse(&row_text("alice", &key).unwrap()).unwrap()));
    assert_eq!(s.get("/").status, 200);
    assert_eq!(s.get("/v1/status").status, 401);
    let bearer = format!("Bearer {key}");
    assert_eq!(s.request("GET", "/v1/status", &[("authorization", &bearer)], b"").status, 200);
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|d| d.join(name).is_file())
}

#[test]
fn a_browser_chats_stops_regenerates_and_sees_the_server_move() {
    let browsers =
        ["chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable"];
    if !on_path("node") || !browsers.iter().any(|b| on_path(b)) {
        println!(
            "skipped: the page is driven where `node` and one of {} are on the path",
            browsers.join(", ")
        );
        return;
    }
    let key = key_of([6; 32]);
    let slow_rate = row_text("alice", &key).unwrap() + "requests_per_second = 0.01\n";
    let keyed = full(FREE, Some(Keys::parse(&slow_rate).unwrap()));
    let mut open = Some(full(FREE, None));
    let addr: SocketAddr = open.as_ref().unwrap().addr;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/drive.mjs");
    let (a, b) = (format!("http://{addr}/"), format!("http://{}/", keyed.addr));
    let mut node = Command::new("node")
        .args([script, &a, &b, &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tell = node.stdin.take().unwrap();
    let mut seen = 0;
    for line in BufReader::new(node.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        println!("{line}");
        seen += usize::from(line.starts_with("ok"));
        if line == "restart" {
            // The answer under way is cut with its connection, as by a crash.
            let old = open.take().unwrap();
            drop(old);
            std::thread::sleep(Duration::from_secs(2));
            open = Some(full(&addr.to_string(), None));
            writeln!(tell, "back").unwrap();
        }
    }
    assert!(node.wait().unwrap().success());
    assert_eq!(seen, 11, "every check ran");
}
