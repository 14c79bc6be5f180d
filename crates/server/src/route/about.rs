//! `/version` and `/v1/about`: what this server is, and what runs in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Value, json};
use tamp_base::card::{Card, Room};

use super::{Method, Route};
use crate::app::App;

/// The version alone.
pub static VERSION: Route = Route {
    path: "/version",
    method: Method::Get,
    about: "the program's version",
    keyless: false,
    body: None,
    serve: || get(version),
};

/// Everything.
pub static ABOUT: Route = Route {
    path: "/v1/about",
    method: Method::Get,
    about: "plan and counters of every loaded model, and the cards of all techniques",
    keyless: false,
    body: None,
    serve: || get(about),
};

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

fn card(c: &Card) -> Value {
    json!({"name": c.name, "aka": c.aka, "about": c.about, "paper": c.paper, "claim": c.claim, "effect": c.effect})
}

fn room(r: &Room) -> Value {
    json!({"room": r.name, "cards": r.cards.iter().map(|c| card(c)).collect::<Vec<_>>()})
}

async fn about(State(app): State<Arc<App>>) -> Json<Value> {
    let model = |m: &Arc<crate::model::Served>| {
        json!({
            "model": &*m.name, "plan": &**m.handle.plan(), "stats": m.handle.stats(),
            "alive": m.handle.is_alive(), "broken": m.handle.broken(),
        })
    };
    let models: Vec<Value> = app.models.loaded().iter().map(model).collect();
    let rooms: Vec<Value> = tamp_engine::rooms().iter().chain(&crate::send::rooms()).map(room).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().map_or(0, |d| d.as_secs()),
        "draining": app.drain.is_draining(),
        "requests_under_way": app.drain.busy(),
        "models": models,
        "think_gate": app.gate.acts(),
        "rooms": rooms,
    }))
}
