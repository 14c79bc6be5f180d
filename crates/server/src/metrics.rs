//! What `/metrics` prints: under our prefix, and under the names that dashboards and routers already scrape.
//!
//! Recording takes no lock but a read lock on the list of models: each has its counters at hand, and a histogram its
//! own short lock. What the engine counts itself is read when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tamp_engine::{FinishReason, Stats, Usage};

use crate::observe::{End, Served};

type Labels = Vec<(&'static str, String)>;
type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;

/// Bounds of waiting and first tokens, seconds; those of vLLM, so that its dashboards' quantiles mean the same here.
const FIRST: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// Bounds between tokens; the first three are added for models small enough to need them.
const BETWEEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
];
/// Bounds of whole requests and their parts.
const WHOLE: &[f64] = &[
    0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
];
/// Bounds of what was foretold over what it took.
const RATIO: &[f64] = &[0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0];

/// The word of a finish reason; aborted is what routers know for a caller that left.
fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "abort",
        FinishReason::Deadline => "deadline",
        FinishReason::Error => "error",
    }
}
const REASONS: [FinishReason; 5] = [
    FinishReason::Stop,
    FinishReason::Length,
    FinishReason::Cancelled,
    FinishReason::Deadline,
    FinishReason::Error,
];

macro_rules! families {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $make:expr;)*) => {
        /// One family per metric with the label `model_name`.
        #[derive(Clone)]
        struct Families { $($field: Family<Labels, $kind, fn() -> $kind>,)* }
        /// One model's own.
        struct Model { $($field: $kind,)* live: AtomicI64, ended: [Counter; REASONS.len()] }
        impl Families {
            fn new() -> Self {
                Families { $($field: Family::new_with_constructor((|| $make) as fn() -> $kind),)* }
            }
            fn of(&self, model: &str, ended: &Family<Labels, Counter>) -> Model {
                let labels = vec![("model_name", model.to_string())];
                let ended = REASONS.map(|r| {
                    let labels = vec![("model_name", model.to_string()), ("finished_reason", reason(r).to_string())];
                    ended.get_or_create(&labels).clone()
                });
                Model { $($field: self.$field.get_or_create(&labels).clone(),)* live: AtomicI64::new(0), ended }
            }
        }
    };
}

fn histogram(bounds: &'static [f64]) -> Histogram {
    Histogram::new(bounds.iter().copied())
}

families! {
    waiting: Gauge = Gauge::default();
    running: Gauge = Gauge::default();
    pages: FloatGauge = FloatGauge::default();
    prompt: Counter = Counter::default();
    generated: Counter = Counter::default();
    asked_cache: Counter = Counter::default();
    hit_cache: Counter = Counter::default();
    preempted: Counter = Counter::default();
    ttft: Histogram = histogram(FIRST);
    itl: Histogram = histogram(BETWEEN);
    e2e: Histogram = histogram(WHOLE);
    queue: Histogram = histogram(WHOLE);
    prefill: Histogram = histogram(WHOLE);
    decode: Histogram = histogram(WHOLE);
    tested: Counter = Counter::default();
    accepted: Counter = Counter::default();
    eased: Gauge = Gauge::default();
    forwards: Counter = Counter::default();
    rows: Counter = Counter::default();
    weight_bytes: Counter = Counter::default();
    spans: Counter = Counter::default();
    spans_lost: Counter = Counter::default();
    foretold: Histogram = histogram(RATIO);
    busy: FloatCounter = FloatCounter::default();
}

/// Everything that is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    families: Families,
    models: RwLock<BTreeMap<Arc<str>, Arc<Model>>>,
    ended: Family<Labels, Counter>,
    cache_info: Family<Labels, Gauge>,
    served: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    cost: Family<Labels, FloatCounter>,
    page_seconds: Family<Labels, FloatCounter>,
    health: Gauge,
    sla_level: Family<Labels, Gauge>,
    sla_burn: Family<Labels, FloatGauge>,
    sla_minutes: Family<Labels, Gauge>,
    pool_bytes: Family<Labels, Gauge>,
    pool_users: Family<Labels, Gauge>,
    draining: Gauge,
}

