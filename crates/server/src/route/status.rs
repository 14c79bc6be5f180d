//! `/v1/status`: everything that moves, and the levers that are set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Query, State};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tamp_base::card::{Card, Knobs};

use super::{Method, Route};
use crate::app::App;
use crate::error::ApiError;
use crate::meter::{EVERY, WINDOW};
use crate::model::Served;
use crate::words;

/// The route.
pub static ROUTE: Route = Route {
    path: "/v1/status",
    method: Method::Get,
    about: "speeds, queue, cache, tenants, health, spans and levers now; `?parts=` names some of these, by commas",
    keyless: false,
    body: None,
    serve: || get(status),
};

/// A part of the answer.
type Part = fn(&App) -> Value;

/// Every part, in order.
const PARTS: &[(&str, Part)] = &[
    ("models", |app| app.models.loaded().iter().map(|m| model(app, m)).collect()),
    ("tenants", tenants),
    ("health", |app| app.ops.as_ref().map_or(Value::Null, |ops| ops.report())),
    ("spans", |app| {
        let recent = |m: &Arc<Served>| app.ops.as_ref()?.recent(m);
        let all: Vec<Value> = app.models.loaded().iter().filter_map(recent).flatten().collect();
        all.into()
    }),
    ("levers", levers),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    parts: Option<String>,
}

async fn status(State(app): State<Arc<App>>, Query(asked): Query<Asked>) -> Result<Json<Value>, ApiError> {
    let known = || PARTS.iter().map(|p| p.0);
    let wanted: Vec<&str> = match &asked.parts {
        None => known().collect(),
        Some(list) => list.split(',').filter(|p| !p.is_empty()).collect(),
    };
    if let Some(strange) = wanted.iter().find(|w| known().all(|k| k != **w)) {
        let (strange, known) = (words::brief(strange), known().collect::<Vec<_>>().join(", "));
        return Err(ApiError::field("parts", format!("there is no part `{strange}`; known: {known}")));
    }
    let began = app.started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let mut out = Map::new();
    out.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    out.insert("started_ms".into(), began.into());
    out.insert("uptime_s".into(), app.started.elapsed().map_or(0, |d| d.as_secs()).into());
    out.insert("draining".into(), app.drain.is_draining().into());
    out.insert("requests_under_way".into(), app.drain.busy().into());
    out.insert("window_s".into(), WINDOW.as_secs().into());
    out.insert("history_every_s".into(), EVERY.as_secs().into());
    for (name, part) in PARTS.iter().filter(|p| wanted.contains(&p.0)) {
        out.insert((*name).into(), part(&app));
    }
    Ok(Json(out.into()))
}

fn model(app: &App, m: &Arc<Served>) -> Value {
    let (s, plan) = (m.handle.stats(), m.handle.plan());
    let speed = app.meter.speed(&m.name, &s);
    let ceiling = app.board.ceilings.get(&m.name).copied().filter(|c| *c > 0.0);
    json!({
        "name": &*m.name,
        "alive": m.handle.is_alive(),
        "broken": m.handle.broken(),
        "chats": m.template.is_some(),
        "ctx": m.handle.ctx(),
        "batch": plan.batch,
        "running": s.running,
        "waiting": s.waiting,
        "finished": s.finished,
        "preemptions": s.preemptions,
        "pressure": s.eased.level,
        "pages": {"total": s.pages_total, "free": s.pages_free, "cached": s.pages_cached},
        "prefix": {"asked": s.prefix_asked, "hits": s.prefix_hits},
        "drafts": {"tested": s.work.draft_tested, "accepted": s.work.draft_accepted},
        "decode_tok_s": speed.decode_tok_s,
        "prefill_tok_s": speed.prefill_tok_s,
        "busy": speed.busy,
        "read": {
            "gb_s": speed.read_gb_s, "ceiling_gb_s": ceiling,
            "fraction": ceiling.map(|c| speed.read_gb_s / c),
        },
        // What one answer could have of the machine when nothing but its weights were read.
        "ceiling_tok_s": ceiling.map(|c| c * 1e9 / plan.model.weight_bytes.max(1) as f64),
        "history": speed.history,
    })
}

fn tenants(app: &App) -> Value {
    let standing: BTreeMap<Arc<str>, Value> = app.ops.as_ref().map(|o| o.standings()).unwrap_or_default();
    let line = |(name, share): (Arc<str>, crate::meter::Share)| {
        let mut v = json!({"name": &*name, "took": share});
        if let Some(sla) = standing.get(&name) {
            v["sla"] = sla.clone();
        }
        v
    };
    app.meter.shares().into_iter().map(line).collect()
}

/// Every technique: whether it is in use, where, with which knobs, and what was measured of it.
fn levers(app: &App) -> Value {
    let loaded = app.models.loaded();
    let ours = crate::send::rooms();
    let lever = |room: &'static str, first: bool, card: &'static Card| {
        let uses: Vec<Value> = match ours.iter().any(|r| r.name == room) {
            true => used_here(app, room, first, card).into_iter().collect(),
            false => loaded.iter().filter_map(|m| used_by(m, room, card)).collect(),
        };
        let id = format!("{room}.{}", card.name);
        json!({
            "room": room, "name": card.name, "aka": card.aka, "about": card.about, "paper": card.paper,
            "claim": card.claim, "effect": card.effect, "uses": uses, "found": app.board.findings.get(&id), "id": id,
        })
    };
    let rooms = app.board.rooms();
    let all = rooms.iter().flat_map(|r| r.cards.iter().enumerate().map(move |(i, c)| (r.name, i == 0, *c)));
    all.map(|(room, first, card)| lever(room, first, card)).collect()
}

/// By a model's plan.
fn used_by(m: &Served, room: &str, card: &Card) -> Option<Value> {
    let used = |t: &&tamp_engine::plan::Chosen| t.room == room && t.name == card.name;
    let t = m.handle.plan().techniques.iter().find(used)?;
    let knobs: Map<String, Value> = t.knobs.iter().map(|(k, v)| ((*k).into(), v.clone().into())).collect();
    Some(json!({"model": &*m.name, "knobs": knobs, "from": t.from}))
}

/// By the server's settings; a room nobody spoke of has its first.
fn used_here(app: &App, room: &str, first: bool, card: &'static Card) -> Option<Value> {
    if !app.settings.used(room).map_or(first, |name| name == card.name) {
        return None;
    }
    // What does not read was refused when the server began.
    let knobs = Knobs::read(room, card, &app.settings).ok()?;
    let knobs: Map<String, Value> =
        card.knobs.iter().map(|k| (k.name.into(), knobs.choice(k.name).into())).collect();
    Some(json!({"knobs": knobs}))
}
