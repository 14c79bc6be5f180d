#![allow(clippy::unwrap_used)]
use tamp_engine::request::Timings;
use tamp_engine::{Cost, Usage};

use super::*;

fn facts(request: &str, who: &str, tenant: u32) -> Facts {
    Facts {
        request: request.into(),
        choice: 0,
        trace: None,
        route: "/v1/completions",
        model: "tiny".into(),
        tenant: TenantId(tenant),
        who: who.into(),
        received: Instant::now(),
        prompt_tokens: 10,
        max_tokens: Some(5),
        streams: true,
    }
}

fn ops(uses: &[&str]) -> Ops {
    let mut s = Settings::default();
    for u in uses {
        match u.split_once('=').unwrap().0.matches('.').count() {
            1 => s.add_use(u, "test").unwrap(),
            _ => s.add_set(u, "test").unwrap(),
        }
    }
    s.check(&rooms()).unwrap();
    Ops::new(&s, BTreeMap::new()).unwrap()
}

fn end(finish: FinishReason, ran: bool) -> End {
    End {
        finish,
        error: None,
        tokens: usize::from(ran) * 3,
        timings: Timings { prompt_rows: u64::from(ran) * 10, queue_ns: 9_000_000_000, ..Timings::default() },
        usage: Usage { cost: Cost::default(), ..Usage::default() },
    }
}

#[test]
fn a_life_reaches_metrics_health_and_objectives_and_a_refusal_only_the_metrics() {
    let o = ops(&["server.health=monitor", "server.sla=burn", "server.sla.burn.errors=0.01"]);
    for i in 0..30 {
        let f = facts(&i.to_string(), "alice", 1);
        o.queued(&f);
        o.first(&f, Duration::from_millis(5));
        o.ended(&f, &end(FinishReason::Error, true));
        let refused = facts(&format!("r{i}"), "bob", 2);
        o.queued(&refused);
        o.ended(&refused, &end(FinishReason::Error, false));
    }
    assert_eq!(o.judge().state, health::State::Bad);
    assert_eq!(o.standing(TenantId(1)).level, sla::Level::Critical);
    assert_eq!(o.standing(TenantId(2)).level, sla::Level::Ok);
    let page = o.page(false);
    for line in [
        r#"vllm:request_success_total{model_name="tiny",finished_reason="error"} 60"#,
        r#"tamp_sla_level{tenant="alice",objective="errors"} 2"#,
        r#"vllm:time_to_first_token_seconds_count{model_name="tiny"} 30"#,
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\n{page}");
    }
    let report = o.report();
    assert_eq!(report["health"]["state"], "bad");
    assert_eq!(report["window"]["ttft"]["count"], 30);
    assert_eq!(report["tenants"]["alice"]["level"], "critical");
}

#[test]
fn without_rooms_nothing_is_judged_and_everything_is_counted() {
    let o = ops(&[]);
    let f = facts("a", "anonymous", 0);
    o.admit(&f).unwrap();
    o.queued(&f);
    (0..100).for_each(|_| o.token(&f, Duration::from_secs(100)));
    o.ended(&f, &end(FinishReason::Stop, true));
    assert_eq!((o.judge(), o.boost(TenantId(0)), o.foretold(f.number())), Default::default());
    assert!(o.page(true).contains("vllm:generation_tokens_total{model_name=\"tiny\"} 100\n"));
}

#[test]
fn every_default_is_a_value_its_knob_takes() {
    for room in rooms() {
        for card in room.cards {
            Knobs::read(room.name, card, &Settings::default()).unwrap();
        }
    }
}

#[test]
fn a_token_told_to_everything_takes_no_time_that_grows() {
    let o = ops(&["server.health=monitor", "server.sla=burn", "server.sla.burn.itl_ms=100"]);
    let f = facts("a", "alice", 1);
    o.queued(&f);
    let n = 100_000u32;
    let start = Instant::now();
    (0..n).for_each(|i| o.token(&f, Duration::from_micros(u64::from(i))));
    let each = start.elapsed() / n;
    println!("{each:?} per token");
    assert!(each < Duration::from_micros(20), "{each:?}");
}

/// Words of a query that could be names of metrics.
fn names_in(query: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    query
        .split(|c: char| !word(c))
        .filter(|w| w.starts_with("vllm:") || w.starts_with("tamp_"))
        .map(str::to_string)
        .collect()
}

fn queries(v: &Value, found: &mut Vec<String>) {
    match v {
        Value::Object(o) => {
            if let Some(Value::String(q)) = o.get("expr") {
                found.push(q.clone());
            }
            o.values().for_each(|v| queries(v, found));
        }
        Value::Array(a) => a.iter().for_each(|v| queries(v, found)),
        _ => {}
    }
}

#[test]
fn every_query_of_the_dashboard_names_a_metric_that_is_printed() {
    let dashboard: Value = serde_json::from_str(include_str!("../../../../deploy/grafana.json")).unwrap();
    let known = crate::metrics::tests::names();
    let mut found = vec![];
    queries(&dashboard, &mut found);
    assert!(found.len() >= 12, "{found:?}");
    for query in found {
        let names = names_in(&query);
        assert!(!names.is_empty(), "{query} names no metric");
        names.iter().for_each(|n| assert!(known.contains(n), "`{n}` of `{query}` is not printed"));
    }
    let alerts = include_str!("../../../../deploy/tamp-alerts.yml");
    assert!(names_in(alerts).len() >= 4);
    names_in(alerts).iter().for_each(|n| assert!(known.contains(n), "`{n}` is not printed"));
}
