//! `/v1/models`: what there is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::routing::get;
use serde_json::{Value, json};

use super::{Method, Route};
use crate::app::App;
use crate::error::ApiError;
use crate::model::{Listed, unknown_model};

/// All of them.
pub static LIST: Route = Route {
    path: "/v1/models",
    method: Method::Get,
    about: "the models that are served",
    keyless: false,
    body: None,
    serve: || get(list),
};

/// One.
pub static ONE: Route = Route {
    path: "/v1/models/{model}",
    method: Method::Get,
    about: "one model",
    keyless: false,
    body: None,
    serve: || get(one),
};

fn line(m: &Listed) -> Value {
    json!({
        "id": &*m.name, "object": "model", "created": m.created, "owned_by": "local",
        "max_model_len": m.ctx, "loaded": m.loaded,
    })
}

async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let all: Vec<Value> = app.models.list().iter().map(line).collect();
    Json(json!({"object": "list", "data": all}))
}

async fn one(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let all = app.models.list();
    match all.iter().find(|m| *m.name == *name) {
        Some(m) => Ok(Json(line(m))),
        None => Err(unknown_model(&name, all.iter().map(|m| &*m.name))),
    }
}
