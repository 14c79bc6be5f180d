//! Everything that watches a request's life, in one observer: metrics, health, objectives, costs, names of spans.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tamp_base::card::{Card, CardError, Effect, Knobs, Room};
use tamp_base::ids::{PAGE, TenantId};
use tamp_base::settings::Settings;
use tamp_engine::FinishReason;
use tamp_engine::cost::{Asked, Estimate};

use crate::app::App;
use crate::error::ApiError;
use crate::health::{self, Health, Judgement, Metric};
use crate::layer::cost::{self, Costs};
use crate::layer::sla::{self, Objectives, Report, Sla};
use crate::layer::span::{self, Names};
use crate::metrics::{Metrics, SlaRow};
use crate::model::Served as Model;
use crate::observe::{End, Facts, Observe, Served};
use crate::otlp::{self, Target};
use crate::pool;

const fn none(about: &'static str) -> Card {
    Card {
        name: "none",
        aka: "",
        about,
        paper: "",
        claim: "",
        effect: Effect::Service,
        needs: &[],
        knobs: &[],
    }
}

const HEALTH: &str = "server.health";
const SLA: &str = "server.sla";
const COST: &str = "server.cost";
/// The room of ways to keep several models.
pub const POOL: &str = "server.pool";

static UNWATCHED: Card = none("health is not judged, and nobody is sent away for it");
static UNPROMISED: Card = none("tenants have no objectives");
static UNCOUNTED: Card = none("costs are not foretold");
static ALL: Card = Card { name: "all", ..none("every model is loaded at the start and stays") };

/// The rooms of this module, null first.
pub fn rooms() -> Vec<Room> {
    vec![
        Room { name: HEALTH, cards: vec![&UNWATCHED, &health::CARD] },
        Room { name: SLA, cards: vec![&UNPROMISED, &sla::CARD] },
        Room { name: COST, cards: vec![&UNCOUNTED, &cost::CARD] },
        Room { name: POOL, cards: vec![&ALL, &pool::CARD] },
    ]
}

/// The knobs of a card, when the settings choose it for its room.
pub fn chosen(room: &str, card: &'static Card, settings: &Settings) -> Result<Option<Knobs>, CardError> {
    (settings.used(room) == Some(card.name)).then(|| Knobs::read(room, card, settings)).transpose()
}

/// A newcomer that is sent away may come back after this long.
const SHED: Duration = Duration::from_secs(2);
/// Spans are sent to a collector this often.
const EXPORT: Duration = Duration::from_secs(5);

/// Watches. One per server.
pub struct Ops {
    /// what `/metrics` prints
    pub metrics: Metrics,
    health: Option<Mutex<Health>>,
    sla: Option<Mutex<Sla>>,
    costs: Option<Mutex<Costs>>,
    names: Mutex<Names>,
    /// names of tenants that were seen, for labels
    tenants: Mutex<BTreeMap<TenantId, Arc<str>>>,
    /// time 0 of the windows
    zero: Instant,
    app: OnceLock<Weak<App>>,
    /// batches of spans sent to a collector
    pub sent: Arc<otlp::Sent>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ops {
    /// With what the settings choose; `own`: objectives of single tenants.
    ///
    /// # Errors
    /// A knob with a value that it does not take.
    pub fn new(settings: &Settings, own: BTreeMap<TenantId, Objectives>) -> Result<Ops, CardError> {
        Ok(Ops {
            metrics: Metrics::new(),
            health: chosen(HEALTH, &health::CARD, settings)?.map(|k| Mutex::new(Health::new(&k))),
            sla: chosen(SLA, &sla::CARD, settings)?.map(|k| Mutex::new(Sla::new(&k, own))),
            costs: chosen(COST, &cost::CARD, settings)?.map(|_| Mutex::default()),
            names: Mutex::default(),
            tenants: Mutex::default(),
            zero: Instant::now(),
            app: OnceLock::new(),
            sent: Arc::default(),
        })
    }

    /// Lets it see the models. Once, when the server's state is made.
    pub fn attach(&self, app: &Arc<App>) {
        // A second call would name the same server.
        let _ = self.app.set(Arc::downgrade(app));
    }

    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn app(&self) -> Option<Arc<App>> {
        self.app.get().and_then(Weak::upgrade)
    }

    fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.app()?.models.loaded().into_iter().find(|m| &*m.name == name)
    }

