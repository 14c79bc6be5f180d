//! Requests side by side in one engine: the same answers however many run at once, and figures that say what ran.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use tamp_base::clock::SystemClock;
use tamp_base::record::{EngineId, Sample};
use tamp_base::settings::Settings;
use tamp_bench::prompt::Prompt;
use tamp_bench::sample::{Ask, Caller, Process, Together, sample};
use tamp_bench::{BenchError, LoadTimes, Subject};
use tamp_engine::{Engine, EngineOptions, Params};
use tamp_kernels::cpu::Cpu;
use tamp_kernels::pool::Pool;
use tamp_kernels::rung;
use tamp_text::Tokenizer;
use tamp_weights::Weights;
use tamp_weights::testing::{Arch, tiny};

fn together() -> Together {
    Together { streams: 4, requests: 10, shared: 0, own: (8, 40), callers: Vec::new() }
}

/// A fresh engine for `batch` sequences in a step, and what it says of the requests.
fn run(t: &Together, batch: usize, uses: &[&str], chunk: usize) -> Result<Sample, BenchError> {
    let mut settings = Settings::default();
    uses.iter().for_each(|u| settings.add_use(u, "test").unwrap());
    let weights = Weights::from_gguf_bytes(tiny(Arch::Qwen2, 7)).unwrap();
    let pool = Arc::new(Pool::new(1, false));
    let device = Arc::new(Cpu::new(pool.clone(), rung::available().next().unwrap()));
    let tokenizer = Arc::new(Tokenizer::from_meta(&weights.meta).unwrap());
    let options = EngineOptions { ctx: 256, batch, chunk, ..EngineOptions::default() };
    let clock = Arc::new(SystemClock::default());
    let mut e =
        Engine::load(&weights, device, || Ok(tokenizer), &settings, options, clock, &mut |_, _| ()).unwrap();
    let ask = Ask {
        prompts: vec![Prompt { name: "warm".into(), ids: vec![1, 2, 3] }],
        repeats: 1,
        warmup: 1,
        max_tokens: 12,
        params: Params { temperature: 0.0, seed: 5, ..Params::default() },
        stop_at_eos: false,
        ceiling: false,
        together: Some(t.clone()),
    };
    let process = Process {
        engine: EngineId::default(),
        settings: Vec::new(),
        observed: BTreeMap::new(),
        since_start_ms: &|| 0.0,
        peak: &|| None,
        forget_peak: &|| false,
    };
    let mut s = Subject { engine: &mut e, pool: &pool, load: LoadTimes::default(), decision_grade: true };
    sample(&mut s, &ask, process)
}

fn tokens(s: &Sample) -> Vec<Vec<u32>> {
    s.requests.iter().map(|r| r.tokens.clone()).collect()
}

#[test]
fn answers_and_their_hash_are_the_same_however_many_run_at_once() {
    let one = run(&Together { streams: 1, ..together() }, 1, &[], 256).unwrap();
    assert_eq!((one.requests.len(), one.requests[3].tokens.len()), (10, 12));
    let distinct: std::collections::BTreeSet<&str> =
        one.requests.iter().map(|r| r.prompt_hash.as_str()).collect();
    assert_eq!(distinct.len(), 10);
    for (streams, batch, chunk) in [(4, 4, 256), (10, 3, 256), (10, 10, 16)] {
        let many = run(&Together { streams, ..together() }, batch, &[], chunk).unwrap();
        assert_eq!(tokens(&many), tokens(&one), "{streams} {batch} {chunk}");
        assert_eq!(many.observed["tokens_hash"], one.observed["tokens_hash"]);
        assert_eq!(
            many.requests.iter().map(|r| &r.prompt).collect::<Vec<_>>(),
            one.requests.iter().map(|r| &r.prompt).collect::<Vec<_>>(),
            "in the order they were handed in"
        );
        let (m, o) = (many.metrics(), one.metrics());
        assert!(m["steps"] < o["steps"] && m["total_tok_s"] > 0.0 && m["ttft_p99_ms"] > 0.0);
    }
    let other = run(&Together { own: (9, 40), ..together() }, 4, &[], 256).unwrap();
    assert_ne!(other.observed["tokens_hash"], one.observed["tokens_hash"]);
}

#[test]
fn a_shared_beginning_is_computed_once_with_a_prefix_cache_and_each_time_without() {
    let t = Together { streams: 10, shared: 96, ..together() };
    let cached = |s: &Sample| s.requests.iter().map(|r| r.cached_tokens).sum::<usize>();
    let none = run(&t, 10, &["kv.prefix=none", "engine.coalesce=none"], 64).unwrap();
    assert_eq!(cached(&none), 0);
    let begin = |s: &Sample| s.work.target_positions;
    let tree = run(&t, 10, &["kv.prefix=tree", "engine.coalesce=prefix"], 64).unwrap();
    assert_eq!(tokens(&tree), tokens(&none));
    // Nine of ten find the 96 shared tokens, a page or so less.
    assert!(cached(&tree) >= 9 * 80, "{}", cached(&tree));
    assert!(begin(&none) - begin(&tree) >= 9 * 80);
    assert!(tree.counters["engine.coalesce.prefix"].acted > 0, "{:?}", tree.counters);
    assert!(tree.counters["kv.prefix.tree"].acted > 0, "{:?}", tree.counters);
}

#[test]
fn service_is_counted_while_every_tenant_has_requests_open_and_a_fair_policy_shows() {
    let callers: Vec<Caller> = ["heavy=10", "light=1"].iter().map(|c| c.parse().unwrap()).collect();
    let t = Together { streams: 66, requests: 66, own: (8, 16), callers, ..together() };
    let fcfs = run(&t, 2, &["engine.policy=fcfs"], 64).unwrap();
    let streams = fcfs.streams.as_ref().unwrap();
    assert_eq!(streams.tenants.iter().map(|t| t.requests).sum::<usize>(), 66);
    assert_eq!(streams.tenants.iter().map(|t| t.requests).collect::<Vec<_>>(), [60, 6]);
    let fair = run(&t, 2, &["engine.policy=tenant"], 64).unwrap();
    assert_eq!(tokens(&fair), tokens(&fcfs));
    let (a, b) = (fcfs.metrics()["fair_fraction"], fair.metrics()["fair_fraction"]);
    assert!(b > 0.9 && a < 0.8, "fcfs {a}, tenant {b}");
}

#[test]
fn what_cannot_run_side_by_side_is_refused_in_a_sentence() {
    let refused = |t: Together| run(&t, 4, &[], 256).unwrap_err().to_string();
    assert!(refused(Together { streams: 0, ..together() }).contains("--streams"));
    assert!(refused(Together { own: (9, 8), ..together() }).contains("--stream-tokens"));
    assert!(refused(Together { shared: 400, ..together() }).contains("context"));
    assert!(refused(Together { shared: 100_000, ..together() }).contains("--prompt-file"));
    let callers = vec!["a=1000000".parse().unwrap(), "b=1e-9".parse().unwrap()];
    assert!(refused(Together { callers, ..together() }).contains("tenant b"));
    for bad in ["a", "a=", "a=0", "a=1:0", "a=x", "a=nan"] {
        assert!(bad.parse::<Caller>().is_err(), "{bad}");
    }
}
