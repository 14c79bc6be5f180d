//! Hundreds of bodies and heads made to hurt: every one gets a clean refusal, and the server lives.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::time::Duration;

use common::{options, read, request, start, start_with};
use serde_json::{Value, json};
use tamp_server::keys::{Keys, key_of, row_text};
use tamp_server::layer::host::Hosts;
use tamp_server::route::{Method, ROUTES};
use tamp_server::serve::Server;

/// xorshift: the bodies follow from the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.roll(all.len())]
    }
}

/// Values that no field should survive.
fn nasty(d: &mut Dice) -> String {
    let n = d.roll(1000);
    let texts: [fn(usize) -> String; 22] = [
        |n| format!("{}", n as i64 - (1 << 40)),
        |_| "18446744073709551616".into(),
        |_| "1e308".into(),
        |_| "-1e-308".into(),
        |n| format!("{}", -1 - n as i64),
        |_| "1.5".into(),
        |n| format!("\"{}\"", "A".repeat(n * 50)),
        |_| "\"../../../../etc/passwd\"".into(),
        |_| "\"http://169.254.169.254/latest\"".into(),
        |_| "\"\\u0000\\u0007\\ud83d\\ude80\"".into(),
        |n| format!("{}1{}", "[".repeat(20 + n % 40), "]".repeat(20 + n % 40)),
        |n| format!("{}1{}", "{\"a\":".repeat(100 + n), "}".repeat(100 + n)),
        |n| format!("[{}]", vec!["\"x\""; n * 20 + 20].join(",")),
        |n| format!("[\"{}\"]", "s".repeat(600 + n * 100)),
        |n| format!("{{{}}}", (0..n + 1025).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(",")),
        |_| "{\"type\":\"regex\",\"regex\":\"((((a{1000}){1000}){1000}){1000})\"}".into(),
        |_| "{\"type\":\"grammar\",\"grammar\":\"start: start start\"}".into(),
        |_| {
            "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"http://evil.example/\"}}}"
                .into()
        },
        |_| "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"#\"}}}".into(),
        |_| "[[]]".into(),
        |_| {
            "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}]}]".into()
        },
        |_| "[{\"role\":\"system\"}]".into(),
    ];
    d.pick(&texts)(n)
}

/// A short question in each other dialect.
fn other(path: &str) -> Option<Value> {
    let messages = json!([{"role": "user", "content": "a"}]);
    let short = json!({"num_predict": 2});
    Some(match path {
        "/v1/responses" => json!({"input": "a", "max_output_tokens": 2}),
        "/v1/messages" => json!({"messages": messages, "max_tokens": 2}),
        "/v1/messages/count_tokens" => json!({"messages": messages}),
        "/api/chat" => json!({"model": "tiny", "messages": messages, "options": short}),
        "/api/generate" => json!({"model": "tiny", "prompt": "a", "options": short}),
        "/api/show" => json!({"model": "tiny"}),
        "/api/embed" => json!({"model": "tiny", "input": "a"}),
        "/api/embeddings" => json!({"model": "tiny", "prompt": "a"}),
        _ => return None,
    })
}

fn bodies() -> Vec<(String, Vec<u8>)> {
    let mut d = Dice(0x5eed);
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    let posts: Vec<_> = ROUTES.iter().filter(|r| r.method == Method::Post).collect();
    for _ in 0..640 {
        let r = d.pick(&posts);
        let fields: Vec<&str> = r.body.unwrap().fields().map(|f| f.name).collect();
        let name = (*d.pick(&fields)).to_string();
        let base = match r.path {
            p if p.contains("chat") => {
                "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":2"
            }
            "/v1/embeddings" => "\"input\":\"a\"",
            "/detokenize" => "\"tokens\":[1]",
            "/tokenize" => "\"prompt\":\"a\"",
            _ => "\"prompt\":\"a\",\"max_tokens\":2",
        };
        let rest: Vec<&str> = base.split(",\"max").collect();
        let rest = if base.starts_with(&format!("\"{name}\"")) { "\"user\":1" } else { rest[0] };
        let more = if name == "max_tokens" || !rest.contains("a") { "" } else { ",\"max_tokens\":2" };
        let more = if ["/v1/embeddings", "/detokenize", "/tokenize"].contains(&r.path) { "" } else { more };
        let body = format!("{{{rest}{more},\"{name}\":{}}}", nasty(&mut d)).into_bytes();
        let body = match other(r.path) {
            Some(mut base) => {
                base.as_object_mut().unwrap().remove(&name);
                let text = base.to_string();
                let comma = if text.len() > 2 { "," } else { "" };
                format!("{}{comma}\"{name}\":{}}}", &text[..text.len() - 1], nasty(&mut d)).into_bytes()
            }
            None => body,
        };
        let body = match d.roll(8) {
            // broken on the way
            0 => body[..d.roll(body.len())].to_vec(),
            1 => {
                let mut b = body;
                let at = d.roll(b.len());
                b[at] = 0xff;
                b
            }
            2 => [&body[..body.len() - 1], b",\"n\":1,\"n\":2}"].concat(),
            _ => body,
        };
        out.push((r.path.to_string(), body));
    }
    out
}

