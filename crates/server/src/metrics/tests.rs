#![allow(clippy::unwrap_used)]
use tamp_engine::Cost;
use tamp_engine::request::Timings;

use super::*;

fn model() -> Arc<str> {
    "tiny".into()
}

fn end(finish: FinishReason) -> End {
    End {
        finish,
        error: None,
        tokens: 3,
        timings: Timings {
            queue_ns: 40_000_000,
            prefill_ns: 20_000_000,
            first_token_ns: 60_000_000,
            total_ns: 100_000_000,
            prompt_rows: 30,
            ..Timings::default()
        },
        usage: Usage {
            cached_tokens: 10,
            draft_tested: 4,
            draft_accepted: 2,
            cost: Cost { prefill_ns: 1_500_000_000, decode_ns: 500_000_000, wasted_ns: 0, page_ms: 2500 },
            ..Usage::default()
        },
    }
}

fn lived() -> Metrics {
    let m = Metrics::new();
    for finish in REASONS {
        m.queued(&model());
        m.first(&model(), 40, Duration::from_millis(60));
        m.token(&model(), Duration::from_millis(12));
        m.token(&model(), Duration::ZERO);
        m.ended(&model(), "alice", 40, &end(finish));
    }
    m.queued(&model());
    let stats = Stats { running: 0, pages_free: 75, pages_total: 100, preemptions: 7, ..Stats::default() };
    m.engine(&model(), &stats, 16, (9, 1));
    m.state(1, false);
    m.sla(&SlaRow {
        tenant: "alice",
        objective: "ttft",
        level: 2,
        short: 3.5,
        long: 2.5,
        violated_minutes: 4,
    });
    m.pool("tiny", 1 << 20, 1);
    m.foretold(&model(), 1.05);
    m.served(&Served { route: "/v1/models", status: 200, code: None, took: Duration::ZERO });
    m.served(&Served { route: "", status: 404, code: Some("not_found"), took: Duration::ZERO });
    m
}

/// Value of a line that begins with this.
fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find(|l| l.strip_prefix(line).is_some_and(|r| r.starts_with(' ')));
    found.unwrap_or_else(|| panic!("no line {line}\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_names_that_routers_scrape_are_there_with_the_types_they_expect() {
    let text = lived().text();
    let types = [
        ("gauge", "num_requests_waiting num_requests_running kv_cache_usage_perc cache_config_info"),
        (
            "counter",
            "prompt_tokens_total generation_tokens_total prefix_cache_queries_total prefix_cache_hits_total \
             num_preemptions_total request_success_total",
        ),
        (
            "histogram",
            "time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds \
             request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds",
        ),
    ];
    for prefix in ["vllm:", "tamp_"] {
        for (kind, names) in types {
            for name in names.split_whitespace() {
                let line = format!("# TYPE {prefix}{name} {kind}");
                assert!(text.lines().any(|l| l == line), "{line}");
            }
        }
    }
    let m = r#"{model_name="tiny"}"#;
    for (line, want) in [
        (format!("vllm:num_requests_waiting{m}"), 1.0),
        (format!("vllm:num_requests_running{m}"), 0.0),
        (format!("vllm:kv_cache_usage_perc{m}"), 0.25),
        (r#"vllm:cache_config_info{model_name="tiny",block_size="16",num_gpu_blocks="100"}"#.into(), 1.0),
        (format!("vllm:prompt_tokens_total{m}"), 200.0),
        (format!("vllm:generation_tokens_total{m}"), 15.0),
        (format!("vllm:prefix_cache_queries_total{m}"), 200.0),
        (format!("vllm:prefix_cache_hits_total{m}"), 50.0),
        (format!("vllm:num_preemptions_total{m}"), 7.0),
        (r#"vllm:request_success_total{model_name="tiny",finished_reason="abort"}"#.into(), 1.0),
        (format!("vllm:time_to_first_token_seconds_count{m}"), 5.0),
        (r#"vllm:time_to_first_token_seconds_bucket{le="0.06",model_name="tiny"}"#.into(), 5.0),
        (r#"vllm:inter_token_latency_seconds_bucket{le="0.01",model_name="tiny"}"#.into(), 5.0),
        (r#"vllm:inter_token_latency_seconds_bucket{le="+Inf",model_name="tiny"}"#.into(), 10.0),
        (format!("vllm:e2e_request_latency_seconds_sum{m}"), 0.5),
        (r#"tamp_request_cost_seconds_total{model_name="tiny",tenant="alice",part="prefill"}"#.into(), 7.5),
        (r#"tamp_kv_page_seconds_total{model_name="tiny",tenant="alice"}"#.into(), 12.5),
        (r#"tamp_http_responses_total{route="none",status="404"}"#.into(), 1.0),
        (r#"tamp_refusals_total{code="not_found"}"#.into(), 1.0),
        (r#"tamp_sla_burn_rate{tenant="alice",objective="ttft",window="long"}"#.into(), 2.5),
    ] {
        let got = value(&text, &line);
        assert!((got - want).abs() < 1e-9, "{line}: {got}, not {want}");
    }
}

#[test]
fn both_formats_are_whole() {
    let m = lived();
    assert!(m.open_text().ends_with("# EOF\n"));
    assert!(m.open_text().contains("# TYPE vllm:prompt_tokens counter\n"));
    let text = m.text();
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    // Every sample belongs to a type that was told before it, under its own name.
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            name = rest.split(' ').next().unwrap().into();
        } else if !line.starts_with('#') {
            let sample = line.split(['{', ' ']).next().unwrap();
            let of = ["", "_bucket", "_sum", "_count"].iter().any(|s| sample == format!("{name}{s}"));
            assert!(of, "{line} under {name}");
        }
    }
}

#[test]
fn a_label_cannot_break_out_of_its_quotes() {
    let m = Metrics::new();
    let evil: Arc<str> = "a\"} 1\nvllm:fake 2".into();
    m.queued(&evil);
    let text = m.text();
    assert!(text.contains(r#"model_name="a\"} 1\nvllm:fake 2""#), "{text}");
    assert!(!text.lines().any(|l| l.starts_with("vllm:fake")));
}

#[test]
fn recording_a_token_takes_no_time_that_grows() {
    let m = lived();
    let name = model();
    let n = 200_000u32;
    let start = std::time::Instant::now();
    for i in 0..n {
        m.token(&name, Duration::from_micros(std::hint::black_box(u64::from(i % 40_000))));
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(n);
    println!("{each:.1} ns per token");
    // Two hundred times what it takes: only work that grows with what was recorded is slower.
    assert!(each < 10_000.0, "{each}");
}

/// Every name `/metrics` prints.
pub(crate) fn names() -> std::collections::BTreeSet<String> {
    lived()
        .text()
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| Some(l.split(['{', ' ']).next()?.to_string()))
        .collect()
}
