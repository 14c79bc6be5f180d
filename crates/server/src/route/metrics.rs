//! `/metrics`, `/debug/trace`, `/debug/health`: what operators and their programs look at.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::{Method, Route};
use crate::app::App;
use crate::error::ApiError;
use crate::ops::Ops;

/// Counters.
pub static METRICS: Route = Route {
    path: "/metrics",
    method: Method::Get,
    about: "counters, gauges and histograms in Prometheus' text format, or OpenMetrics' where asked for",
    keyless: false,
    body: None,
    serve: || get(metrics),
};

/// Spans.
pub static TRACE: Route = Route {
    path: "/debug/trace",
    method: Method::Get,
    about: "the newest spans as a Chrome trace; `?model=` where there are several",
    keyless: false,
    body: None,
    serve: || get(trace),
};

/// Windows and objectives.
pub static STANDING: Route = Route {
    path: "/debug/health",
    method: Method::Get,
    about: "how the server does and why: health, quantiles of the window, tenants' objectives",
    keyless: false,
    body: None,
    serve: || get(standing),
};

fn ops(app: &App) -> Result<&Arc<Ops>, ApiError> {
    let why = "this server was started without metrics";
    app.ops.as_ref().ok_or_else(|| ApiError::status(StatusCode::NOT_FOUND, "no_metrics", why))
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accepts = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let open = accepts.contains("application/openmetrics-text");
    let kind = match open {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    Ok(([(CONTENT_TYPE, kind)], ops(&app)?.page(open)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    model: Option<String>,
}

async fn trace(State(app): State<Arc<App>>, Query(which): Query<Which>) -> Result<Response, ApiError> {
    let loaded = app.models.loaded();
    let model = match &which.model {
        None => loaded.first(),
        Some(name) => loaded.iter().find(|m| *m.name == **name),
    };
    let names = loaded.iter().map(|m| &*m.name);
    let model =
        model.ok_or_else(|| crate::model::unknown_model(which.model.as_deref().unwrap_or(""), names))?;
    let off = || {
        let why = "no spans are kept; start with --use engine.trace=spans";
        ApiError::status(StatusCode::NOT_FOUND, "no_spans", why)
    };
    Ok(Json(ops(&app)?.chrome(model).ok_or_else(off)?).into_response())
}

async fn standing(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    Ok(Json(ops(&app)?.report()).into_response())
}
