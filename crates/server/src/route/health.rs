//! `/live`, `/health`, `/ready`: three words for supervisors and routers, without a body and without a key.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Method, Route};
use crate::app::App;

/// The loop turns.
pub static LIVE: Route = Route {
    path: "/live",
    method: Method::Get,
    about: "200 while the process serves and every engine's loop turns, also while it drains",
    keyless: true,
    body: None,
    serve: || get(live),
};

/// It answers.
pub static HEALTH: Route = Route {
    path: "/health",
    method: Method::Get,
    about: "200 while requests are taken and every engine's loop turns, else 503",
    keyless: true,
    body: None,
    serve: || get(ready),
};

/// Send requests here.
pub static READY: Route = Route {
    path: "/ready",
    method: Method::Get,
    about: "as /health: 503 from the moment the server drains",
    keyless: true,
    body: None,
    serve: || get(ready),
};

fn turns(app: &App) -> bool {
    app.models.loaded().iter().all(|m| m.handle.is_alive())
}

fn word(well: bool) -> Response {
    if well {
        return StatusCode::OK.into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")]).into_response()
}

async fn live(State(app): State<Arc<App>>) -> Response {
    word(turns(&app))
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    word(turns(&app) && !app.drain.is_draining())
}