#[test]
fn every_hostile_body_gets_a_clean_answer_and_the_server_lives() {
    let s = start();
    let all = bodies();
    assert!(all.len() >= 500);
    let mut refused = 0;
    let mut codes = std::collections::BTreeMap::<String, usize>::new();
    for (path, body) in &all {
        let r = s.request("POST", path, &[("content-type", "application/json")], body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert!(
            r.status == 200 || (400..500).contains(&r.status),
            "{path} {shown}: {} {}",
            r.status,
            r.message()
        );
        if r.status != 200 {
            refused += 1;
            let (message, code) = (r.message(), r.code());
            assert!(!message.is_empty() && !code.is_empty(), "{path} {shown}");
            assert!(
                message.len() < 1000 && !message.contains('\n'),
                "a refusal is one short line: {message}"
            );
            assert!(!message.contains("panic"), "{message}");
            *codes.entry(code).or_default() += 1;
        }
    }
    assert!(refused > 400, "only {refused} of {} were refused: {codes:?}", all.len());
    assert!(codes.len() >= 4, "{codes:?}");
    assert_eq!(s.get("/live").status, 200);
    s.idle();
    let r = s.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!(r.status, 200);
    let stats = s.handle.stats();
    assert_eq!(stats.pages_free, stats.pages_total, "pages were lost");
}

#[test]
fn heads_and_bodies_beyond_their_bounds_are_refused() {
    let s = start_with(options(), |app| {
        app.limits.body = 1000;
        app.limits.body_time = Duration::from_millis(200);
        app.limits.head_time = Duration::from_millis(300);
    });
    let json = [("content-type", "application/json")];
    let big = s.request("POST", "/v1/completions", &json, &vec![b' '; 1001]);
    assert_eq!((big.status, &*big.code()), (413, "body_too_large"));
    let chunked = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!("{:x}\r\n{}\r\n0\r\n\r\n", 2000, " ".repeat(2000));
    let r = s.raw(&[&chunked[..], body.as_bytes()].concat()).unwrap();
    assert_eq!((r.status, &*r.code()), (413, "body_too_large"));
    // A body that does not come.
    let mut slow = s.connect();
    slow.write_all(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 10\r\n\r\n{",
    )
    .unwrap();
    let r = read(&mut slow).unwrap();
    assert_eq!((r.status, &*r.code()), (408, "body_timeout"));
    // A head that does not end.
    let mut slow = s.connect();
    slow.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\nx: ").unwrap();
    assert!(read(&mut slow).map_or(true, |r| r.status == 408));
    // Heads that are too large, in one field and in many.
    let huge = "x".repeat(100_000);
    let r = s.raw(&request("GET", "/version", &[("x", &huge)], b""));
    assert!(r.map_or(true, |r| r.status == 431));
    let names: Vec<String> = (0..100).map(|i| format!("x{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    let r = s.raw(&request("GET", "/version", &many, b""));
    assert!(r.map_or(true, |r| r.status == 431));
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\xff\xff\xff\xff\r\n\r\n",
    ] {
        let _ = s.raw(junk);
    }
    assert_eq!(s.get("/live").status, 200);
}

#[test]
fn without_the_key_every_route_but_three_says_nothing() {
    let key = key_of([7; 32]);
    let file = row_text("alice", &key).unwrap();
    let s = start_with(options(), |app| app.keys = Some(Keys::parse(&file).unwrap().into()));
    for r in ROUTES {
        let path = r.path.replace("{model}", "tiny");
        let method = if r.method == Method::Get { "GET" } else { "POST" };
        let bearer = format!("Bearer {key}");
        let wrong = format!("Bearer {}", key_of([8; 32]));
        let with = |headers: &[(&str, &str)]| s.request(method, &path, headers, b"").status;
        let page = ["/", "/app.js", "/board.js", "/text.js", "/style.css", "/icon.svg"].contains(&r.path);
        assert_eq!(r.keyless, page || ["/live", "/health", "/ready"].contains(&r.path), "{path}");
        if r.keyless {
            assert_eq!(with(&[]), 200, "{path}");
            continue;
        }
        for headers in [
            &[][..],
            &[("authorization", &*wrong)],
            &[("authorization", &*key)],
            &[("authorization", "Bearer ")],
            &[("x-api-key", "tamp-")],
        ] {
            assert_eq!(with(headers), 401, "{path} {headers:?}");
        }
        for headers in [&[("authorization", &*bearer)], &[("x-api-key", &*key)]] {
            assert!(![401, 403].contains(&with(headers)), "{path}");
        }
    }
    assert_eq!(s.request("GET", "/nothing", &[], b"").status, 401, "what is there is not told either");
}

#[test]
fn a_name_that_was_bent_to_this_machine_and_a_foreign_page_are_refused() {
    let s = start_with(options(), |app| {
        app.hosts = Hosts { origins: vec!["https://app.example".into()], ..Hosts::default() };
    });
    let get = |headers: &[(&str, &str)]| s.request("GET", "/v1/models", headers, b"");
    assert_eq!(get(&[("host", "evil.example")]).status, 421);
    assert_eq!(get(&[("host", "localhost")]).status, 200);
    assert_eq!(s.raw(b"GET /v1/models HTTP/1.0\r\n\r\n").unwrap().status, 421);
    assert_eq!(get(&[("origin", "https://evil.example")]).status, 403);
    let fine = get(&[("origin", "https://app.example")]);
    assert_eq!((fine.status, fine.header("access-control-allow-origin")), (200, Some("https://app.example")));
    let ask = [("origin", "https://app.example"), ("access-control-request-method", "POST")];
    assert_eq!(s.request("OPTIONS", "/v1/chat/completions", &ask, b"").status, 204);
    let foreign = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(s.request("OPTIONS", "/v1/chat/completions", &foreign, b"").status, 403);
}

#[test]
fn a_wide_bind_without_keys_is_refused_with_what_to_do() {
    let app = || tamp_server::app::App::new(Box::new(tamp_server::model::Fixed::new(vec![])));
    let wide = "0.0.0.0:0".parse().unwrap();
    let e = Server::bind(app(), wide).err().unwrap().to_string();
    assert!(e.contains("no keys") && e.contains("tamp keys add"), "{e}");
    let mut with = app();
    with.keys = Some(Keys::parse(&row_text("a", "k").unwrap()).unwrap().into());
    assert!(Server::bind(with, wide).is_ok());
}

#[test]
fn an_answer_whose_form_is_given_has_it() {
    let s = start();
    let ask = |format: Value, seed: u64| {
        let body = json!({"messages": [{"role": "user", "content": "go"}], "response_format": format,
            "seed": seed, "temperature": 1.2, "max_tokens": 300});
        s.post("/v1/chat/completions", &body)
    };
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["n", "ok"], "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}}});
    let mut whole = 0;
    for seed in 0..12 {
        let r = ask(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}), seed);
        assert_eq!(r.status, 200, "{}", r.message());
        let v = r.json();
        let text = v["choices"][0]["message"]["content"].as_str().unwrap();
        if v["choices"][0]["finish_reason"] == "stop" {
            let o: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(o["n"].as_u64().is_some_and(|n| n <= 99) && o["ok"].is_boolean(), "{text}");
            assert_eq!(o.as_object().unwrap().len(), 2);
            whole += 1;
        }
    }
    assert!(whole >= 10, "only {whole} of 12 came to their end");
    let r = ask(json!({"type": "regex", "regex": "[ab]{3}-[0-9]{2}"}), 1).json();
    let text = r["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        text.len() == 6 && text[..3].bytes().all(|b| b"ab".contains(&b)) && text[4..].parse::<u8>().is_ok(),
        "{text}"
    );
    let e = ask(json!({"type": "regex", "regex": "("}), 1);
    assert_eq!((e.status, &*e.code()), (400, "invalid_grammar"));
}