    /// How the server does; well where nobody judges.
    pub fn judge(&self) -> Judgement {
        let now = self.now();
        self.health.as_ref().map(|h| lock(h).judge(now)).unwrap_or_default()
    }

    /// How a tenant stands.
    pub fn standing(&self, tenant: TenantId) -> Report {
        let now = self.now();
        self.sla.as_ref().map(|s| lock(s).check(now, tenant)).unwrap_or_default()
    }

    /// What a tenant's next request gains in priority, for its trouble.
    pub fn boost(&self, tenant: TenantId) -> i32 {
        let now = self.now();
        self.sla.as_ref().map_or(0, |s| lock(s).boost(now, tenant))
    }

    /// What was foretold of a sequence under way, by [`Facts::number`].
    pub fn foretold(&self, number: u64) -> Option<Estimate> {
        lock(self.costs.as_ref()?).foretold(number)
    }

    fn foretell(&self, facts: &Facts) -> Option<Estimate> {
        let costs = self.costs.as_ref()?;
        let model = self.model(&facts.model)?;
        let stats = model.handle.stats();
        let asked = Asked {
            prefill: facts.prompt_tokens,
            cached: 0,
            decode: lock(costs).length(&facts.model, facts.max_tokens),
            chunk: model.handle.plan().chunk,
            beside: stats.running,
        };
        // Nothing is foretold before anything ran.
        (stats.busy_ns > 0).then(|| stats.rates.estimate(&asked))
    }

    fn time(&self, facts: &Facts, metric: Metric, time: Duration) {
        let now = self.now();
        if let Some(h) = &self.health {
            lock(h).time(now, metric, time);
        }
        if let Some(s) = &self.sla {
            lock(s).time(now, facts.tenant, metric, time);
        }
    }

    /// The page of `/metrics`; `open`: in OpenMetrics' format.
    pub fn page(&self, open: bool) -> String {
        if let Some(app) = self.app() {
            for m in app.models.loaded() {
                let spans = m.handle.spans().map_or((0, 0), |s| (s.recorded(), s.lost()));
                self.metrics.engine(&m.name, &m.handle.stats(), PAGE, spans);
            }
            self.metrics.state(self.judge().state as i64, app.drain.is_draining());
        }
        for (tenant, name) in lock(&self.tenants).clone() {
            for s in self.standing(tenant).standings {
                self.metrics.sla(&SlaRow {
                    tenant: &name,
                    objective: s.objective,
                    level: s.level as i64,
                    short: s.short,
                    long: s.long,
                    violated_minutes: s.violated_minutes,
                });
            }
        }
        if open { self.metrics.open_text() } else { self.metrics.text() }
    }

    /// How everything stands, for a person or the page at `/`.
    pub fn report(&self) -> Value {
        let tenants = lock(&self.tenants).clone();
        let slas: BTreeMap<&str, Report> = tenants.iter().map(|(t, n)| (&**n, self.standing(*t))).collect();
        let times = |metric: Metric| {
            let all = self.health.as_ref().map(|h| lock(h).times(self.now(), metric)).unwrap_or_default();
            let ms = |q| all.quantile(q).map(|d: Duration| d.as_secs_f64() * 1e3);
            json!({"count": all.count(), "p50_ms": ms(0.5), "p99_ms": ms(0.99)})
        };
        let window: BTreeMap<&str, Value> = Metric::ALL.iter().map(|m| (m.name(), times(*m))).collect();
        json!({"health": self.judge(), "window": window, "tenants": slas})
    }

    /// How every tenant that was seen stands, by name.
    pub fn standings(&self) -> BTreeMap<Arc<str>, Value> {
        let tenants = lock(&self.tenants).clone();
        let json = |r: Report| serde_json::to_value(r).unwrap_or_default();
        tenants.into_iter().map(|(t, name)| (name, json(self.standing(t)))).collect()
    }