/// How a tenant stands, for the gauges: tenant, objective, level 0…2, short and long burn rate, violated minutes.
pub struct SlaRow<'a> {
    /// its name
    pub tenant: &'a str,
    /// the objective
    pub objective: &'static str,
    /// 0 ok, 1 warning, 2 critical
    pub level: i64,
    /// burn rate over the short window
    pub short: f64,
    /// burn rate over the long window
    pub long: f64,
    /// so far
    pub violated_minutes: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at nothing.
    pub fn new() -> Metrics {
        let f = Families::new();
        let m = Metrics {
            registry: Mutex::default(),
            families: f.clone(),
            models: RwLock::default(),
            ended: Family::default(),
            cache_info: Family::default(),
            served: Family::default(),
            refused: Family::default(),
            cost: Family::default(),
            page_seconds: Family::default(),
            health: Gauge::default(),
            sla_level: Family::default(),
            sla_burn: Family::default(),
            sla_minutes: Family::default(),
            pool_bytes: Family::default(),
            pool_users: Family::default(),
            draining: Gauge::default(),
        };
        m.register(f);
        m
    }

    fn register(&self, f: Families) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Every one of these is also what a router scrapes under vLLM's name.
        macro_rules! both {
            ($name:literal, $help:literal, $metric:expr) => {
                registry.register(concat!("vllm:", $name), $help, $metric.clone());
                registry.register(concat!("tamp_", $name), $help, $metric.clone());
            };
        }
        both!("num_requests_waiting", "Requests that wait for their first forward pass", f.waiting);
        both!("num_requests_running", "Requests that hold KV pages", f.running);
        both!("kv_cache_usage_perc", "Share of KV pages in use, 0 to 1", f.pages);
        both!("cache_config_info", "Sizes of the KV cache, as labels", self.cache_info);
        both!("prompt_tokens", "Prompt tokens of requests that got a first token", f.prompt);
        both!("generation_tokens", "Tokens generated", f.generated);
        both!("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", f.asked_cache);
        both!("prefix_cache_hits", "Prompt tokens that came out of the prefix cache", f.hit_cache);
        both!("num_preemptions", "Times a sequence gave its pages up", f.preempted);
        both!("request_success", "Requests that ended, by reason", self.ended);
        both!("time_to_first_token_seconds", "Receipt to first token", f.ttft);
        both!("inter_token_latency_seconds", "Token to token", f.itl);
        both!("e2e_request_latency_seconds", "Receipt to end", f.e2e);
        both!("request_queue_time_seconds", "Receipt to first forward pass", f.queue);
        both!("request_prefill_time_seconds", "First forward pass to first token", f.prefill);
        both!("request_decode_time_seconds", "First token to end", f.decode);
        macro_rules! ours {
            ($name:literal, $help:literal, $metric:expr) => {
                registry.register(concat!("tamp_", $name), $help, $metric.clone());
            };
        }
        ours!("draft_tokens_tested", "Draft tokens the model judged", f.tested);
        ours!("draft_tokens_accepted", "Draft tokens that stayed", f.accepted);
        ours!("memory_pressure_level", "0 none … 4 newcomers are refused", f.eased);
        ours!("forward_passes", "Forward passes of the model", f.forwards);
        ours!("forward_rows", "Rows of those passes", f.rows);
        ours!("busy_seconds", "Time in the engine's steps; what requests cost sums to it", f.busy);
        ours!("weight_bytes_read", "Weight bytes read by those passes", f.weight_bytes);
        ours!("spans", "Spans asked to be kept", f.spans);
        ours!("spans_lost", "Spans that found their slot taken", f.spans_lost);
        ours!("cost_estimate_ratio", "Foretold engine time over what it took", f.foretold);
        ours!("http_responses", "Responses, by route and status", self.served);
        ours!("refusals", "Requests refused, by code", self.refused);
        ours!("request_cost_seconds", "Engine time by tenant and part", self.cost);
        ours!("kv_page_seconds", "KV pages held times seconds, by tenant", self.page_seconds);
        ours!("health_state", "0 ok, 1 degraded, 2 bad", self.health);
        ours!("sla_level", "0 ok, 1 warning, 2 critical", self.sla_level);
        ours!("sla_burn_rate", "How many times too fast the budget goes", self.sla_burn);
        ours!("sla_violated_minutes", "Minutes beyond an objective", self.sla_minutes);
        ours!("pool_model_bytes", "Memory of a model of the pool", self.pool_bytes);
        ours!("pool_model_users", "Leases out of a model of the pool", self.pool_users);
        ours!("draining", "1 while no new work is taken", self.draining);
    }

    fn model(&self, name: &Arc<str>) -> Arc<Model> {
        if let Some(m) = self.models.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return m.clone();
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.entry(name.clone()).or_insert_with(|| Arc::new(self.families.of(name, &self.ended))).clone()
    }

    /// A request is in the engine's queue.
    pub fn queued(&self, model: &Arc<str>) {
        self.model(model).live.fetch_add(1, Ordering::Relaxed);
    }

    /// Its first token is there.
    pub fn first(&self, model: &Arc<str>, prompt_tokens: usize, since_receipt: Duration) {
        let m = self.model(model);
        m.prompt.inc_by(prompt_tokens as u64);
        m.generated.inc();
        m.ttft.observe(since_receipt.as_secs_f64());
    }

    /// A further token.
    pub fn token(&self, model: &Arc<str>, gap: Duration) {
        let m = self.model(model);
        m.generated.inc();
        m.itl.observe(gap.as_secs_f64());
    }

    /// It is over. `prompt_tokens`: its length; `who`: the tenant's name.
    pub fn ended(&self, model: &Arc<str>, who: &str, prompt_tokens: usize, end: &End) {
        let m = self.model(model);
        m.live.fetch_sub(1, Ordering::Relaxed);
        if let Some(i) = REASONS.iter().position(|r| *r == end.finish) {
            m.ended[i].inc();
        }
        let (t, seconds) = (&end.timings, |ns: u64| ns as f64 / 1e9);
        m.e2e.observe(seconds(t.total_ns));
        if t.prompt_rows > 0 || end.usage.cached_tokens > 0 {
            m.queue.observe(seconds(t.queue_ns));
            m.asked_cache.inc_by(prompt_tokens as u64);
            m.hit_cache.inc_by(end.usage.cached_tokens as u64);
        }
        if t.first_token_ns > 0 {
            m.prefill.observe(seconds(t.prefill_ns));
            m.decode.observe(seconds(t.total_ns.saturating_sub(t.first_token_ns)));
        }
        m.tested.inc_by(end.usage.draft_tested);
        m.accepted.inc_by(end.usage.draft_accepted);
        self.charge(model, who, &end.usage);
    }

    fn charge(&self, model: &Arc<str>, who: &str, usage: &Usage) {
        let labels = |part: Option<&'static str>| {
            let base = [("model_name", model.to_string()), ("tenant", who.to_string())];
            base.into_iter().chain(part.map(|p| ("part", p.to_string()))).collect::<Labels>()
        };
        let cost = &usage.cost;
        for (part, ns) in
            [("prefill", cost.prefill_ns), ("decode", cost.decode_ns), ("wasted", cost.wasted_ns)]
        {
            self.cost.get_or_create(&labels(Some(part))).inc_by(ns as f64 / 1e9);
        }
        self.page_seconds.get_or_create(&labels(None)).inc_by(cost.page_ms as f64 / 1e3);
    }

    /// What was foretold of a request, over what it took.
    pub fn foretold(&self, model: &Arc<str>, ratio: f64) {
        self.model(model).foretold.observe(ratio);
    }

    /// A response's head went out.
    pub fn served(&self, served: &Served) {
        let route = if served.route.is_empty() { "none" } else { served.route };
        let labels = vec![("route", route.to_string()), ("status", served.status.to_string())];
        self.served.get_or_create(&labels).inc();
        if let Some(code) = served.code {
            self.refused.get_or_create(&vec![("code", code.to_string())]).inc();
        }
    }

    /// What an engine says of itself, taken when somebody scrapes. `spans`: asked to be kept, and lost.
    pub fn engine(&self, model: &Arc<str>, stats: &Stats, page: usize, spans: (u64, u64)) {
        let m = self.model(model);
        let running = stats.running as i64;
        m.running.set(running);
        // Those between the door and the engine wait as well.
        m.waiting.set((m.live.load(Ordering::Relaxed) - running).max(stats.waiting as i64));
        m.pages.set(1.0 - stats.pages_free as f64 / stats.pages_total.max(1) as f64);
        m.eased.set(i64::from(stats.eased.level));
        for (counter, value) in [
            (&m.preempted, stats.preemptions),
            (&m.forwards, stats.work.target_forwards),
            (&m.rows, stats.work.target_positions),
            (&m.weight_bytes, stats.work.weight_bytes),
            (&m.spans, spans.0),
            (&m.spans_lost, spans.1),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
        m.busy.inner().store((stats.busy_ns as f64 / 1e9).to_bits(), Ordering::Relaxed);
        let labels = vec![
            ("model_name", model.to_string()),
            ("block_size", page.to_string()),
            ("num_gpu_blocks", stats.pages_total.to_string()),
        ];
        self.cache_info.get_or_create(&labels).set(1);
    }

    /// How the server stands; 0 ok, 1 degraded, 2 bad.
    pub fn state(&self, health: i64, draining: bool) {
        self.health.set(health);
        self.draining.set(i64::from(draining));
    }

    /// How a tenant stands.
    pub fn sla(&self, row: &SlaRow<'_>) {
        let labels = vec![("tenant", row.tenant.to_string()), ("objective", row.objective.to_string())];
        self.sla_level.get_or_create(&labels).set(row.level);
        self.sla_minutes.get_or_create(&labels).set(row.violated_minutes as i64);
        for (window, burn) in [("short", row.short), ("long", row.long)] {
            let labels = labels.iter().cloned().chain([("window", window.to_string())]).collect::<Labels>();
            self.sla_burn.get_or_create(&labels).set(burn);
        }
    }

    /// A model of the pool.
    pub fn pool(&self, name: &str, bytes: u64, users: usize) {
        let labels = vec![("model_name", name.to_string())];
        self.pool_bytes.get_or_create(&labels).set(bytes as i64);
        self.pool_users.get_or_create(&labels).set(users as i64);
    }

    /// The page in OpenMetrics' text format.
    pub fn open_text(&self) -> String {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &registry);
        out
    }

    /// The page in Prometheus' own text format, version 0.0.4: there the type of a counter is told of its full name.
    pub fn text(&self) -> String {
        classic(&self.open_text())
    }
}

fn classic(open: &str) -> String {
    let counters: std::collections::BTreeSet<&str> =
        open.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(open.len());
    for line in open.lines().filter(|l| *l != "# EOF" && !l.starts_with("# UNIT ")) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                out += &format!("# {what} {name}_total {rest}\n");
            }
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
