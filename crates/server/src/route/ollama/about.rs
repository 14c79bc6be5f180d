//! `/api/tags`, `/api/show`, `/api/version`, `/api/ps`: what there is.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tamp_text::tools::Style;

use super::{model, stamp};
use crate::app::App;
use crate::call::Call;
use crate::error::ApiError;
use crate::layer::thinkgate::VARIABLE;
use crate::model::{Listed, Served};
use crate::route::{Method, Route};
use crate::wire::form::{Form, Shape, What, field};

const fn look(
    path: &'static str,
    about: &'static str,
    serve: fn() -> axum::routing::MethodRouter<Arc<App>>,
) -> Route {
    Route { path, method: Method::Get, about, keyless: false, body: None, serve }
}

/// All models.
pub static TAGS: Route = look("/api/tags", "the models that are served, in Ollama's dialect", || get(tags));
/// Those in memory.
pub static PS: Route = look("/api/ps", "the models in memory, in Ollama's dialect", || get(ps));
/// The program's version.
pub static VERSION: Route =
    look("/api/version", "the program's version, in Ollama's dialect", || get(version));

static SHOW_SHAPE: Shape = Shape {
    name: "OllamaShow",
    groups: &[&[
        field("model", What::Text(256), "name of the model"),
        field("name", What::Text(256), "the older name of the same"),
        field("verbose", What::Only(&["false"], "tensors and tokens are not listed"), "only false"),
    ]],
    required: &[],
};

/// One model.
pub static SHOW: Route = Route {
    path: "/api/show",
    method: Method::Post,
    about: "one model's template, shape and abilities, in Ollama's dialect",
    keyless: false,
    body: Some(&SHOW_SHAPE),
    serve: || post(show),
};

fn details(m: Option<&Arc<Served>>) -> Value {
    let family = m.map(|m| m.handle.plan().model.arch);
    json!({"format": "gguf", "family": family, "families": family.map(|f| vec![f])})
}

fn line(app: &App, m: &Listed) -> Value {
    let loaded = app.models.loaded();
    let served = loaded.iter().find(|s| s.name == m.name);
    let mut v = json!({
        "name": &*m.name, "model": &*m.name, "modified_at": stamp(Duration::from_secs(m.created)),
        "details": details(served),
    });
    if let Some(s) = served {
        // Of the weights in memory; who a file is by its content is not known before somebody hashed it.
        v["size"] = s.handle.plan().model.weight_bytes.into();
        v["context_length"] = s.handle.ctx().into();
    }
    v
}

async fn tags(State(app): State<Arc<App>>) -> Json<Value> {
    let all: Vec<Value> = app.models.list().iter().map(|m| line(&app, m)).collect();
    Json(json!({"models": all}))
}

async fn ps(State(app): State<Arc<App>>) -> Json<Value> {
    let loaded = app.models.list().into_iter().filter(|m| m.loaded);
    let with = |m: Listed| {
        let mut v = line(&app, &m);
        v["size_vram"] = 0.into();
        v
    };
    Json(json!({"models": loaded.map(with).collect::<Vec<_>>()}))
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn show(call: Call) -> Result<Json<Value>, ApiError> {
    let form = Form::read(&SHOW_SHAPE, call.body)?;
    let name = form.text("model").or_else(|| form.text("name"));
    let m = model(&call.app, name).await?;
    let facts = &m.handle.plan().model;
    let template = m.template_source.as_deref().unwrap_or("");
    let mut can = vec!["completion", "embedding"];
    if m.template.is_some() && Style::detect(template, m.tokenizer()).is_some() {
        can.push("tools");
    }
    if template.contains(VARIABLE) {
        can.push("thinking");
    }
    let arch = facts.arch;
    Ok(Json(json!({
        "template": template,
        "parameters": "",
        "modified_at": stamp(Duration::from_secs(m.created)),
        "details": details(Some(&m)),
        "capabilities": can,
        "model_info": {
            "general.architecture": arch,
            format!("{arch}.block_count"): facts.layers,
            format!("{arch}.context_length"): facts.ctx_train,
            format!("{arch}.embedding_length"): facts.d,
            format!("{arch}.feed_forward_length"): facts.ff,
            format!("{arch}.attention.head_count"): facts.heads,
            format!("{arch}.attention.head_count_kv"): facts.kv_heads,
            format!("{arch}.vocab_size"): facts.vocab,
        },
    })))
}
