//! What operators see of requests that were really served.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use serde_json::json;
use tamp_base::clock::SystemClock;
use tamp_base::settings::Settings;
use tamp_engine::Engine;
use tamp_engine::drive::drive;
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_server::app::App;
use tamp_server::model::{Fixed, Served};
use tamp_server::observe::Observers;
use tamp_server::ops::Ops;
use tamp_server::serve::Server;
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, Tiny};

fn settings() -> Settings {
    let mut s = Settings::default();
    for u in ["engine.trace=spans", "engine.pressure=degrade"] {
        s.add_use(u, "test").unwrap();
    }
    s
}

fn watched() -> Running {
    let weights =
        Weights::from_gguf_bytes(Tiny { context: CTX, ..Tiny::new(Arch::Qwen2, 7) }.build()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let device = Arc::new(Cpu::new(Arc::new(Pool::new(1, false)), rung::available().next().unwrap()));
    let clock = Arc::new(SystemClock::default());
    let engine =
        Engine::load(&weights, device, || Ok(tokenizer), &settings(), options(), clock, &mut |_, _| ())
            .unwrap();
    let (handle, driver) = drive(engine).unwrap();
    let model = Arc::new(Served::new("tiny", handle.clone(), None, 1).unwrap().owning(driver));
    let mut s = Settings::default();
    for u in ["server.health=monitor", "server.sla=burn", "server.cost=rows"] {
        s.add_use(u, "test").unwrap();
    }
    s.add_set("server.sla.burn.ttft_ms=60000", "test").unwrap();
    let ops = Arc::new(Ops::new(&s, BTreeMap::new()).unwrap());
    let mut app = App::new(Box::new(Fixed::new(vec![model])));
    app.observers = Observers::new(vec![ops.clone()]);
    app.ops = Some(ops);
    let server = Server::bind(app, "127.0.0.1:0".parse().unwrap()).unwrap();
    let (addr, app) = (server.addr(), server.app().clone());
    let thread = Some(std::thread::spawn(move || server.run(false)));
    Running { addr, app, handle, thread }
}

fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find(|l| l.strip_prefix(line).is_some_and(|r| r.starts_with(' ')));
    found.unwrap_or_else(|| panic!("no line {line}\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_request_that_was_served_is_in_the_metrics_the_trace_and_the_report() {
    let s = watched();
    let body = json!({"model": "tiny", "prompt": "abc", "max_tokens": 6, "n": 2, "ignore_eos": true});
    for _ in 0..2 {
        let r = s.post("/v1/completions", &body);
        assert_eq!(r.status, 200, "{:?}", r.json());
    }
    // The answers are read; what watches them may be told a moment later.
    let ended = r#"vllm:request_success_total{model_name="tiny",finished_reason="length"}"#;
    let mut text = String::new();
    for _ in 0..200 {
        text = String::from_utf8(s.get("/metrics").body).unwrap();
        if text.contains(ended) && value(&text, ended) == 4.0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let m = r#"{model_name="tiny"}"#;
    assert_eq!(value(&text, ended), 4.0);
    assert_eq!(value(&text, &format!("vllm:generation_tokens_total{m}")), 24.0);
    assert_eq!(value(&text, &format!("vllm:time_to_first_token_seconds_count{m}")), 4.0);
    assert_eq!(value(&text, &format!("vllm:inter_token_latency_seconds_count{m}")), 20.0);
    assert_eq!(value(&text, &format!("vllm:num_requests_waiting{m}")), 0.0);
    assert!(value(&text, &format!("tamp_spans_total{m}")) > 8.0);
    assert!(value(&text, &format!("tamp_forward_passes_total{m}")) > 0.0);
    assert_eq!(value(&text, r#"tamp_http_responses_total{route="/v1/completions",status="200"}"#), 2.0);
    assert_eq!(value(&text, r#"tamp_sla_level{tenant="anonymous",objective="ttft"}"#), 0.0);

    let trace = s.get("/debug/trace");
    assert_eq!(trace.status, 200);
    let trace = trace.json();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |name: &str| events.iter().filter(|e| e["name"] == name && e["ph"] == "X").count();
    assert_eq!((of("request"), of("queue")), (4, 4));
    assert!(of("step") > 0 && of("decode") > 0);
    // Requests are known by their ids, not by numbers.
    let lanes = events.iter().filter(|e| e["ph"] == "M").map(|e| e["args"]["name"].as_str().unwrap());
    assert!(lanes.skip(1).all(|n| !n.starts_with("request ")), "{events:?}");

    let report = s.get("/debug/health").json();
    assert_eq!(report["health"]["state"], "ok");
    assert_eq!(report["window"]["e2e"]["count"], 4);
    assert_eq!(report["tenants"]["anonymous"]["level"], "ok");
}

#[test]
fn an_unknown_model_is_refused_and_without_metrics_there_are_none() {
    let s = watched();
    assert_eq!(s.get("/debug/trace?model=other").status, 404);
    assert_eq!(s.get("/debug/trace?modle=tiny").status, 400);
    let plain = start();
    assert_eq!((plain.get("/metrics").status, plain.get("/debug/trace").status), (404, 404));
}
