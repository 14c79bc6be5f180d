//! Rows of what stands around requests: health, objectives, the pool of models, streams.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tamp_base::card::{Card, Knobs};
use tamp_base::clock::SystemClock;
use tamp_base::ids::TenantId;
use tamp_bench::BenchError;
use tamp_bench::ops::Ready;
use tamp_engine::EngineError;
use tamp_server::answer::Said;
use tamp_server::health::{self, Health, Metric};
use tamp_server::layer::sla::{self, Sla};
use tamp_server::pool::{self, Loader, Pool};
use tamp_server::send;
use tamp_server::send::sse::{Gather, Say, data};

use super::engine::{ready, settings, wrong};
use super::landed::Row;

/// The rows, in the table's order.
pub const ROWS: &[Row] = &[
    (
        "InferenceHealthMonitor",
        "record_request() latency=180ms",
        "a request's whole time and its end into the rolling window",
        |_| record_request(),
    ),
    (
        "InferenceHealthMonitor",
        "overall_health() p99+error",
        "the judgement of four times and of failures over 30 slices",
        |_| overall_health(),
    ),
    (
        "ModelPool",
        "acquire()+release() cache hit 512MB",
        "a lease of a loaded model taken and given back",
        |_| acquire(),
    ),
    (
        "ChunkedStreamer",
        "stream() 64 tokens chunk_size=4",
        "tokens gathered and written as 16 events of JSON",
        |_| stream(64),
    ),
    (
        "ChunkedStreamer",
        "stream() 16 tokens chunk_size=4",
        "tokens gathered and written as 4 events of JSON",
        |_| stream(16),
    ),
    ("SLAMonitor", "record() latency=400ms", "a time into a tenant's window", |_| sla_record()),
    (
        "SLAMonitor",
        "check() window=100",
        "burn rates of four objectives over two windows, 100 requests in them",
        |_| sla_check(),
    ),
];

fn knobs(room: &str, card: &'static Card, sets: &[&str]) -> Result<Knobs, BenchError> {
    Ok(Knobs::read(room, card, &settings(&[], sets)?).map_err(EngineError::Card)?)
}

fn health() -> Result<Health, BenchError> {
    Ok(Health::new(&knobs("server.health", &health::CARD, &["server.health.monitor.e2e_ms=1000"])?))
}

fn record_request() -> Result<Ready, BenchError> {
    let (mut health, mut now) = (health()?, Duration::ZERO);
    ready(move || {
        now += Duration::from_micros(100);
        health.time(now, Metric::E2e, Duration::from_millis(180));
        health.end(now, false);
    })
}

fn overall_health() -> Result<Ready, BenchError> {
    let (mut health, mut now) = (health()?, Duration::ZERO);
    for _ in 0..300 {
        now += Duration::from_millis(100);
        health.time(now, Metric::E2e, Duration::from_millis(180));
        health.end(now, false);
    }
    ready(move || {
        black_box(health.judge(now));
    })
}

/// Brings a model of 512 MB that takes none.
struct Small;

impl Loader<()> for Small {
    fn forecast(&self, _: &str) -> Result<u64, String> {
        Ok(512 << 20)
    }

    fn load(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn acquire() -> Result<Ready, BenchError> {
    let knobs = knobs("server.pool", &pool::CARD, &["server.pool.lru.cap_mb=1024"])?;
    let clock = Arc::new(SystemClock::default());
    let pool: Pool<()> = Pool::new(["m".to_string()], BTreeMap::new(), Arc::new(Small), clock, &knobs);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| wrong(e.to_string()))?;
    drop(runtime.block_on(pool.acquire("m")).map_err(|e| wrong(e.to_string()))?);
    // A model that stands is had at the first poll.
    let hit = move || {
        let asked = pin!(pool.acquire("m"));
        matches!(asked.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
    };
    if !hit() {
        return Err(wrong("a loaded model was not to be had at once"));
    }
    ready(move || {
        black_box(hit());
    })
}

/// Text as a completion's events have it.
#[derive(Default)]
struct Text(String);

impl Say for Text {
    fn note(&mut self, _: usize, said: Said) {
        if let Said::Token { text, .. } = said {
            self.0 += &text;
        }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            let text = std::mem::take(&mut self.0);
            data(&serde_json::json!({"choices": [{"index": 0, "text": text}]}), out);
        }
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}

fn stream(tokens: usize) -> Result<Ready, BenchError> {
    let chosen = settings(&["server.stream=chunked"], &["server.stream.chunked.tokens=4"])?;
    let (pace, _) = send::TABLE.open(&(), &chosen).map_err(EngineError::Card)?;
    let (mut gather, mut out) = (Gather::new(Text::default(), pace, 1), Vec::new());
    let mut all = move || {
        out.clear();
        for token in 0..tokens {
            let said = Said::Token { token: token as u32, text: " word".to_string(), likely: None };
            gather.take(0, said, &mut out);
        }
        gather.flush(&mut out);
        out.windows(2).filter(|w| w == b"\n\n").count()
    };
    // The first token of a stream goes alone; the streams that are timed are under way.
    all();
    match all() {
        n if n == tokens / 4 => ready(move || {
            black_box(all());
        }),
        n => Err(wrong(format!("{n} events of {tokens} tokens"))),
    }
}

const A: TenantId = TenantId(1);

fn sla() -> Result<Sla, BenchError> {
    let sets = ["ttft_ms=500", "itl_ms=100", "e2e_ms=5000"].map(|x| format!("server.sla.burn.{x}"));
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    Ok(Sla::new(&knobs("server.sla", &sla::CARD, &sets)?, BTreeMap::new()))
}

fn sla_record() -> Result<Ready, BenchError> {
    let (mut sla, mut now) = (sla()?, Duration::ZERO);
    ready(move || {
        now += Duration::from_micros(100);
        sla.time(now, A, Metric::Ttft, Duration::from_millis(400));
    })
}

fn sla_check() -> Result<Ready, BenchError> {
    let (mut sla, mut now) = (sla()?, Duration::ZERO);
    for _ in 0..100 {
        now += Duration::from_millis(500);
        sla.time(now, A, Metric::Ttft, Duration::from_millis(400));
        sla.end(now, A, false);
    }
    ready(move || {
        black_box(sla.check(now, A));
    })
}