    /// A loaded model's last seconds, request by request; `None` where spans are not kept.
    pub fn recent(&self, model: &Model) -> Option<Vec<Value>> {
        let ring = model.handle.spans()?;
        let (spans, _) = ring.since(ring.recorded().saturating_sub(span::RECENT));
        Some(span::recent(&model.name, &spans, &lock(&self.names), model.handle.now()))
    }

    /// A Chrome trace of a loaded model's newest spans; `None` where spans are not kept.
    pub fn chrome(&self, model: &Model) -> Option<Value> {
        let (spans, _) = model.handle.spans()?.since(0);
        Some(span::chrome(&model.name, &spans, &lock(&self.names)))
    }

    /// Sends a model's spans to a collector until dropped; ends at once where spans are not kept.
    pub async fn export(self: Arc<Self>, model: Arc<Model>, target: Target) {
        let Some(ring) = model.handle.spans().cloned() else { return };
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = since_1970.saturating_sub(model.handle.now());
        // The model itself may be let go; its ring is kept until the last spans are sent.
        drop(model);
        let sent = self.sent.clone();
        let make = move |spans: &[tamp_base::span::Span]| {
            let body = span::otlp(spans, &lock(&self.names), epoch)?;
            serde_json::to_vec(&body).ok()
        };
        otlp::export(target, ring, EXPORT, sent, make).await;
    }

    /// Batches of spans that went out and that did not.
    pub fn exported(&self) -> (u64, u64) {
        (self.sent.batches.load(Ordering::Relaxed), self.sent.failed.load(Ordering::Relaxed))
    }
}

impl Observe for Ops {
    fn admit(&self, facts: &Facts) -> Result<(), ApiError> {
        let Some(health) = &self.health else { return Ok(()) };
        let waiting = self.model(&facts.model).map_or(0, |m| m.handle.stats().waiting);
        let now = self.now();
        let health = lock(health);
        if !health.sheds(now, waiting) {
            return Ok(());
        }
        let why = format!("the server is overloaded: {}; try again later", health.judge(now).reason);
        Err(ApiError::unavailable("overloaded", why, SHED))
    }

    fn queued(&self, facts: &Facts) {
        self.metrics.queued(&facts.model);
        lock(&self.tenants).entry(facts.tenant).or_insert_with(|| facts.who.clone());
        lock(&self.names).add(facts);
        if let (Some(costs), Some(estimate)) = (&self.costs, self.foretell(facts)) {
            lock(costs).began(facts.number(), estimate);
        }
    }

    fn first(&self, facts: &Facts, since_receipt: Duration) {
        self.metrics.first(&facts.model, facts.prompt_tokens, since_receipt);
        self.time(facts, Metric::Ttft, since_receipt);
    }

    fn token(&self, facts: &Facts, gap: Duration) {
        self.metrics.token(&facts.model, gap);
        self.time(facts, Metric::Itl, gap);
    }

    fn ended(&self, facts: &Facts, end: &End) {
        self.metrics.ended(&facts.model, &facts.who, facts.prompt_tokens, end);
        if let Some(costs) = &self.costs {
            let ratio = lock(costs).ended(facts.number(), &facts.model, end.tokens, &end.usage);
            ratio.into_iter().for_each(|r| self.metrics.foretold(&facts.model, r));
        }
        // What never ran was refused: that is counted by code, and says nothing about how requests fare.
        if end.timings.prompt_rows == 0 && end.tokens == 0 {
            return;
        }
        if end.finish != FinishReason::Cancelled {
            self.time(facts, Metric::Queue, Duration::from_nanos(end.timings.queue_ns));
            self.time(facts, Metric::E2e, Duration::from_nanos(end.timings.total_ns));
        }
        let (now, failed) = (self.now(), end.finish == FinishReason::Error);
        if let Some(h) = &self.health {
            lock(h).end(now, failed);
        }
        if let Some(s) = &self.sla {
            lock(s).end(now, facts.tenant, failed);
        }
    }

    fn served(&self, served: &Served) {
        self.metrics.served(served);
    }
}

#[cfg(test)]
mod tests;
